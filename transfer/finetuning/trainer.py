"""The training loop of one fine-tuning: detectron2's parts, put together so that a killed run
resumes.

A checkpoint holds model, optimiser, schedule, iteration, the seconds spent and the last values of
the curves; a run that is started again takes the newest good one and continues with the images
after those it has seen. Every random choice depends on its place in the run alone, so that on a
CPU the weights are those of an uninterrupted run, bit for bit.
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
from torch import nn
from tqdm import tqdm

from pretrain.common import stalls
from pretrain.common.errors import UserError, refuse
from pretrain.common.signals import Stop, never
from transfer.conversion.proof import assert_loaded
from transfer.data.dataset import Dataset
from transfer.finetuning.accumulate import AccumulatingTrainer
from transfer.finetuning.checkpoints import FINAL, Checkpoints, steps_done
from transfer.finetuning.curves import Curves
from transfer.finetuning.early_evaluation import EarlyEvaluation, PreciseStatistics
from transfer.finetuning.training_images import train_loader
from transfer.records.same_run import SameRun
from transfer.settings.batch_scaling import images_at_once

WRITE_PERIOD = 20  # iterations between two lines of it


class TrainingFailed(UserError):
    """The loss is infinite or NaN: the run has no result."""

    exit_code = 3


class Clock(HookBase):
    """Seconds spent over all parts of an interrupted run, and when the first of them began (ISO
    8601, UTC)."""

    def __init__(self) -> None:
        self.before, self.since = 0.0, time.perf_counter()
        self.started = datetime.now(UTC).isoformat(timespec="seconds")

    @property
    def seconds(self) -> float:
        """Seconds until now, with those of earlier parts."""
        return self.before + time.perf_counter() - self.since

    def state_dict(self) -> dict:
        return {"seconds": self.seconds, "started": self.started}

    def load_state_dict(self, state: dict) -> None:
        self.before, self.started = state["seconds"], state["started"]


class SaveHook(HookBase):
    """A checkpoint every `period` iterations, at the end, and before the process leaves as `stop`
    asks."""

    def __init__(
        self, checkpoints: Checkpoints, period: int, clock: Clock, stop: Stop,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """check: called before each save, on every process."""
        self.checkpoints, self.period, self.clock, self.stop = checkpoints, period, clock, stop
        self.check = check

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        code = max(comm.all_gather(self.stop()))  # all processes stop after the same step
        if done == self.trainer.max_iter or done % self.period == 0 or code:
            with stalls.slow():
                self._save(done)
        if code:
            if comm.is_main_process():
                print(f"stopped after iteration {done} of {self.trainer.max_iter}, saved; run the same "
                      "command again to resume", file=sys.stderr)
            sys.exit(code)

    def _save(self, done: int) -> None:
        self.check()
        if done == self.trainer.max_iter:
            self.checkpoints.save(
                Path(FINAL).stem, iteration=self.trainer.iter, clock=self.clock.state_dict())
        else:
            self.checkpoints.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
        comm.synchronize()  # the first process has saved


class Progress(HookBase):
    """A bar on stderr: iterations, time left, loss."""

    def __init__(self, title: str) -> None:
        self.title, self.bar = title, None

    def before_train(self) -> None:
        self.bar = tqdm(total=self.trainer.max_iter, initial=self.trainer.start_iter, desc=self.title,
                        unit="it", mininterval=0.5 if sys.stderr.isatty() else 15, dynamic_ncols=True)

    def after_step(self) -> None:
        loss = self.trainer.storage.latest().get("total_loss")
        if loss is not None:
            self.bar.set_postfix(loss=f"{loss[0]:.3f}", refresh=False)
        self.bar.update()

    def after_train(self) -> None:
        self.bar.close()


class SeededSteps(HookBase):
    """The random choices of a step (regions of interest) depend on (seed, process, iteration)
    alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        sequence = np.random.SeedSequence([self.seed, comm.get_rank(), self.trainer.iter])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def train(cfg: CfgNode, model: nn.Module, title: str, dataset: Dataset, stop: Stop = never) -> Clock:
    """Train `model` to the end of the schedule, from the newest checkpoint in `cfg.OUTPUT_DIR` or
    from its starting weights, which must be those of the file, tensor by tensor.

    `title` stands before the progress bar. `dataset`, which is registered, is for early
    evaluations. `stop` is asked after each iteration, on every process: when any of them answers
    an exit code, all leave with it (SystemExit), saved. Afterwards the model holds what the final
    checkpoint holds: with several processes the batch norm statistics of the first one. Raises
    `TrainingFailed` naming the iteration when the loss is not finite.
    """
    clock, checkpoints = Clock(), Checkpoints(model, cfg.OUTPUT_DIR)
    newest = checkpoints.newest_good()
    if newest is not None and newest.name == FINAL:
        clock.load_state_dict(checkpoints.load(str(newest), [])["clock"])
        return clock
    if newest is None:
        checkpoints.load(cfg.MODEL.WEIGHTS, [])
        if cfg.MODEL.WEIGHTS:
            assert_loaded(model, cfg.MODEL.WEIGHTS)
    if cfg.SOLVER.MAX_ITER == 0:  # the start itself is evaluated
        checkpoints.save(Path(FINAL).stem, iteration=-1, clock=clock.state_dict())
        return clock
    done, same_run = steps_done(newest), SameRun(cfg, dataset.task, resumes=newest is not None)
    same_run.check()
    trainer = trainer_of(cfg, model)
    checkpoints.add_checkpointable("trainer", trainer)
    trainer.register_hooks([
        SeededSteps(cfg.SEED), clock, hooks.IterationTimer(),
        hooks.LRScheduler(trainer.optimizer, build_lr_scheduler(cfg, trainer.optimizer)),
        PreciseStatistics(cfg, trainer.model)])
    curves = Curves(cfg.OUTPUT_DIR, WRITE_PERIOD, done)
    if cfg.TEST.EVAL_PERIOD:
        trainer.register_hooks([EarlyEvaluation(cfg, trainer.model, dataset, curves.writers)])
    trainer.register_hooks([curves, Progress(title) if comm.is_main_process() else None])
    trainer.register_hooks([SaveHook(checkpoints, cfg.SOLVER.CHECKPOINT_PERIOD, clock, stop, same_run.check)])
    if newest is not None:
        checkpoints.load(str(newest))
    _run(trainer, cfg, done)
    checkpoints.load(str(Path(cfg.OUTPUT_DIR, FINAL)), [])
    return clock


