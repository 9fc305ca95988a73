"""The step and its plain reference: the same losses and weights; how many operations and host waits a step takes.

The times are measured by `clove speed step`, not here.
"""

import argparse
from collections.abc import Callable, Iterator

import pytest
import torch

from benchmarks.speed import step as step_benchmark
from benchmarks.speed.counting import count
from benchmarks.speed.step import made_batch, our_side, parser, reference_side, settings
from pretrain.common.errors import UserError
from pretrain.config import load_config
from pretrain.distributed import Process
from pretrain.trainer import Trainer


@pytest.fixture
def options() -> Callable[..., argparse.Namespace]:
    """options(**changes): the command line's values for a network and views that take a second a step."""
    small = {"batch": 3, "global_size": 128, "local_size": 64, "hidden": 32, "architecture": "resnet18"}
    return lambda **changes: argparse.Namespace(**vars(parser().parse_args([])) | small | changes)


@pytest.fixture
def float64() -> Iterator[None]:
    """Differences that are left are mistakes and not rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_reference__gives_our_losses_and_weights(options: Callable, float64: None) -> None:
    config = settings(options(local_views=2))
    trainer, ours = our_side(config)
    reference, plain = reference_side(trainer)
    initial = {name: value.clone() for name, value in trainer.student.state_dict().items()}
    for number in range(2):
        batch = made_batch(config, seed=number)
        assert ours(number, batch) == pytest.approx(plain(number, batch), rel=1e-6)  # ours is reported in float32
    moved = 0
    references = (reference.networks.student, reference.networks.teacher)
    for network, same in zip(trainer.objective.networks(), references, strict=True):
        found, expected = network.state_dict(), same.state_dict()
        assert set(found) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-12, msg=name)
    for name, value in trainer.student.state_dict().items():
        moved += not torch.equal(value, initial[name])
    assert moved > 0.9 * len(initial)


@pytest.mark.parametrize(("precision", "variant"), [
    ("fp32", "paper"), pytest.param("bf16", "paper", marks=pytest.mark.slow),
    pytest.param("fp32", "released", marks=pytest.mark.slow), pytest.param("bf16", "released", marks=pytest.mark.slow)])
def test_step__few_operations_and_one_wait_logged_or_not(precision: str, variant: str) -> None:
    """Two global and six local views through a ResNet-50, forward, backward, LARS and teacher."""
    config = load_config(None, {
        "variant": variant, "precision": precision, "batch_size": 2, "device_batch": 2, "global_size": 128,
        "local_size": 32, "projector_hidden": 64, "device": "cpu", "log_every": 1000})
    trainer, batch = Trainer(config, Process(0, 1, torch.device("cpu")), 100, 10), made_batch(config)
    trainer.step(2, [batch])
    for number, logged in ((1, False), (0, True)):  # the first step of a run gets a line of metrics
        results = []
        found = count(lambda number=number, results=results: results.append(trainer.step(number, [batch])))
        assert (set(results[0]) == {"loss", "lr", "teacher_momentum"}) != logged
        assert 1000 < found.operations <= 1480
        assert found.waits == 1


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.longest)])
def test_step__one_wait_when_logged_and_with_the_loss_scaler(options: Callable, precision: str) -> None:
    config = settings(options(), precision)
    trainer, batch = Trainer(config, Process(0, 1, torch.device("cpu")), 3, 1), made_batch(config)
    trainer.step(0, [batch])
    results = []
    found = count(lambda: results.append(trainer.step(2, [batch])))
    assert "positive_cosine" in results[0] and found.waits == 1


def test_step__a_non_finite_loss_waits_once_too(options: Callable) -> None:
    config = settings(options())
    trainer, batch = Trainer(config, Process(0, 1, torch.device("cpu")), 3, 1), made_batch(config)
    trainer.step(0, [batch])
    with torch.no_grad():
        trainer.student.attention.in_proj_bias.fill_(float("nan"))
    assert count(lambda: trainer.step(1, [batch])).waits == 1


def test_count__sees_waits_and_operations_but_no_views() -> None:
    values = torch.arange(6.0)
    assert count(lambda: values.view(2, 3).t()[0]).operations == 0
    assert count(lambda: values + 1).operations == 1
    for function in (lambda: values.sum().item(), lambda: bool(values.sum() > 0), values.tolist, values.nonzero,
                     lambda: values[values > 2], lambda: torch.tensor([1.0, 2.0])):
        assert count(function).waits == 1
    assert count(lambda: torch.where(values > 2, values, 0.0)).waits == 0


def test_reference__asks_for_every_norm(options: Callable) -> None:
    config = settings(options())
    reference, plain = reference_side(our_side(config)[0])
    batch = made_batch(config)
    plain(0, batch)
    matrices = sum(weight.dim() > 1 for weight in reference.networks.student.parameters())
    assert count(lambda: plain(1, batch)).waits >= 2 * matrices


@pytest.mark.slow
def test_report__names_the_machine_and_both_ratios(
    options: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {"reference": [(3.0, 6.0), (4.0, 8.0), (5.0, 10.0)], "fp32": [(2.0, 3.0)] * 3,
             "bf16": [(1.0, 2.0), (2.0, 2.0), (1.0, 2.0)]}
    monkeypatch.setattr(step_benchmark, "measure", lambda _: times)
    monkeypatch.setattr(step_benchmark, "peak_memory", lambda _, side: {"reference": 3.0}.get(side, 2.5))
    step_benchmark.report(options())
    printed = capsys.readouterr().out
    assert "cores, torch" in printed and "resnet18, 3 images, 2 x 128 + 6 x 64" in printed
    assert "fp32: 2.00 times the reference (median; 1.50 to 2.50); by processor time 2.67" in printed
    assert "bf16: 3.00 times the reference (median; 2.00 to 5.00); by processor time 4.00" in printed


@pytest.mark.slow
def test_peak_memory__is_that_of_a_process_of_its_own(options: Callable) -> None:
    ballast = torch.ones(400 * 2 ** 20)  # 1.6 GB here may not count there
    assert 0.1 < step_benchmark.peak_memory(options(), "fp32") < ballast.nbytes / 2 ** 30


@pytest.mark.parametrize("words", [["--batch", "1"], ["--global-size", "64"], ["--steps", "0"]])
def test_main__sizes_that_cannot_work_are_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match="expected at least --batch 2"):
        step_benchmark.main(words)


@pytest.mark.slow
def test_peak_memory__is_no_higher_than_the_references() -> None:
    options = step_benchmark.parser().parse_args(["--architecture", "resnet18", "--batch", "4", "--global-size", "128",
                                        "--local-size", "64", "--threads", "1"])
    ours, plain = (step_benchmark.peak_memory(options, side) for side in ("fp32", "reference"))
    assert ours < 1.02 * plain  # the allocator varies by a hundredth


def test_measured__bf16_is_left_out_where_it_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, sides in (("AVX2", step_benchmark.SIDES[:2]), ("AVX512", step_benchmark.SIDES)):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda capability=capability: capability)
        assert step_benchmark.measured() == sides
