"""The loop, top to bottom: probe -> save -> stop? -> one step -> log -> advance."""

import contextlib
import json
import math
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from tqdm import tqdm

from pretrain import distributed
from pretrain.common.atomic import write_text
from pretrain.common.backbone_file import BackboneInfo, save_backbone
from pretrain.common.errors import UserError
from pretrain.common.signals import Stop, never
from pretrain.config import Config
from pretrain.data.batches import Batch, make_loader, steps_per_epoch
from pretrain.data.images import ImageList
from pretrain.data.run_images import run_images
from pretrain.distributed import Process
from pretrain.figures.show import draw_run
from pretrain.figures.training_figures import draw_curves, draw_views
from pretrain.optim import peak_lr
from pretrain.options.shared_options import Train
from pretrain.runs import checkpoint
from pretrain.runs.metrics import MetricsLog
from pretrain.runs.run_folder import bind, claimed
from pretrain.trainer import Trainer
from pretrain.watch.probes import Probe

OVERFLOWS = 24  # in a row: the scale, 2**16 at the start, is below 1 then; the first few are how it finds its size


class Stopped(Exception):
    """The run was asked to stop, finished its step and saved."""

    def __init__(self, exit_code: int, step: int) -> None:
        where = f"after step {step}, saved" if step else "before the first step"
        super().__init__(f"stopped {where}; start again with the same words to go on")
        self.exit_code = exit_code


class TrainingFailed(Exception):
    """The run cannot go on; the message is one line."""


def train(config: Config, folder: Path, output: Path, process: Process, stop: Stop = never) -> Path:
    """Pretrain on the images below `folder`; returns OUTPUT/backbone.safetensors (the student's encoder).

    `stop` is asked after every step, on every process: when any of them answers an exit code, all save and leave.

    Started again with the same configuration and images it goes on from the newest whole checkpoint; the result equals
    that of an uninterrupted run, bit for bit on a CPU. Raises `UserError`, `Stopped`, `TrainingFailed`.
    """
    backbone = output / "backbone.safetensors"
    with claimed(output, config, folder) if process.is_main else contextlib.nullcontext():
        names = run_images(config, folder, output, process)
        per_epoch = steps_per_epoch(len(names), config.train)
        if process.is_main:
            bind(output, config, names)
        distributed.barrier()
        if (output / "done.json").is_file() and backbone.is_file():
            _say(process, f"pretraining in {output} is finished already")
        else:
            try:
                _run(config, names, per_epoch, output, process, stop)
            except RuntimeError as error:  # of torch's signal handler, wherever the run is just then
                if "DataLoader worker" not in str(error):
                    raise
                raise UserError(f"a loader process died ({' '.join(str(error).split())}): the memory may be too small "
                                f"for {config.runtime.workers} (--workers); the same words go on") from None
    return backbone