def trainer_of(cfg: CfgNode, model: nn.Module) -> AccumulatingTrainer:
    """The trainer of a model, without data and hooks; `UserError` for half precision without a
    GPU."""
    half, bf16 = cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.get("PRECISION") == "bf16"
    refuse((half and cfg.MODEL.DEVICE != "cuda",
            f"SOLVER.AMP.ENABLED True with device {cfg.MODEL.DEVICE}: half precision needs a GPU, set it to "
            "False"),
           (half and bf16, "SOLVER.AMP.ENABLED True is float16, found --precision bf16 too: leave out one of them"))
    precision = torch.float32
    if half:
        precision = torch.float16
    elif bf16:
        precision = torch.bfloat16
    devices = {} if cfg.MODEL.DEVICE == "cuda" else {"device_ids": None}
    parallel = create_ddp_model(model, broadcast_buffers=False, **devices)
    images = images_at_once(cfg) // comm.get_world_size()
    return AccumulatingTrainer(parallel, build_optimizer(cfg, model), images, precision)


def _run(trainer: AccumulatingTrainer, cfg: CfgNode, done: int) -> None:
    """Take the iterations after the first `done`."""
    trainer.data_loader = train_loader(cfg, cfg.DATALOADER.NUM_WORKERS, cfg.SEED, skip=done)
    try:
        trainer.train(done, cfg.SOLVER.MAX_ITER)
    except FloatingPointError as error:
        raise TrainingFailed(
            f"the loss became infinite or NaN at iteration {trainer.iter} of {cfg.SOLVER.MAX_ITER}; no result "
            f"is written. Lower SOLVER.BASE_LR ({cfg.SOLVER.BASE_LR}) or lengthen SOLVER.WARMUP_ITERS; "
            f"log.txt says more ({str(error).splitlines()[0]})") from None
    finally:
        trainer.close()
    comm.synchronize()
