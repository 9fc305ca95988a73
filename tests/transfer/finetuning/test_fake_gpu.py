"""A fine-tuning step on a GPU that is not there: nothing on the wrong device, and what the host waits for is counted.

`tests/fake_gpu.py` says what is real in it.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from tests.fake_gpu import GPU, Alone, fake_gpu
from transfer import detectron2_compat
from transfer.finetuning import trainer
from transfer.finetuning.batch_norm import CountedBatchNorm, joined
from transfer.finetuning.training_images import train_loader
from transfer.settings import datasets, resolved_config
from transfer.settings.start_weights import read_weights


@pytest.fixture
def resolved(thin_request: Callable, tmp_path: Path) -> Callable[..., CfgNode]:
    """resolved(task, *overrides, **words): the config of a small fine-tuning on a GPU, its data registered."""
    def build(task: str, *overrides: str, **words: object) -> CfgNode:
        detectron2_compat.apply()
        request = thin_request(tmp_path, task, *overrides, device="cuda", **words)
        dataset = datasets.find(request.data, task)
        datasets.register(dataset)
        return resolved_config.resolve(dataset, request, read_weights("random", "resnet18"), "cuda")
    return build


def second_step(cfg: CfgNode, processes: int = 1) -> tuple[trainer.AccumulatingTrainer, Counter]:
    """The trainer after two steps, and how often the host waited in the second: the first makes what is kept."""
    loader = iter(train_loader(cfg, 0, 0))
    batches = [next(loader)[:cfg.SOLVER.IMS_PER_BATCH // processes] for _ in range(2)]
    with fake_gpu(processes) as watch, EventStorage(0):
        made = trainer.trainer_of(cfg, joined(build_model(cfg)))
        made._data_loader_iter_obj = iter(batches)
        for _ in batches:
            watch.counts.clear()
            watch.where.clear()
            made.run_step()
    for line, times in Counter(watch.where).most_common():
        print(times, line)
    return made, watch.counts


@pytest.mark.parametrize(("task", "overrides", "fit", "pieces", "waits"), [
    ("coco", (), None, 1, (53, 33, 21, 4)),
    ("keypoints", ("SOLVER.AMP.PRECISION=bf16",), None, 1, (60, 27, 17, 4)),
    ("cityscapes", ("SOLVER.IMS_PER_BATCH=4", "SOLVER.AMP.ENABLED=True"), "accumulate=2", 2, (53, 31, 22, 4))])
def test_step__everything_is_on_the_gpu(
    resolved: Callable, task: str, overrides: tuple, fit: str | None, pieces: int, waits: tuple
) -> None:
    """waits: of each piece of two images, in detectron2's code but for one read of each loss; no more may come."""
    made, counts = second_step(resolved(task, *overrides, fit=fit))
    most = dict(zip(("boolean index", "blocking copy", "read", "unknown shape"), waits, strict=True))
    assert counts.keys() == most.keys()
    assert {kind: times for kind, times in counts.items() if times > pieces * most[kind]} == {}
    weights = dict(made.model.named_parameters())
    assert [name for name, value in weights.items() if value.requires_grad and value.grad is None] == []
    grads = [value.grad for value in weights.values() if value.grad is not None]
    assert {(value.device, value.dtype) for value in grads} == {(GPU, torch.float32)}
    kept = [value for state in made.optimizer.state.values() for value in state.values()]
    assert {value.device for value in [*weights.values(), *made.model.buffers(), *kept]} == {GPU}


def test_step__of_eight_processes_takes_one_all_reduce_each_way_in_a_layer(
    resolved: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 batch norm layers of the backbone, 8 of the pyramid, 4 of either head; the host waits no oftener than with
    one process."""
    monkeypatch.setattr("detectron2.engine.train_loop.comm.gather", lambda metrics: [metrics])  # of the hosts
    monkeypatch.setattr("detectron2.engine.defaults.comm.get_local_rank", lambda: 0)
    monkeypatch.setattr("detectron2.engine.defaults.DistributedDataParallel", Alone)
    made, counts = second_step(resolved("coco", "SOLVER.IMS_PER_BATCH=16", num_gpus=8), processes=8)
    layers = [layer for layer in made.model.modules() if isinstance(layer, CountedBatchNorm)]
    assert len(layers) == 36 and counts.pop("all_reduce") == 2 * 36
    assert counts["boolean index"] <= 53 and counts["blocking copy"] <= 33 and counts["read"] <= 21
    assert set(counts) <= {"boolean index", "blocking copy", "read", "unknown shape"}