def _run(config: Config, names: ImageList, per_epoch: int, output: Path, process: Process, stop: Stop) -> None:
    """Train from the newest checkpoint to the end, in a folder that is ours."""
    values, runtime = config.train, config.runtime
    steps = values.epochs * per_epoch
    probe = Probe(names, config, process.device)
    trainer = Trainer(config, process, steps, per_epoch, names.classes)
    first_step = _resume(trainer, output, process)
    if names.classes:
        shown = ", ".join(names.classes[:5]) + (", ..." if len(names.classes) > 5 else "")
        _say(process, f"labels {values.labels}: {len(names.classes)} classes ({shown})")
    _say(process, f"{config.objective_name}: {len(names)} images, {values.epochs} epochs of {per_epoch} steps; a step "
                  f"is {values.batch_size} images ({trainer.accumulation} x {trainer.micro_batch}), peak learning rate "
                  f"{peak_lr(values.base_lr, values.batch_size):g}, {values.precision} on {process.device} x "
                  f"{process.world}")
    if values.precision == "fp16" and process.device.type == "cpu":
        _say(process, "fp16 is many times slower than fp32 on a CPU: --precision bf16 or fp32 suits it")
    elif values.precision == "bf16" and process.device.type == "cpu" and not bf16_is_fast():
        _say(process, "bf16 is many times slower than fp32 on this CPU (no AVX-512): --precision fp32 suits it")
    loader = make_loader(names, config, range(first_step, steps), process)
    log = MetricsLog(output, first_step, process)
    unreadable = _noted_unreadable(output, process)

    with log, tqdm(total=steps, initial=first_step, desc="pretrain", unit="step", disable=not process.is_main,
                   mininterval=0.5 if sys.stderr.isatty() else 15) as bar:
        step = first_step
        while True:
            asked_to_stop = distributed.largest_over_processes(stop())  # all stop after the same step
            probing = step in (0, steps) or (runtime.probe_every and step % runtime.probe_every == 0)
            if probing and not log.has_probe(step) and (step == steps or not asked_to_stop):
                log.probe(step, probe(trainer.objective))
            if step > first_step and (step % runtime.checkpoint_every == 0 or step == steps or asked_to_stop):
                _save(trainer, output, step, config, process)
            if step == steps:
                break
            if asked_to_stop:
                raise Stopped(asked_to_stop, step)

            started = time.perf_counter()
            micro_batches = [next(loader) for _ in range(trainer.accumulation)]
            waited = time.perf_counter() - started
            result = trainer.step(step, micro_batches)
            took = time.perf_counter() - started

            for batch in micro_batches:
                _note_unreadable(unreadable, batch, output, len(names), values, process)
            step += 1
            if not math.isfinite(result["loss"]):
                _not_finite(result["loss"], step, trainer, micro_batches, output)
            if trainer.overflowed_in_a_row == OVERFLOWS:
                raise TrainingFailed(f"gradients overflowed fp16 {OVERFLOWS} times in a row up to step {step}, though "
                                     "their scale was halved each time: try a lower --base-lr or --precision bf16")
            if trainer.is_logged(step - 1):
                counts = {"skipped": trainer.skipped, "overflowed": trainer.overflowed}
                log.step(step, {**result, **counts}, values.batch_size / took, waited / took)
                shown = {name: f"{result[name]:.3f}" for name in ("loss", *trainer.objective.shown)}
                bar.set_postfix(shown, refresh=False)
            bar.update()

    if process.is_main:
        _finish(trainer, output, config, names)
    distributed.barrier()


def bf16_is_fast() -> bool:
    """Whether the CPU's convolutions in bf16 are no emulation: with AVX2 alone a step took 16 times as long as fp32."""
    return torch.backends.cpu.get_cpu_capability() != "AVX2"


def _resume(trainer: Trainer, output: Path, process: Process) -> int:
    state, meta, passed_over = checkpoint.load_newest(output)
    for line in passed_over:
        _say(process, f"passed over: {line}")
    if state is None:
        return 0
    trainer.load(state)
    _say(process, f"goes on from step {meta['step']} of {trainer.steps}")
    if (meta["world_size"], meta["micro_batch"]) != (process.world, trainer.micro_batch):
        _say(process, f"processes {meta['world_size']} -> {process.world}, images at once {meta['micro_batch']} -> "
                      f"{trainer.micro_batch} (batch norm sees these together); a step stays "
                      f"{trainer.train.batch_size} images")
    return meta["step"]


def _save(trainer: Trainer, output: Path, step: int, config: Config, process: Process) -> None:
    for name, value in trainer.student.state_dict().items():
        if not value.isfinite().all():  # a NaN gradient under a finite loss; the same in every process
            raise TrainingFailed(f"weights are not finite after step {step} ({name}), so nothing was saved: try a "
                                 "lower --base-lr or --precision bf16 in another --output")
    if process.is_main:
        meta = {"steps": trainer.steps, "images_seen": step * config.train.batch_size,
                "config_hash": config.hash(), "world_size": process.world, "micro_batch": trainer.micro_batch,
                "torch": torch.__version__, "kernels": trainer.kernels,
                "saved": datetime.now(UTC).isoformat(timespec="seconds")}
        checkpoint.save(output, step, trainer.state(), meta, config.runtime.keep_checkpoints,
                        config.runtime.archive_every)
    distributed.barrier()


