"""The loop, top to bottom: probe -> save -> stop? -> one step -> log -> advance."""

import contextlib
import dataclasses
import hashlib
import json
import math
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from pretrain import checkpoint, distributed
from pretrain.atomic import write_text
from pretrain.backbone_file import BackboneInfo, save_backbone
from pretrain.config import Config, Numbers
from pretrain.data import Batch, images_at_once, list_images, make_loader, steps_per_epoch
from pretrain.distributed import Process
from pretrain.errors import UserError
from pretrain.gpu_augment import finished_views
from pretrain.images import ImageList
from pretrain.loss import clove_loss
from pretrain.metrics import MetricsLog
from pretrain.model import Student, Teacher, normalise
from pretrain.optim import LARS, cosine_schedule, peak_lr
from pretrain.picture import draw_curves, draw_views
from pretrain.probe import Probe
from pretrain.signals import Stop, never

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Stopped(Exception):
    """The run was asked to stop, finished its step and saved."""

    def __init__(self, exit_code: int, step: int) -> None:
        super().__init__(f"stopped after step {step}, saved; start again with the same words to go on")
        self.exit_code = exit_code


class TrainingFailed(Exception):
    """The run cannot go on; the message is one line."""


class Trainer:
    """Everything one process holds: networks, optimizer and scaler, and how they take a step."""

    def __init__(self, config: Config, process: Process, steps: int, per_epoch: int) -> None:
        self.config, self.process, self.steps = config, process, steps
        numbers = config.numbers
        self.numbers = numbers
        self.warmup_steps = round(numbers.warmup_epochs * per_epoch)
        torch.manual_seed(numbers.seed)
        self.student = Student(numbers).to(process.device)
        self.teacher = Teacher(self.student, numbers).to(process.device)
        if config.machine.channels_last:
            self.student.encoder.to(memory_format=torch.channels_last)
            self.teacher.encoder.to(memory_format=torch.channels_last)
        self.student = distributed.synchronise_batch_norm(self.student, process)
        self.teacher = distributed.synchronise_batch_norm(self.teacher, process).train()
        self.forward: nn.Module = self.student
        if process.world > 1:
            with warnings.catch_warnings():
                # torch 2.14 renames the argument to one that older versions do not know.
                warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
                self.forward = DistributedDataParallel(
                    self.student, device_ids=[process.device.index] if process.device.type == "cuda" else None,
                    broadcast_buffers=False, gradient_as_bucket_view=True)
        self.optimizer = LARS(self.student.parameters(), lr=0.0, momentum=numbers.sgd_momentum,
                              weight_decay=numbers.weight_decay, trust=numbers.trust)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=numbers.precision == "fp16")
        self.micro_batch = process.world * images_at_once(
            numbers.batch_size, config.machine.device_batch, process.world)
        self.accumulation = numbers.batch_size // self.micro_batch

    def lr(self, step: int) -> float:
        peak = peak_lr(self.numbers.base_lr, self.numbers.batch_size)
        return cosine_schedule(step, self.steps, peak, peak * self.numbers.final_lr, self.warmup_steps, peak / 100)

    def momentum(self, step: int) -> float:
        return cosine_schedule(step, self.steps, self.numbers.teacher_momentum, 1.0)

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of one micro-batch of this process, in fp32."""
        device, dtype = self.process.device, AUTOCAST[self.numbers.precision]
        groups = [normalise(views) for views in finished_views(batch, device)]
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            teacher_maps = self.teacher(groups[0])
            student_maps = self.forward(groups)
        boxes = [boxes.to(device, non_blocking=True) for boxes in batch.boxes]
        return clove_loss(student_maps, teacher_maps, boxes, batch.sizes.to(device), self.numbers)

    def step(self, step: int, micro_batches: list[Batch]) -> dict[str, float]:
        """One optimizer step; returns loss and statistics, means over processes. When the loss is not finite nothing
        changes: no update, and batch norm's running statistics are put back."""
        totals: dict[str, torch.Tensor] = {}
        buffers = [*self.student.buffers(), *self.teacher.buffers()]
        before = [buffer.clone() for buffer in buffers]
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            wait = contextlib.nullcontext() if last or self.process.world == 1 else self.forward.no_sync()
            with wait:
                loss, statistics = self.loss(batch)
                self.scaler.scale(loss / self.accumulation).backward()
            for name, value in {"loss": loss.detach(), **statistics}.items():
                totals[name] = totals.get(name, 0.0) + value.float() / self.accumulation
        means = distributed.mean_over_processes(torch.stack(list(totals.values())))
        result = dict(zip(totals, means.tolist(), strict=True))
        result["lr"], result["teacher_momentum"] = self.lr(step), self.momentum(step)
        if math.isfinite(result["loss"]):
            for group in self.optimizer.param_groups:
                group["lr"] = result["lr"]
            if self.numbers.ema_timing == "before_step":
                self.teacher.follow(self.student, result["teacher_momentum"])
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.numbers.ema_timing == "after_step":
                self.teacher.follow(self.student, result["teacher_momentum"])
        else:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        return result

    def state(self) -> dict[str, Any]:
        return {"student": self.student.state_dict(), "teacher": self.teacher.state_dict(),
                "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
                "rng": torch.get_rng_state()}

    def load(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])


