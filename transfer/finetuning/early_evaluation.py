"""Metrics in the middle of a training, and exact batch-norm statistics for them and for its end.

The moving averages of batch norm lag behind the weights, so a model is evaluated with the
statistics of a number of training batches instead (fvcore's precise batch norm). In the middle of
a training they are taken back afterwards: with or without an early evaluation the last weights
are the same, bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn

from pretrain.common import stalls
from transfer.data.dataset import Dataset
from transfer.finetuning import evaluate
from transfer.finetuning.accumulate import parts
from transfer.finetuning.training_images import train_loader
from transfer.settings.batch_scaling import images_at_once


def set_precise_statistics(cfg: CfgNode, model: nn.Module) -> None:
    """Give `model` the batch-norm statistics of TEST.PRECISE_BN.NUM_ITER training batches.

    A process always takes the same batches, in an order of their own. They go through the network
    in the pieces of a training step.
    """
    if not cfg.TEST.PRECISE_BN.ENABLED or not get_bn_modules(model):
        return
    at_once, number = images_at_once(cfg), cfg.TEST.PRECISE_BN.NUM_ITER
    batches = islice(train_loader(cfg, 0, cfg.SEED + 1), number)  # 0 workers: none is left running
    pieces = (piece for batch in batches for piece in parts(batch, at_once // comm.get_world_size()))
    with EventStorage():  # what the model notes meanwhile is thrown away
        update_bn_stats(model, pieces, number * cfg.SOLVER.IMS_PER_BATCH // at_once)


class PreciseStatistics(HookBase):
    """Exact statistics after the last step, before it is saved."""

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        self.cfg, self.model = cfg, model

    def after_step(self) -> None:
        if self.trainer.iter + 1 == self.trainer.max_iter:
            with stalls.slow():
                set_precise_statistics(self.cfg, self.model)


class EarlyEvaluation(HookBase):
    """An evaluation every TEST.EVAL_PERIOD steps, not after the last one, which has its own.

    `writers` write the metrics as early/NAME at once: at their own time they would write the latest
    of several only.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, dataset: Dataset, writers: list[EventWriter]) -> None:
        self.cfg, self.model, self.dataset, self.writers = cfg, model, dataset, writers

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.cfg.TEST.EVAL_PERIOD or done == self.trainer.max_iter:
            return
        self._evaluate()

    @stalls.slow()
    def _evaluate(self) -> None:
        with kept_statistics(self.model):
            set_precise_statistics(self.cfg, self.model)
            if comm.get_world_size() > 1:  # those of the first process, as in a checkpoint
                for buffer in self.model.buffers():
                    torch.distributed.broadcast(buffer, 0)
            metrics = evaluate.evaluate(self.model, self.cfg, self.dataset)
        if comm.is_main_process():
            for name, value in evaluate.columns(self.dataset.task, metrics).items():
                if value is not None:
                    self.trainer.storage.put_scalar(f"early/{name}", value, smoothing_hint=False)
            for writer in self.writers:
                writer.write()
        comm.synchronize()


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, the buffers of a model may change; afterwards they are what they were."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
