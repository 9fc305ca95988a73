"""Numbers in the middle of a training, and exact batch-norm statistics for them and for its end.

The moving averages of batch norm lag behind the weights, so a model is evaluated with the statistics of a number of
training batches instead (fvcore's precise batch norm). In the middle of a training they are taken back afterwards: an
evaluation leaves no trace, with or without it the last weights are the same, bit for bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn

from transfer.finetuning.accumulate import parts
from transfer.finetuning.training_images import train_loader
from transfer.settings.batch_scaling import images_at_once


def set_precise_statistics(cfg: CfgNode, model: nn.Module) -> None:
    """Batch-norm statistics of TEST.PRECISE_BN.NUM_ITER training batches, always the same ones of this process.

    They go through the network in the pieces of a training step, in an order that is none of the training's.
    """
    if not cfg.TEST.PRECISE_BN.ENABLED or not get_bn_modules(model):
        return
    at_once, number = images_at_once(cfg), cfg.TEST.PRECISE_BN.NUM_ITER
    batches = islice(train_loader(cfg, 0, cfg.SEED + 1), number)  # in the main process: nothing is left running
    pieces = (piece for batch in batches for piece in parts(batch, at_once // comm.get_world_size()))
    with EventStorage():  # what the model notes meanwhile is thrown away
        update_bn_stats(model, pieces, number * cfg.SOLVER.IMS_PER_BATCH // at_once)


class PreciseStatistics(HookBase):
    """Exact statistics after the last step, before it is saved."""

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        self.cfg, self.model = cfg, model

    def after_step(self) -> None:
        """At the end of the training."""
        if self.trainer.iter + 1 == self.trainer.max_iter:
            set_precise_statistics(self.cfg, self.model)


class EarlyNumbers(HookBase):
    """An evaluation every TEST.EVAL_PERIOD steps (not after the last one, which has its own), written as early/NAME
    by `writers` at once: at their own time they would write the latest of several only."""

    def __init__(self, cfg: CfgNode, model: nn.Module, evaluate: Callable[[nn.Module], dict[str, float]],
                 writers: list[EventWriter]) -> None:
        self.cfg, self.model, self.evaluate, self.writers = cfg, model, evaluate, writers

    def after_step(self) -> None:
        """Evaluate when it is time."""
        done = self.trainer.iter + 1
        if done % self.cfg.TEST.EVAL_PERIOD or done == self.trainer.max_iter:
            return
        with kept_statistics(self.model):
            set_precise_statistics(self.cfg, self.model)
            share_statistics(self.model)
            figures = self.evaluate(self.model)
        if comm.is_main_process():
            self.trainer.storage.put_scalars(smoothing_hint=False, **{f"early/{name}": value
                                                                      for name, value in figures.items()})
            for writer in self.writers:
                writer.write()
        comm.synchronize()


def share_statistics(model: nn.Module) -> None:
    """Every process takes the first one's statistics, those that a checkpoint would hold."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, the buffers of a model may change; afterwards they are what they were."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
