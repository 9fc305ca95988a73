"""The training loop of one fine-tuning: detectron2's parts, put together so that a killed run goes on.

A checkpoint holds model, optimiser, schedule, iteration and the seconds spent; a run that is started again takes the
newest good one and goes on with the images that come after those it has seen. Every random choice depends on its
place in the run alone, so that on a CPU the weights are those of an uninterrupted run, bit for bit.
"""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, create_ddp_model, hooks
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from torch import nn
from tqdm import tqdm

from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError
from pretrain.common.signals import Stop, never
from pretrain.runs.metrics import lines_until
from transfer.finetuning.accumulate import AccumulatingTrainer
from transfer.finetuning.checkpoints import FINAL, Checkpoints, steps_done
from transfer.finetuning.early_evaluation import EarlyNumbers, PreciseStatistics
from transfer.finetuning.training_images import train_loader
from transfer.settings.batch_scaling import images_at_once

METRICS = "metrics.json"  # one object a line
WRITE_PERIOD = 20  # iterations between two lines of it


class TrainingFailed(RuntimeError):
    """The loss is no number any more: the run has no result."""


class Clock(HookBase):
    """Seconds spent over all parts of an interrupted run, and when the first of them began (ISO 8601, UTC)."""

    def __init__(self) -> None:
        self.before, self.since = 0.0, time.perf_counter()
        self.started = datetime.now(UTC).isoformat(timespec="seconds")

    @property
    def seconds(self) -> float:
        """Seconds until now, those of earlier parts included."""
        return self.before + time.perf_counter() - self.since

    def state_dict(self) -> dict:
        """What a checkpoint keeps."""
        return {"seconds": self.seconds, "started": self.started}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a checkpoint."""
        self.before, self.started = state["seconds"], state["started"]


class SaveHook(HookBase):
    """A checkpoint every `period` iterations, at the end, and when `stop` asks to leave: then the process does."""

    def __init__(self, checkpoints: Checkpoints, period: int, clock: Clock, stop: Stop) -> None:
        self.checkpoints, self.period, self.clock, self.stop = checkpoints, period, clock, stop

    def after_step(self) -> None:
        """Save when it is time."""
        done, code = self.trainer.iter + 1, max(comm.all_gather(self.stop()))  # all stop after the same step
        if done == self.trainer.max_iter:
            self.checkpoints.save(Path(FINAL).stem, iteration=self.trainer.iter, clock=self.clock.state_dict())
        elif done % self.period == 0 or code:
            self.checkpoints.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
        if code:
            comm.synchronize()  # the first process has saved
            if comm.is_main_process():
                print(f"stopped after iteration {done} of {self.trainer.max_iter}, saved; start again with the same "
                      "words to go on", file=sys.stderr)
            sys.exit(code)


class Progress(HookBase):
    """A bar on stderr: iterations, time left, loss."""

    def __init__(self, title: str) -> None:
        self.title, self.bar = title, None

    def before_train(self) -> None:
        """Open the bar where the run goes on."""
        trainer = self.trainer
        self.bar = tqdm(total=trainer.max_iter, initial=trainer.start_iter, desc=self.title, unit="it",
                        mininterval=0.5 if sys.stderr.isatty() else 15, dynamic_ncols=True)

    def after_step(self) -> None:
        """One iteration on."""
        loss = self.trainer.storage.latest().get("total_loss")
        if loss is not None:
            self.bar.set_postfix(loss=f"{loss[0]:.3f}", refresh=False)
        self.bar.update()

    def after_train(self) -> None:
        """Close the bar, also after an error."""
        self.bar.close()


class SeededSteps(HookBase):
    """The random choices of a step (regions of interest) depend on (seed, process, iteration) alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        """Set torch's generators, on every device."""
        words = np.random.SeedSequence([self.seed, comm.get_rank(), self.trainer.iter])
        torch.manual_seed(int(words.generate_state(1, np.uint64)[0]))


