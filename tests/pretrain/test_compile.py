"""`--compile true` on several processes: student and teacher are one graph each, forward and backward.

Traced and differentiated as torch.compile does it; the compiler's own kernels are left out, they need a C++ compiler
and minutes.
"""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo.utils import counters
from torch.testing._internal.distributed.fake_pg import FakeStore

import pretrain.trainer
from pretrain.batch_norm import SynchronisedBatchNorm
from pretrain.distributed import Process
from pretrain.trainer import Trainer
from tests.fake_gpu import Alone
from tests.pretrain.objectives.test_objectives import labelled, settings

PROCESSES = 8


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of eight of which this process is the first and the others are not there."""
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled(module, backend="aot_eager"))
    monkeypatch.setattr(pretrain.trainer, "DistributedDataParallel", Alone)
    torch._dynamo.reset()
    counters.clear()
    dist.init_process_group("fake", rank=0, world_size=PROCESSES, store=FakeStore())
    yield
    dist.destroy_process_group()
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_step__of_a_resnet50_has_no_graph_break() -> None:
    config = settings("clove", architecture="resnet50", precision="fp32", compile=True, batch_size=32,
                      device_batch=2)
    trainer = Trainer(config, Process(0, PROCESSES, torch.device("cpu")), 6, 2)
    layers = [layer for layer in trainer.student.modules() if isinstance(layer, SynchronisedBatchNorm)]
    assert len(layers) == 55 and trainer.accumulation == 2
    for step in range(3):
        result = trainer.step(step, [labelled(config, 2) for _ in range(trainer.accumulation)])
        assert result["loss"] > 0
        assert not counters["graph_break"], dict(counters["graph_break"])
        assert counters["stats"]["unique_graphs"] == 2  # student and teacher, and none anew in a later step
    assert all(layer.num_batches_tracked == 12 for layer in layers)  # two sizes of views, two pieces, three steps
