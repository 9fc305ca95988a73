"""The loop, top to bottom: probe -> save -> stop? -> one step -> log -> advance."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from tqdm import tqdm

from pretrain import distributed, memory
from pretrain.common import stalls
from pretrain.common.atomic import write_text
from pretrain.common.backbone_file import BackboneInfo, save_backbone
from pretrain.common.signals import Stop, never
from pretrain.config import Config
from pretrain.data import loader_processes
from pretrain.data.batches import Batch, check_loaders, make_loader, steps_per_epoch
from pretrain.data.images import ImageList
from pretrain.data.run_images import check_agreement, run_images
from pretrain.data.workers import with_workers
from pretrain.distributed import Process
from pretrain.figures.cell_figure import draw_run
from pretrain.figures.training_figures import draw_curves, draw_views
from pretrain.optim import peak_lr
from pretrain.runs import checkpoint
from pretrain.runs.image_logs import UnreadableLog, note_nonfinite
from pretrain.runs.metrics import MetricsLog
from pretrain.runs.run_folder import bind, claimed, has_work
from pretrain.trainer import Trainer
from pretrain.watch.probes import Probe

OVERFLOWS = 24  # in a row: the loss scale, 2**16 at the start, is below 1 then; a few at the start are normal


class Stopped(Exception):
    """The run was asked to stop, finished its step and saved."""

    def __init__(self, exit_code: int, step: int) -> None:
        where = f"after step {step}, saved" if step else "before the first step"
        super().__init__(f"stopped {where}; run the same command again to resume")
        self.exit_code = exit_code


class Ended(Stopped):
    """As `Stopped`, but before it could save another process had ended."""

    def __init__(self, exit_code: int) -> None:
        Exception.__init__(self, "stopped when another process had ended, so nothing was saved after the newest "
                                 "checkpoint; run the same command again to resume")
        self.exit_code = exit_code


class TrainingFailed(Exception):
    """The run cannot go on; the message is one line."""


@dataclass(frozen=True)
class _Run:
    """One process's part of a run, in a folder that is ours."""

    config: Config
    images: ImageList
    per_epoch: int  # steps
    output: Path
    process: Process

    def say(self, text: str) -> None:
        if self.process.is_main:
            print(text, flush=True)


def train(config: Config, folder: Path, output: Path, process: Process, stop: Stop = never) -> Path:
    """Pretrain on the images below `folder`; returns OUTPUT/backbone.safetensors (the exported
    encoder).

    `stop` is asked after every step, on every process: when any of them answers an exit code, all
    save and leave.

    Started again with the same configuration and images it resumes from the newest whole
    checkpoint; the result equals that of an uninterrupted run, bit for bit on a CPU. Raises
    `UserError`, `Stopped`, `TrainingFailed`.
    """
    backbone = output / "backbone.safetensors"
    with claimed(output, config, folder) if process.is_main else contextlib.nullcontext():
        config = with_workers(config, process)
        images = run_images(config, folder, output, process, resumes=process.is_main and has_work(output))
        run = _Run(config, images, steps_per_epoch(len(images), config.train), output, process)
        if process.is_main:
            bind(output, config, images)
        distributed.barrier()
        if (output / "done.json").is_file() and backbone.is_file():
            run.say(f"pretraining in {output} is finished already")
            return backbone
        try:
            _train(run, stop)
        except RuntimeError as error:
            problem = loader_processes.problem(error, config.runtime.workers, "--workers 0")
            if problem is None:
                raise
            raise problem from None
    return backbone