def train(config: Config, folder: Path, output: Path, process: Process, stop: Stop = never) -> Path:
    """Pretrain on the images below `folder`; returns OUTPUT/backbone.safetensors (the student's encoder).

    `stop` is asked after every step, on every process: when any of them answers an exit code, all save and leave.

    Started again with the same configuration and images it goes on from the newest whole checkpoint; the result equals
    that of an uninterrupted run, bit for bit on a CPU. Raises `UserError`, `Stopped`, `TrainingFailed`.
    """
    numbers, machine = config.numbers, config.machine
    backbone = output / "backbone.safetensors"
    names = list_images(folder)
    per_epoch = steps_per_epoch(len(names), numbers)
    steps = numbers.epochs * per_epoch
    if process.is_main:
        _claim(output, config, names)
    distributed.barrier()
    if (output / "done.json").is_file():
        _say(process, f"pretraining in {output} is finished already")
        return backbone

    probe = Probe(names, config, process.device)
    trainer = Trainer(config, process, steps, per_epoch)
    first_step = _resume(trainer, output, process)
    trainer.teacher.train()
    _say(process, f"{len(names)} images, {numbers.epochs} epochs of {per_epoch} steps; a step is {numbers.batch_size} "
                  f"images ({trainer.accumulation} x {trainer.micro_batch}), peak learning rate "
                  f"{peak_lr(numbers.base_lr, numbers.batch_size):g}, {numbers.precision} on {process.device} x "
                  f"{process.world}")
    loader = make_loader(names, config, first_step, steps, process.rank, process.world,
                         process.device.type == "cuda")
    log = MetricsLog(output, first_step, process)
    unreadable: dict[str, str] = {}
    skipped_in_a_row = 0

    with log:
        bar = tqdm(total=steps, initial=first_step, desc="pretrain", unit="step", disable=not process.is_main,
                   mininterval=0.5 if sys.stderr.isatty() else 15)
        step = first_step
        while True:
            probing = step in (0, steps) or (machine.probe_every and step % machine.probe_every == 0)
            if probing and not log.has_probe(step):
                log.probe(step, probe(trainer.student, trainer.teacher))
            asked_to_stop = _agree(stop(), process)
            if step > first_step and (step % machine.checkpoint_every == 0 or step == steps or asked_to_stop):
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
                _note_unreadable(unreadable, batch, output, len(names), numbers, process)
            if math.isfinite(result["loss"]):
                skipped_in_a_row = 0
            else:
                skipped_in_a_row += 1
                _not_finite(result["loss"], step, skipped_in_a_row, micro_batches, machine.nonfinite_limit)
            step += 1
            if step % machine.log_every == 0 or step in (1, steps):
                log.step(step, result, numbers.batch_size / took, waited / took)
            bar.update()
            bar.set_postfix(loss=f"{result['loss']:.3f}", positive=f"{result['positive_cosine']:.3f}",
                            negative=f"{result['negative_cosine']:.3f}", refresh=False)
        bar.close()

    if process.is_main:
        _finish(trainer, output, config, names)
    distributed.barrier()
    return backbone