def _finish(trainer: Trainer, output: Path, config: Config, names: ImageList) -> None:
    """Backbone, pictures, and last the note that all of it is there."""
    objective = trainer.objective
    state = {name: value for name, value in objective.exported().state_dict().items()
             if not name.endswith("num_batches_tracked")}
    pretraining = {"objective": config.objective_name, "seed": config.train.seed,
                   "recipe_sha256": config.recipe_hash(), "images_sha256": names.sha256}
    info = BackboneInfo(objective.method, config.train.architecture, config.train.epochs, branch=objective.branch,
                        source_name=f"pretrain:{objective.name}", source_sha256=config.hash(),
                        pretraining=pretraining, classes=len(names.classes) or None)
    digest = save_backbone(output / "backbone.safetensors", state, info)
    pictures = {"curves.png": lambda path: draw_curves(output / "metrics.jsonl", path, objective.curves),
                "views.png": lambda path: draw_views(names, config, path),
                "show.png": lambda path: draw_run(names, config, output, path)}
    for name, draw in pictures.items():
        try:
            draw(output / name)
        except OSError:  # a full disk: the same words draw it later
            raise
        except Exception as error:  # no run fails for want of a picture
            print(f"{name} could not be drawn ({type(error).__name__}: {' '.join(str(error).split())})",
                  file=sys.stderr)
    write_text(output / "done.json", json.dumps({"steps": trainer.steps, "backbone_sha256": digest}) + "\n")


def _unreadable_log(output: Path, process: Process) -> Path:
    return output / ("unreadable.log" if process.is_main else f"unreadable-{process.rank}.log")


def _noted_unreadable(output: Path, process: Process) -> dict[str, str]:
    """{path: reason} of the images that this process named before the run was interrupted."""
    log = _unreadable_log(output, process)
    if not log.is_file():
        return {}
    noted = {}
    for line in log.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        name, _, why = line.partition(": ")
        noted[name] = why
    return noted


def _note_unreadable(
    known: dict[str, str], batch: Batch, output: Path, images: int, values: Train, process: Process
) -> None:
    """Name images that were replaced, once each, in unreadable.log; stop when they are too many."""
    new = {name: why for name, why in batch.unreadable.items() if name not in known}
    if not new:
        return
    known |= new
    log = _unreadable_log(output, process)
    with open(log, "a", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(f"{name}: {why}\n" for name, why in new.items())
    share = values.max_corrupt_share
    if len(known) > (max(share * images, 1) if share else 0):  # over the epochs each process meets nearly all images
        name, why = next(iter(known.items()))
        raise UserError(f"{len(known)} of {images} images cannot be read, expected at most a share of {share:g} "
                        f"(max_corrupt_share); the first is {name} ({why}), all are named in {log}")


def _not_finite(loss: float, step: int, trainer: Trainer, micro_batches: list[Batch], output: Path) -> None:
    """Say that the update of `step`, counted from 1, was skipped, name its images in nonfinite.log, and end the run
    when there were too many in a row."""
    process, limit, in_a_row = trainer.process, trainer.config.runtime.nonfinite_limit, trainer.skipped_in_a_row
    images = [name for batch in micro_batches for name in batch.names]
    log = output / ("nonfinite.log" if process.is_main else f"nonfinite-{process.rank}.log")
    with open(log, "a+", encoding="utf-8", errors="surrogateescape") as file:
        file.seek(0)
        if f"\nstep {step}: " not in "\n" + file.read():  # said before the run was interrupted
            file.writelines(f"step {step}: {name}\n" for name in images)
    if process.is_main:
        tqdm.write(f"loss is {loss} at step {step}: the update is skipped ({in_a_row} in a row, {limit} end the run); "
                   f"its images are named in {log}", file=sys.stderr)
    if in_a_row >= limit:
        raise TrainingFailed(f"loss was not finite {in_a_row} times in a row up to step {step}; images of the last "
                             f"step: {', '.join(images[:8])}{' ...' if len(images) > 8 else ''}; all are named in "
                             f"{log}; try a lower --base-lr or --precision bf16")


def _say(process: Process, text: str) -> None:
    if process.is_main:
        print(text, flush=True)
