"""Pretraining on a GPU that is not there: nothing on the wrong device, and the host waits once a step.

`tests/fake_gpu.py` says what is real in it.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pretrain.trainer
from pretrain.common.architectures import ARCHITECTURES
from pretrain.config import Config
from pretrain.data.batches import Batch, list_images
from pretrain.distributed import Process
from pretrain.trainer import Trainer
from pretrain.watch.probes import Probe
from tests.fake_gpu import GPU, Alone, Watch, fake_gpu
from tests.pretrain.objectives.test_objectives import CLASSES, EXAMPLES, OWN, labelled, settings

PROCESSES = 8


@pytest.fixture(autouse=True)
def _examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOVE_OBJECTIVES", os.pathsep.join(map(str, sorted(EXAMPLES.glob("*.py")))))
    monkeypatch.setattr(pretrain.trainer, "DistributedDataParallel", Alone)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ResNet-18 of one block a stage: every kind of layer, in less time."""
    monkeypatch.setitem(ARCHITECTURES, "resnet18", replace(ARCHITECTURES["resnet18"], layers=(1, 1, 1, 1)))


@pytest.fixture
def watch() -> Iterator[Watch]:
    with fake_gpu(PROCESSES) as watching:
        yield watching


def pinned(watch: Watch, config: Config, images: int) -> Batch:
    """A micro-batch as the loader gives it to a GPU."""
    batch = labelled(config, images)
    if config.train.colour_on == "device":
        batch.colours = [colours(*views.shape[:2]) for views in batch.views]
    watch.pin([*batch.views, *batch.boxes, *batch.colours, batch.sizes, batch.labels])
    return batch


def colours(views: int, images: int) -> Tensor:
    """Every operation in every place, on some views."""
    rows = torch.rand(views, images, 11)
    rows[..., :4] = (torch.arange(4) + torch.arange(images)[:, None]) % 4
    return rows


def steps(watch: Watch, config: Config, processes: int = PROCESSES) -> Trainer:
    """Two steps; `watch` has what the second one did: the first makes what is kept."""
    trainer = Trainer(config, Process(0, processes, GPU), 6, 2, CLASSES)
    for step in range(2):
        watch.counts.clear()
        watch.where.clear()
        result = trainer.step(step, [pinned(watch, config, 2) for _ in range(trainer.accumulation)])
    assert result["loss"] == 1.0  # the answer to every question for values
    return trainer


def looked_at(trainer: Trainer, watch: Watch) -> None:
    """What holds after a step of every kind."""
    assert len(watch.where) == watch.counts["read"] == 1, watch.where
    parameters = dict(trainer.student.named_parameters())
    assert [name for name, value in parameters.items() if value.grad is None] == []
    assert {(value.grad.dtype, value.grad.device) for value in parameters.values()} == {(torch.float32, GPU)}
    tensors = [*parameters.values(), *trainer.student.buffers()]
    tensors += [value for state in trainer.optimizer.state.values() for value in state.values()]
    assert {value.device for value in tensors} == {GPU}
    assert trainer.kernels == {"cudnn_benchmark": True, "tf32": False, "deterministic": False}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("precision", "colour_on"), [
    ("fp32", "loader"), ("bf16", "device"), ("fp16", "loader"),
    *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("fp32", "device"), ("bf16", "loader"),
                                                                ("fp16", "device")))])
def test_step__precisions_and_places_of_colour(watch: Watch, precision: str, colour_on: str) -> None:
    config = settings("clove", precision=precision, colour_on=colour_on, device="cuda", batch_size=16, device_batch=2)
    trainer = steps(watch, config)
    looked_at(trainer, watch)
    layers = [sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
              for network in trainer.objective.networks()]
    assert layers[0] == layers[1] == 14
    # Two sizes of views, forward and backward, and one through the teacher; the last one is the mean of the loss.
    assert watch.counts["all_reduce"] == 5 * layers[0] + 1
    assert watch.counts["other collective"] == 0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", sorted(set(OWN) - {"clove"}))
