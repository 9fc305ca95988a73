"""One optimizer step in this process: what it changes, when the teacher follows, and what a NaN may not touch."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import pretrain.train
import pretrain.trainer
from pretrain.config import Config
from pretrain.data.batches import Batch, list_images, make_loader
from pretrain.distributed import Process
from pretrain.runs.drill import difference
from pretrain.trainer import Trainer
from tests.pretrain import exact_step

ALONE = Process(0, 1, torch.device("cpu"))
DISK_FULL = """
import errno, pathlib
original = pathlib.Path.write_bytes
def write_bytes(self, content):
    if "step_0000000{step}" not in self.name:
        return original(self, content)
    original(self, content[:len(content) // 2])
    raise OSError(errno.ENOSPC, "No space left on device", str(self))
pathlib.Path.write_bytes = write_bytes
"""


@pytest.fixture
def batches(photos: Path, tiny: Callable[..., Config]) -> Callable[[Config], list[Batch]]:
    return lambda config: list(make_loader(list_images(photos), config, range(2), ALONE))


def copied(state: object) -> object:
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list | tuple) else state


@pytest.mark.parametrize("changes", [
    {}, {"variant": "paper"}, {"attention": "normalized"}, {"attention": "none"}, {"precision": "bf16"},
    {"local_views": 0}, {"global_views": 3}, {"reduction": "sum"}, {"channels_last": False},
    {"t_pos_unit": "pixel", "t_pos": 12}, {"last_stage_stride": 2, "k": 2}, {"device_batch": 2},
    {"colour_on": "device"},
], ids=lambda changes: "-".join(f"{key}-{value}" for key, value in changes.items()) or "default")
def test_step__every_kind_of_run_takes_steps(tiny: Callable, batches: Callable, changes: dict) -> None:
    config = tiny(**changes)
    trainer, groups = Trainer(config, ALONE, 6, 2), batches(config)
    before = [value.clone() for value in trainer.student.parameters()]
    for step in range(2):
        result = trainer.step(step, groups[step * trainer.accumulation:(step + 1) * trainer.accumulation])
        assert all(math.isfinite(value) for value in result.values()) and result["loss"] > 1
        assert result["lr"] == trainer.lr(step) > 0
    moved = [not torch.equal(*pair) for pair in zip(trainer.student.parameters(), before, strict=True)]
    assert sum(moved) > len(moved) / 2
    assert all(value.isfinite().all() for value in trainer.student.state_dict().values())


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_step__nan_changes_nothing_at_all(tiny: Callable, batches: Callable, monkeypatch: pytest.MonkeyPatch,
                                          variant: str) -> None:
    """No update of weights, momentum, teacher, and no running statistics of the batch that gave the NaN."""
    config = tiny(variant=variant)
    trainer, (first, second, *_) = Trainer(config, ALONE, 6, 2), batches(config)
    trainer.step(0, [first])
    before = copied(trainer.state())
    true_normalise = pretrain.trainer.normalise
    monkeypatch.setattr(pretrain.trainer, "normalise", lambda pixels: true_normalise(pixels) * float("nan"))
    result = trainer.step(1, [second])
    assert math.isnan(result["loss"])
    assert difference(trainer.state(), before | {"skipped": [1, 1]}) == ""
    monkeypatch.setattr(pretrain.trainer, "normalise", true_normalise)
    assert math.isfinite(trainer.step(1, [second])["loss"])
    assert difference(trainer.state(), before) != ""


@pytest.mark.slow
def test_step__fp16_overflow_skips_the_update_and_halves_the_scale(tiny: Callable, batches: Callable) -> None:
    """A loss that is not finite leaves the scale alone: it is not the scale's fault."""
    config = tiny(precision="fp16")
    trainer, (first, second, *_) = Trainer(config, ALONE, 6, 2), batches(config)
    trainer.step(0, [first])
    trainer.scaler.update(2.0 ** 120)  # gradients of this loss do not fit
    before = copied(trainer.state())
    assert math.isfinite(trainer.step(1, [second])["loss"])
    after = copied(trainer.state())
    assert after["scaler"]["scale"] == 2.0 ** 119 and after["overflowed"] == [before["overflowed"][0] + 1, 1]
    assert difference(after["optimizer"]["state"], before["optimizer"]["state"]) == ""
    parameters = dict(trainer.student.named_parameters())
    assert all(torch.equal(value, before["student"][name]) for name, value in parameters.items())
    with torch.no_grad():
        trainer.student.attention.in_proj_bias.fill_(float("nan"))
    assert math.isnan(trainer.step(2, [second])["loss"])
    with torch.no_grad():
        trainer.student.attention.in_proj_bias.zero_()
    assert trainer.state()["scaler"] == after["scaler"]
    trainer.scaler.update(1024.0)
    trainer.step(3, [first])
    assert difference(trainer.state()["optimizer"]["state"], after["optimizer"]["state"]) != ""


def test_step__counts_the_batches_of_batch_norm_and_none_of_a_nan(tiny: Callable, batches: Callable) -> None:
    """Student: two sizes of views; teacher: one."""
    config = tiny(device_batch=2)
    trainer, groups = Trainer(config, ALONE, 6, 2), batches(config)
    trainer.step(0, groups[:2])
    with torch.no_grad():
        trainer.student.attention.in_proj_bias.fill_(float("nan"))
    trainer.step(1, groups[:2])
    assert int(trainer.student.encoder.bn1.num_batches_tracked) == 4
    assert int(trainer.student.projector[1].num_batches_tracked) == 4
    assert int(trainer.objective.follower.encoder.bn1.num_batches_tracked) == 2


def test_trainer__every_convolutions_weight_is_channels_last(tiny: Callable) -> None:
    """1x1 ones too, which count as either format: their kernels give gradients in this one, and where the weight has
    the other DistributedDataParallel copies the gradient in every step, and warns."""
    trainer = Trainer(tiny(), ALONE, 6, 2)
    weights = [value for network in trainer.objective.networks() for value in network.parameters() if value.dim() == 4]
    assert len(weights) > 30
    for weight in weights:
        _, channels, height, width = weight.shape
        assert weight.stride() == (channels * height * width, 1, channels * width, channels)


def test_trainer__compiles_both_networks_when_asked(tiny: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    Trainer(tiny(), ALONE, 6, 2)
    assert compiled == []
    Trainer(tiny(compile=True), ALONE, 6, 2)
    assert compiled == ["Student", "Teacher"]


def test_step__statistics_come_with_logged_steps_only(tiny: Callable, batches: Callable) -> None:
    config = tiny(log_every=2)
    trainer, groups = Trainer(config, ALONE, 6, 2), batches(config)
    with_statistics = ["positive_cosine" in trainer.step(step, groups[:1]) for step in range(6)]
    assert with_statistics == [True, True, False, True, False, True]


@pytest.mark.parametrize("timing", ["after_step", "before_step"])
def test_step__when_the_teacher_follows(tiny: Callable, batches: Callable, timing: str) -> None:
    """After the step it takes a share of the new student; before it (released), of the old one."""
    config = tiny(ema_timing=timing, teacher_momentum=0.7, base_lr=500.0)
    trainer, groups = Trainer(config, ALONE, 6, 2), batches(config)
    trainer.step(0, groups[:1])
    old_student = trainer.student.encoder.conv1.weight.detach().clone()
    old_teacher = trainer.objective.follower.encoder.conv1.weight.clone()
    result = trainer.step(1, groups[1:2])
    share = 1 - result["teacher_momentum"]
    assert 0.2 < share < 0.3
    source = trainer.student.encoder.conv1.weight.detach() if timing == "after_step" else old_student
    followed = trainer.objective.follower.encoder.conv1.weight
    torch.testing.assert_close(followed, old_teacher + share * (source - old_teacher))
    assert (trainer.student.encoder.conv1.weight - old_student).abs().max() > 1e-4


def test_schedules__are_per_optimizer_step(tiny: Callable) -> None:
    config = tiny(base_lr=64.0, batch_size=8, device_batch=4, epochs=4, warmup_epochs=1, final_lr=0.1)
    trainer = Trainer(config, ALONE, steps=20, per_epoch=5)
    assert [trainer.lr(step) for step in (0, 4, 5)] == pytest.approx([0.02, 2.0, 2.0])
    assert 0.2 < trainer.lr(19) < 0.25
    assert trainer.objective.momentum(0) == 0.99 and 0.999 < trainer.objective.momentum(19) < 1.0


def test_state__two_trainers_go_on_alike(tiny: Callable, batches: Callable) -> None:
    config = tiny()
    one, other, groups = Trainer(config, ALONE, 6, 2), Trainer(tiny(seed=7), ALONE, 6, 2), batches(config)
    one.step(0, groups[:1])
    assert difference(one.state()["student"], other.state()["student"]) != ""
    other.load(copied(one.state()))
    assert one.step(1, groups[1:2]) == other.step(1, groups[1:2])
    assert difference(one.state(), other.state()) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR2", 75)])
def test_command_line__signal_to_the_whole_group(photos: Path, run_pretrain: Callable, tmp_path: Path, name: str,
                                                 code: int) -> None:
    """As with Ctrl-C and with Slurm, while the loader is busy: its processes leave the decision to the training one.
    The training one finishes its step, whose micro-batches they still have to deliver, and saves."""
    done = run_pretrain(photos, tmp_path, at_step=(1, f"os.killpg(0, signal.{name})"), workers=2, device_batch=1)
    assert done.returncode == code, done.stderr
    assert "stopped after step 2, saved" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "checkpoints" / "step_00000002.json").is_file()


@pytest.mark.slow
def test_command_line__full_disk_is_one_line_and_the_run_goes_on_later(
    photos: Path, run_pretrain: Callable, tmp_path: Path
) -> None:
    full = run_pretrain(photos, tmp_path, prelude=DISK_FULL.format(step=4))
    assert full.returncode == 2 and "Traceback" not in full.stderr
    assert "error: No space left on device: " in full.stderr and "then run the same command again" in full.stderr
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000002.json", "step_00000002.pt"]
    again = run_pretrain(photos, tmp_path)
    assert again.returncode == 0 and "resumes from step 2 of 6" in again.stdout


@pytest.mark.parametrize(("changes", "text"), [
    ({"batch_size": 16}, "batch_size 16 needs at least as many images, found 9"),
    ({"epochs": "many"}, "epochs on the command line: expected a whole number below 2147483648, found 'many'"),
    ({"recipe": "none"}, "--recipe none: expected a YAML file or one of demo"),
], ids=["batch", "type", "recipe"])
def test_command_line__mistakes_are_one_line(cli: Callable, photos: Path, tmp_path: Path, changes: dict,
                                             text: str) -> None:
    done = cli(photos, tmp_path / "out", **changes)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and text in done.stderr and done.stderr.count("\n") == 1
    # The list of the images may lie there; the folder is bound to nothing, and the corrected command works in it.
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.slow
def test_command_line__a_probe_at_every_step_changes_no_weight(cli: Callable, photos: Path, tmp_path: Path) -> None:
    for name, every in (("without", 0), ("with", 1)):
        assert cli(photos, tmp_path / name, probe_every=every, epochs=2).returncode == 0
    with_probes = (tmp_path / "with" / "metrics.jsonl").read_text()
    assert with_probes.count("retrieval_backbone") == 5
    assert ((tmp_path / "with" / "backbone.safetensors").read_bytes()
            == (tmp_path / "without" / "backbone.safetensors").read_bytes())


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_loss__teachers_kept_casts_are_what_autocast_makes(tiny: Callable, batches: Callable, precision: str) -> None:
    """Bit for bit: at the start, after steps of the moving average, and after a checkpoint was loaded."""
    config = tiny(precision=precision, batch_size=2, local_views=0)  # bf16 is emulated on many CPUs
    trainer, other, (first, second, *_) = Trainer(config, ALONE, 6, 2), Trainer(config, ALONE, 6, 2), batches(config)
    assert len(trainer.objective.follower.cast) > 15

    def without_casts(one: Trainer) -> float:
        kept, one.objective.follower.cast = one.objective.follower.cast, {}
        loss, _ = one.loss(first)
        one.objective.follower.cast = kept
        return float(loss)

    assert float(trainer.loss(first)[0]) == without_casts(trainer)
    for number, batch in enumerate((first, second)):
        trainer.step(number, [batch])
    assert float(trainer.loss(first)[0]) == without_casts(trainer) != without_casts(other)
    other.load(copied(trainer.state()))
    assert float(other.loss(first)[0]) == without_casts(other)
    assert not any("cast" in name for name in trainer.objective.follower.state_dict())


def test_loss__without_autocast_or_compiled_nothing_is_kept(tiny: Callable) -> None:
    assert not Trainer(tiny(), ALONE, 6, 2).objective.follower.cast
    assert not Trainer(tiny(precision="bf16", compile=True), ALONE, 6, 2).objective.follower.cast


def without_batch_norm(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        else:
            without_batch_norm(child)
    return module


@pytest.mark.slow
def test_step__two_micro_batches_of_four_equal_one_of_eight_without_batch_norm(
    tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain.trainer.distributed, "synchronise_batch_norm",
                        lambda module, process: without_batch_norm(module))
    results = []
    for micro in (4, 8):
        config = tiny(batch_size=8, device_batch=micro, local_views=2)
        whole = exact_step.batch(8, 0, config)
        parts = [exact_step.part(whole, first, first + micro) for first in range(0, 8, micro)]
        results.append(exact_step.one_step(config, ALONE, parts))
    exact_step.close(results[0], results[1], tolerance=1e-9)
    assert results[0]["result"] == pytest.approx(results[1]["result"], rel=1e-5, abs=1e-6)