def _train(run: _Run, stop: Stop) -> None:
    """Train from the newest checkpoint to the end."""
    config, runtime, process = run.config, run.config.runtime, run.process
    check_loaders(config, process, distributed.on_this_machine())
    steps = config.train.epochs * run.per_epoch
    probe = Probe(run.images, config, process.device)
    trainer = Trainer(config, process, steps, run.per_epoch, run.images.classes)
    first_step = _resume(trainer, run)
    _announce(trainer, run)
    loader = make_loader(run.images, config, range(first_step, steps), process)
    log = MetricsLog(run.output, first_step, process)
    unreadable = UnreadableLog(run.output, process, len(run.images), config.train.max_corrupt_share)

    with log, tqdm(total=steps, initial=first_step, desc="pretrain", unit="step", disable=not process.is_main,
                   mininterval=0.5 if sys.stderr.isatty() else 15) as bar:
        step = first_step
        while True:
            asked_to_stop = distributed.largest_over_processes(stop())  # all stop after the same step
            probing = step in (0, steps) or (runtime.probe_every and step % runtime.probe_every == 0)
            with stalls.slow():
                if probing and step not in log.probed and (step == steps or not asked_to_stop):
                    log.write(step, probe(trainer.objective))
                if step > first_step and (step % runtime.checkpoint_every == 0 or step == steps or asked_to_stop):
                    _save(trainer, step, run)
            if step == steps:
                break
            if asked_to_stop:
                raise Stopped(asked_to_stop, step)

            started = time.perf_counter()
            with stalls.step():
                micro_batches = [next(loader) for _ in range(trainer.accumulation)]
                waited = time.perf_counter() - started
                result = trainer.step(step, micro_batches)
            took = time.perf_counter() - started

            for batch in micro_batches:
                unreadable.note(batch)
            step += 1
            _check_step(step, result["loss"], trainer, micro_batches, run)
            if trainer.is_logged(step - 1):
                result |= {"skipped": trainer.skipped, "overflowed": trainer.overflowed}
                log.step(step, result, config.train.batch_size / took, waited / took)
                shown = {name: f"{result[name]:.3f}" for name in ("loss", *trainer.objective.shown)}
                bar.set_postfix(shown, refresh=False)
            bar.update()

    with stalls.slow():
        if process.is_main:
            _finish(trainer, run)
        distributed.barrier()


def _announce(trainer: Trainer, run: _Run) -> None:
    values, device, classes = run.config.train, run.process.device, run.images.classes
    if classes:
        run.say(f"labels {values.labels}: {len(classes)} classes ({_first(classes, 5)})")
    run.say(f"{run.config.objective_name}: {len(run.images)} images, {values.epochs} epochs of {run.per_epoch} steps; "
            f"a step is {values.batch_size} images ({trainer.accumulation} x {trainer.micro_batch}), peak learning "
            f"rate {peak_lr(values.base_lr, values.batch_size):g}, {values.precision} on {device} x "
            f"{run.process.world}, loader processes for each: {run.config.runtime.workers}")
    if device.type == "cuda":
        at_once = trainer.micro_batch // run.process.world
        run.say(f"{memory.in_words(values, at_once)}; a smaller --device-batch takes less")
    if values.precision == "fp16" and device.type == "cpu":
        run.say("warning: fp16 is many times slower than fp32 on a CPU; use --precision bf16 or fp32")
    elif values.precision == "bf16" and device.type == "cpu" and not bf16_is_fast():
        run.say("warning: bf16 is many times slower than fp32 on this CPU (no AVX-512); use --precision fp32")


def bf16_is_fast() -> bool:
    """Whether the CPU computes convolutions in bf16 itself: with AVX2 alone a step took 16 times as
    long as fp32."""
    return torch.backends.cpu.get_cpu_capability() != "AVX2"


def _resume(trainer: Trainer, run: _Run) -> int:
    """Load the newest whole checkpoint, if any; returns the steps done."""
    state, meta, passed_over = checkpoint.load_newest(run.output)
    for line in passed_over:
        run.say(f"warning: passed over: {line}")
    if state is None:
        return 0
    trainer.load(state)
    world, batch = run.process.world, trainer.micro_batch
    run.say(f"resumes from step {meta['step']} of {trainer.steps}")
    if (meta["world_size"], meta["micro_batch"]) != (world, batch):
        run.say(f"processes {meta['world_size']} -> {world}, images at once {meta['micro_batch']} -> {batch} (batch "
                f"norm sees these together); a step stays {trainer.train.batch_size} images")
    return meta["step"]