def _claim(output: Path, config: Config, names: ImageList) -> None:
    """Bind the output folder to this configuration and these images; a folder of another run is refused."""
    record = {"numbers": json.loads(json.dumps(dataclasses.asdict(config.numbers))), "config_hash": config.hash(),
              "images": len(names), "images_hash": hashlib.sha256("\n".join(names).encode()).hexdigest()}
    path = output / "run.json"
    if not path.is_file():
        write_text(path, json.dumps(record, indent=2) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [f"{key} {before['numbers'].get(key)!r} -> {value!r}" for key, value in record["numbers"].items()
               if before["numbers"].get(key) != value]
    if changed:
        raise UserError(f"{output} holds a run with other numbers ({'; '.join(changed)}): "
                        "choose another --output, or use the same words as before to go on")
    if before["images_hash"] != record["images_hash"]:
        raise UserError(f"{output} holds a run on other images (then {before['images']}, now {record['images']}): "
                        "choose another --output")


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
                      f"{trainer.numbers.batch_size} images")
    return meta["step"]


def _save(trainer: Trainer, output: Path, step: int, config: Config, process: Process) -> None:
    if process.is_main:
        meta = {"steps": trainer.steps, "images_seen": step * config.numbers.batch_size,
                "config_hash": config.hash(), "world_size": process.world, "micro_batch": trainer.micro_batch,
                "torch": torch.__version__, "saved": datetime.now(UTC).isoformat(timespec="seconds")}
        checkpoint.save(output, step, trainer.state(), meta, config.machine.keep_checkpoints,
                        config.machine.archive_every)
    distributed.barrier()


def _finish(trainer: Trainer, output: Path, config: Config, names: ImageList) -> None:
    """Backbone, pictures, and last the note that all of it is there."""
    state = {name: value for name, value in trainer.student.encoder.state_dict().items()
             if not name.endswith("num_batches_tracked")}
    info = BackboneInfo("CLoVE", config.numbers.architecture, config.numbers.epochs, branch="student",
                        source_name=f"pretrain:{config.numbers.variant}", source_sha256=config.hash())
    digest = save_backbone(output / "backbone.safetensors", state, info)
    draw_curves(output / "metrics.jsonl", output / "curves.png")
    draw_views(names, config.numbers, output / "views.png")
    write_text(output / "done.json", json.dumps({"steps": trainer.steps, "backbone_sha256": digest}) + "\n")


def _agree(asked: int, process: Process) -> int:
    """The largest exit code any process is asked for, 0 for none: all of them must stop after the same step."""
    if process.world == 1:
        return asked
    flag = torch.tensor([float(asked)], device=process.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return int(flag.item())


def _note_unreadable(
    known: dict[str, str], batch: Batch, output: Path, images: int, numbers: Numbers, process: Process
) -> None:
    """Name images that were replaced, once each, in unreadable.log; stop when they are too many."""
    new = {name: why for name, why in batch.unreadable.items() if name not in known}
    if not new:
        return
    known |= new
    log = output / ("unreadable.log" if process.is_main else f"unreadable-{process.rank}.log")
    with open(log, "a", encoding="utf-8") as file:
        file.writelines(f"{name}: {why}\n" for name, why in new.items())
    if len(known) > max(numbers.max_corrupt_share * images / process.world, 1):
        name, why = next(iter(known.items()))
        raise UserError(f"{len(known)} of {images} images cannot be read, expected at most a share of "
                        f"{numbers.max_corrupt_share:g} (max_corrupt_share); the first is {name} ({why}), "
                        f"all are named in {log}")


def _not_finite(loss: float, step: int, in_a_row: int, micro_batches: list[Batch], limit: int) -> None:
    images = [name for batch in micro_batches for name in batch.names]
    tqdm.write(f"loss is {loss} at step {step}: the update is skipped ({in_a_row} in a row, {limit} end the run)",
               file=sys.stderr)
    if in_a_row >= limit:
        raise TrainingFailed(f"loss was not finite {in_a_row} times in a row up to step {step}; images of the last "
                             f"step: {', '.join(images[:8])}{' ...' if len(images) > 8 else ''}; "
                             "try a lower --base-lr or --precision bf16")


def _say(process: Process, text: str) -> None:
    if process.is_main:
        print(text, flush=True)