def test_step__objectives(watch: Watch, name: str) -> None:
    config = settings(name, precision="fp16", device="cuda", batch_size=16, device_batch=2)
    looked_at(steps(watch, config), watch)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("variant", ["paper", pytest.param("released", marks=pytest.mark.slow)])
def test_step__one_process_and_two_micro_batches(variant: str) -> None:
    config = settings("clove", precision="bf16", device="cuda", batch_size=4, device_batch=2, variant=variant)
    with fake_gpu() as watch:
        looked_at(steps(watch, config, processes=1), watch)
    assert watch.counts == {"read": 1}


def test_forward__resnet50_needs_165_all_reduces(watch: Watch) -> None:
    """53 layers of the encoder and 2 of the projector: two sizes of views in the student, one in the teacher."""
    config = settings("clove", architecture="resnet50", device="cuda", batch_size=32, device_batch=2)
    trainer = Trainer(config, Process(0, PROCESSES, GPU), 6, 2, CLASSES)
    batch = pinned(watch, config, 2)
    with torch.no_grad():
        trainer.loss(batch)
    assert watch.counts["all_reduce"] == 165 and watch.counts["other collective"] == 0


@pytest.mark.usefixtures("small")
def test_probes(watch: Watch, photos: Path) -> None:
    config = settings("clove", precision="bf16", device="cuda", batch_size=32, device_batch=2)
    trainer = Trainer(config, Process(0, PROCESSES, GPU), 6, 2, CLASSES)
    probe = Probe(list_images(photos), config, GPU)
    for _ in range(2):  # the first makes what is kept
        watch.counts.clear()
        watch.where.clear()
        values = probe(trainer.objective)
    assert watch.counts["read"] <= 6 and watch.counts["blocking copy"] <= 9, watch.where  # once in hundreds of steps
    assert watch.counts["boolean index"] == watch.counts["unknown shape"] == 0
    assert {"retrieval_backbone", "retrieval_contextualized", "effective_rank_backbone"} <= set(values)


# What the watch must see.


def test_watch__a_tensor_on_the_wrong_device_is_an_error(watch: Watch) -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device=GPU) + torch.ones(3)
    with pytest.raises(RuntimeError, match="device"):
        nn.Linear(3, 2).to(GPU)(torch.ones(1, 3))


def test_watch__counts_what_makes_the_host_wait(watch: Watch) -> None:
    host, other, x = torch.ones(3), torch.ones(3), torch.ones(3, device=GPU)
    watch.pin([other])
    other[1:].to(GPU, non_blocking=True)
    assert not watch.counts
    for waits in (lambda: host.to(GPU, non_blocking=True), lambda: other.to(GPU), lambda: x.cpu(),
                  lambda: x.copy_(host), lambda: torch.tensor([1.0], device=GPU)):
        watch.counts.clear()
        waits()
        assert watch.counts == {"blocking copy": 1}
    for reads in (x.sum().item, lambda: bool(x.any()), x.tolist, lambda: float(x[0])):
        watch.counts.clear()
        reads()
        assert watch.counts == {"read": 1}
    for picks in (lambda: x[x > 0], (x > 0).nonzero, lambda: x.__setitem__(x > 0, x)):
        watch.counts.clear()
        picks()
        assert watch.counts == {"boolean index": 1}


def test_watch__gradients_are_those_of_the_engine() -> None:
    """The walk over the graph, on true tensors."""
    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        x = torch.randn(4, 3, requires_grad=True)
        layer = nn.Linear(3, 2)
        y = layer(x)
        parts = torch.cat([y, y[:2].relu(), layer(x[:1]) * x.sum()]).split(2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = layer(x)
        (parts[0].square().sum() + (parts[2] * 2).mean() + low.float().sum()).backward()
        return [x.grad, layer.weight.grad, layer.bias.grad]

    expected = gradients()
    with fake_gpu():
        found = gradients()
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