def _save(trainer: Trainer, step: int, run: _Run) -> None:
    for name, value in trainer.student.state_dict().items():
        if not value.isfinite().all():  # a NaN gradient under a finite loss; the same in every process
            raise TrainingFailed(f"weights are not finite after step {step} ({name}), so nothing was saved: try a "
                                 "lower --base-lr or --precision bf16 in another --output")
    check_agreement(run.config, run.images)
    if run.process.is_main:
        config = run.config
        meta = {"steps": trainer.steps, "images_seen": step * config.train.batch_size,
                "config_hash": config.hash(), "world_size": run.process.world, "micro_batch": trainer.micro_batch,
                "torch": torch.__version__, "kernels": trainer.kernels,
                "saved": datetime.now(UTC).isoformat(timespec="seconds")}
        path = checkpoint.save(run.output, step, trainer.state(), meta)
        checkpoint.remove_others(path, config.runtime.keep_checkpoints, config.runtime.archive_every)
    distributed.barrier()


def _finish(trainer: Trainer, run: _Run) -> None:
    """Write the backbone and the figures, and last the note that all of them are there."""
    objective, config, output = trainer.objective, run.config, run.output
    state = objective.exported().state_dict()
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    pretraining = {"objective": config.objective_name, "seed": config.train.seed,
                   "recipe_sha256": config.recipe_hash(), "images_sha256": run.images.sha256}
    info = BackboneInfo(objective.method, config.train.architecture, config.train.epochs, branch=objective.branch,
                        source_name=f"pretrain:{objective.name}", source_sha256=config.hash(),
                        pretraining=pretraining, classes=len(run.images.classes) or None)
    digest = save_backbone(output / "backbone.safetensors", state, info)
    figures = {"curves.png": lambda path: draw_curves(output / "metrics.jsonl", path, objective.curves),
               "views.png": lambda path: draw_views(run.images, config, path),
               "show.png": lambda path: draw_run(run.images, config, output, path)}
    for name, draw in figures.items():
        try:
            draw(output / name)
        except OSError:  # a full disk: the same command draws it later
            raise
        except Exception as error:
            reason = " ".join(str(error).split())  # no run fails for want of a figure
            print(f"warning: {name} could not be drawn ({type(error).__name__}: {reason})", file=sys.stderr)
    write_text(output / "done.json", json.dumps({"steps": trainer.steps, "backbone_sha256": digest}) + "\n")


def _check_step(step: int, loss: float, trainer: Trainer, micro_batches: list[Batch], run: _Run) -> None:
    """Report an update, of `step` counted from 1, that was skipped for its loss. Raises
    `TrainingFailed` after too many in a row, and after too many whose gradients overflowed fp16."""
    in_a_row, limit = trainer.skipped_in_a_row, run.config.runtime.nonfinite_limit
    advice = "try a lower --base-lr or --precision bf16"
    if trainer.overflowed_in_a_row == OVERFLOWS:
        raise TrainingFailed(f"gradients overflowed fp16 {OVERFLOWS} times in a row up to step {step}, though their "
                             f"scale was halved each time: {advice}")
    if math.isfinite(loss):
        return
    images = [name for batch in micro_batches for name in batch.names]
    log = note_nonfinite(run.output, run.process, step, images)
    if run.process.is_main:
        tqdm.write(f"warning: loss is {loss} at step {step}: the update is skipped ({in_a_row} in a row, {limit} end "
                   f"the run); its images are named in {log}", file=sys.stderr)
    if in_a_row >= limit:
        raise TrainingFailed(f"loss was not finite {in_a_row} times in a row up to step {step}; images of the last "
                             f"step: {_first(images, 8)}; all are named in {log}; {advice}")


def _first(names: Sequence[str], most: int) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, ..." if len(names) > most else shown