def train(cfg: CfgNode, model: nn.Module, title: str, on_start: Callable[[nn.Module], None],
          early: Callable[[nn.Module], dict[str, float]], stop: Stop = never) -> Clock:
    """Train `model` to the end of the schedule, from the newest checkpoint in `cfg.OUTPUT_DIR` or from its weights.

    `on_start(model)` is called when the starting weights have been loaded, not when going on; `early(model)` is
    evaluated every TEST.EVAL_PERIOD iterations. `stop` is asked after each iteration, on every process: when any of
    them answers an exit code, all leave with it (SystemExit), saved. Afterwards the model holds what the final
    checkpoint holds: with several processes the batch norm statistics of the first one. Raises `TrainingFailed` naming
    the iteration when the loss is not finite.
    """
    clock, checkpoints = Clock(), Checkpoints(model, cfg.OUTPUT_DIR)
    newest = checkpoints.newest_good()
    if newest is not None and newest.name == FINAL:
        clock.load_state_dict(checkpoints.load(str(newest), [])["clock"])
        return clock
    if newest is None:
        checkpoints.load(cfg.MODEL.WEIGHTS, [])
        on_start(model)
    if cfg.SOLVER.MAX_ITER == 0:  # the start itself is evaluated
        checkpoints.save(Path(FINAL).stem, iteration=-1, clock=clock.state_dict())
        return clock
    done = steps_done(newest)
    trainer = _assemble(cfg, model, checkpoints, clock, title, early, stop, done)
    if newest is not None:
        checkpoints.load(str(newest))
    trainer.data_loader = train_loader(cfg, cfg.DATALOADER.NUM_WORKERS, cfg.SEED, skip=done)
    try:
        trainer.train(done, cfg.SOLVER.MAX_ITER)
    except FloatingPointError as error:
        raise TrainingFailed(f"the loss became infinite or NaN at iteration {trainer.iter} of {cfg.SOLVER.MAX_ITER}; "
                             f"no result is written. Lower SOLVER.BASE_LR ({cfg.SOLVER.BASE_LR}) or lengthen "
                             f"SOLVER.WARMUP_ITERS; log.txt says more ({str(error).splitlines()[0]})") from None
    finally:
        trainer.close()
    comm.synchronize()
    checkpoints.load(str(Path(cfg.OUTPUT_DIR, FINAL)), [])
    return clock


def _assemble(cfg: CfgNode, model: nn.Module, checkpoints: Checkpoints, clock: Clock, title: str,
              early: Callable[[nn.Module], dict[str, float]], stop: Stop, done: int) -> AccumulatingTrainer:
    """The trainer with its hooks, still without data; it is what `checkpoints` saves and loads beside the model.

    `done`: iterations that it will not take; what was noted of later ones is forgotten, for they come again.
    """
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE != "cuda":
        raise UserError(f"SOLVER.AMP.ENABLED True with device {cfg.MODEL.DEVICE}: half precision wants a GPU, set it "
                        "to False")
    optimizer = build_optimizer(cfg, model)
    devices = {} if cfg.MODEL.DEVICE == "cuda" else {"device_ids": None}
    parallel = create_ddp_model(model, broadcast_buffers=False, **devices)
    trainer = AccumulatingTrainer(parallel, optimizer, images_at_once(cfg) // comm.get_world_size(),
                                  half=cfg.SOLVER.AMP.ENABLED)
    checkpoints.add_checkpointable("trainer", trainer)
    parts = [SeededSteps(cfg.SEED), clock, hooks.IterationTimer(),
             hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer)), PreciseStatistics(cfg, parallel),
             SaveHook(checkpoints, cfg.SOLVER.CHECKPOINT_PERIOD, clock, stop)]
    writers = []
    if comm.is_main_process():
        metrics = Path(cfg.OUTPUT_DIR, METRICS)
        if metrics.is_file():
            write_text(metrics, "".join(line + "\n" for line, _ in lines_until(metrics, "iteration", done - 1)))
        writers = [JSONWriter(str(metrics)), TensorboardXWriter(cfg.OUTPUT_DIR, purge_step=done or None)]
    if cfg.TEST.EVAL_PERIOD:
        parts.append(EarlyNumbers(cfg, parallel, early, writers))
    if writers:
        parts += [hooks.PeriodicWriter(writers, WRITE_PERIOD), Progress(title)]
    trainer.register_hooks(parts)
    return trainer
