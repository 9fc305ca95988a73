"""The loop, top to bottom: probe -> save -> stop? -> one step -> log -> advance."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from pretrain import checkpoint, distributed
from pretrain.atomic import write_text
from pretrain.backbone_file import BackboneInfo, save_backbone
from pretrain.config import Config, Numbers
from pretrain.data import Batch, list_images, make_loader, steps_per_epoch
from pretrain.distributed import Process
from pretrain.encoder import BatchNorm
from pretrain.errors import UserError
from pretrain.loss import clove_loss
from pretrain.model import Student, Teacher, normalise
from pretrain.optim import LARS, cosine_schedule, peak_lr
from pretrain.picture import draw_curves, draw_views
from pretrain.probe import RetrievalProbe

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class StoppedBySignal(Exception):
    """The run was asked to stop, finished its step and saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped after step {step}, saved; start again with the same words to go on")
        self.exit_code = 128 + number


class TrainingFailed(Exception):
    """The run cannot go on; the message is one line."""


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM append their number to the list instead of ending the process; a second SIGINT interrupts."""
    received: list[int] = []

    def remember(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        # What a forward pass changes; layers that leave their counting to us, student's and teacher's.
        counters = [[module.num_batches_tracked for module in network.modules() if type(module) is BatchNorm]
                    for network in (self.student, self.teacher)]
        known = {id(counter) for counter in itertools.chain(*counters)}
        self.changed_by_forward = [buffer for network in (self.student, self.teacher) for buffer in network.buffers()
                                   if id(buffer) not in known]
        self.student_counters, self.teacher_counters = counters
        if config.machine.compile:
            self.student.compile()
            self.teacher.compile()
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
        self.accumulation = numbers.batch_size // numbers.micro_batch

    def lr(self, step: int) -> float:
        peak = peak_lr(self.numbers.base_lr, self.numbers.batch_size)
        return cosine_schedule(step, self.steps, peak, peak * self.numbers.final_lr, self.warmup_steps, peak / 100)

    def momentum(self, step: int) -> float:
        return cosine_schedule(step, self.steps, self.numbers.teacher_momentum, 1.0)

    def loss(self, batch: Batch, watch: bool = True) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of one micro-batch of this process, in fp32; with `watch` the statistics of `clove_loss` too."""
        device, dtype = self.process.device, AUTOCAST[self.numbers.precision]
        groups = [normalise(self._views(views)) for views in batch.views]
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            teacher_maps = self.teacher(groups[0])
            student_maps = self.forward(groups)
        boxes = [boxes.to(device, non_blocking=True) for boxes in batch.boxes]
        sizes = batch.sizes.to(device, non_blocking=True)
        return clove_loss(student_maps, teacher_maps, boxes, sizes, self.numbers, watch)

    def _views(self, views: torch.Tensor) -> torch.Tensor:
        """(V, B, 3, S, S) uint8 on this process's device, in the memory format of the encoder."""
        views = views.to(self.process.device, non_blocking=True)
        if not self.config.machine.channels_last:
            return views
        return views.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, views.shape[:2])

    def is_logged(self, step: int) -> bool:
        """Whether `step`, counted from 0, gets a line of metrics."""
        return (step + 1) % self.config.machine.log_every == 0 or step + 1 in (1, self.steps)

    def step(self, step: int, micro_batches: list[Batch]) -> dict[str, float]:
        """One optimizer step; returns the loss and, in a logged step, the statistics, means over processes. When the
        loss is not finite nothing changes: no update, and batch norm's running statistics are put back. The host waits
        for the device once, to learn whether the loss is finite."""
        watch, names, totals = self.is_logged(step), [], None
        kept = self.changed_by_forward
        before = torch._foreach_mul(kept, 1) if kept else []  # a copy of all of them in one operation
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            wait = contextlib.nullcontext() if last or self.process.world == 1 else self.forward.no_sync()
            with wait:
                loss, statistics = self.loss(batch, watch)
                self.scaler.scale(loss / self.accumulation if self.accumulation > 1 else loss).backward()
            names = ["loss", *statistics]
            values = torch.stack([value.float() for value in (loss.detach(), *statistics.values())])
            totals = values if totals is None else totals + values
        means = distributed.mean_over_processes(totals / self.accumulation if self.accumulation > 1 else totals)
        *values, overflowed = self._fetch(means)
        result = dict(zip(names, values, strict=True))
        result["lr"], result["teacher_momentum"] = self.lr(step), self.momentum(step)
        if math.isfinite(result["loss"]):
            for group in self.optimizer.param_groups:
                group["lr"] = result["lr"]
            if self.numbers.ema_timing == "before_step":
                self.teacher.follow(self.student, result["teacher_momentum"])
            if not overflowed:
                self.optimizer.step()
            self.scaler.update()
            if self.numbers.ema_timing == "after_step":
                self.teacher.follow(self.student, result["teacher_momentum"])
            passes = len(micro_batches[0].views) * self.accumulation
            for counters, more in ((self.student_counters, passes), (self.teacher_counters, self.accumulation)):
                if counters:
                    torch._foreach_add_(counters, more)
        else:
            if kept:
                torch._foreach_copy_(kept, before)
            if self.scaler.is_enabled():
                self.scaler.update(self.scaler._scale)  # forgets this step's gradients, keeps the scale
        return result

    def _fetch(self, means: torch.Tensor) -> list[float]:
        """The values of `means`, and last whether gradients overflowed (fp16), which are in their true scale after
        this. Here the host waits; GradScaler.step would make it wait once more."""
        if not self.scaler.is_enabled():
            return [*means.tolist(), 0.0]
        self.scaler.unscale_(self.optimizer)
        overflow, = self.scaler._found_inf_per_device(self.optimizer).values()
        return torch.cat([means, overflow.reshape(1)]).tolist()

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


def train(config: Config, folder: Path, output: Path, process: Process) -> Path:
    """Pretrain on the images below `folder`; returns OUTPUT/backbone.safetensors (the student's encoder).

    Started again with the same configuration and images it goes on from the newest whole checkpoint; the result equals
    that of an uninterrupted run, bit for bit on a CPU. Raises `UserError`, `StoppedBySignal`, `TrainingFailed`.
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

    trainer = Trainer(config, process, steps, per_epoch)
    first_step = _resume(trainer, output, process)
    trainer.teacher.train()
    _say(process, f"{len(names)} images, {numbers.epochs} epochs of {per_epoch} steps; a step is {numbers.batch_size} "
                  f"images ({trainer.accumulation} x {numbers.micro_batch}), peak learning rate "
                  f"{peak_lr(numbers.base_lr, numbers.batch_size):g}, {numbers.precision} on {process.device} x "
                  f"{process.world}")
    probe = RetrievalProbe(folder, names, machine.probe_images, numbers, process.device)
    loader = make_loader(folder, names, config, first_step, steps, process.rank, process.world,
                         process.device.type == "cuda")
    log = _Log(output, first_step, process)
    unreadable: dict[str, str] = {}
    skipped_in_a_row = 0

    with stop_signals() as received, log:
        bar = tqdm(total=steps, initial=first_step, desc="pretrain", unit="step", disable=not process.is_main,
                   mininterval=0.5 if sys.stderr.isatty() else 15)
        step = first_step
        while True:
            probing = step in (0, steps) or (machine.probe_every and step % machine.probe_every == 0)
            if probing and not log.has_probe(step):
                log.probe(step, probe(trainer.student, trainer.teacher))
            asked_to_stop = _agree(received, process)
            if step > first_step and (step % machine.checkpoint_every == 0 or step == steps or asked_to_stop):
                _save(trainer, output, step, config, process)
            if step == steps:
                break
            if asked_to_stop:
                raise StoppedBySignal(asked_to_stop, step)

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
            if trainer.is_logged(step - 1):
                log.step(step, result, numbers.batch_size / took, waited / took)
                bar.set_postfix(loss=f"{result['loss']:.3f}", positive=f"{result['positive_cosine']:.3f}",
                                negative=f"{result['negative_cosine']:.3f}", refresh=False)
            bar.update()
        bar.close()

    if process.is_main:
        _finish(trainer, output, config, folder, names)
    distributed.barrier()
    return backbone


def _claim(output: Path, config: Config, names: list[str]) -> None:
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
    return meta["step"]


def _save(trainer: Trainer, output: Path, step: int, config: Config, process: Process) -> None:
    if process.is_main:
        meta = {"steps": trainer.steps, "config_hash": config.hash(), "world_size": process.world}
        checkpoint.save(output, step, trainer.state(), meta, config.machine.keep_checkpoints)
    distributed.barrier()


def _finish(trainer: Trainer, output: Path, config: Config, folder: Path, names: list[str]) -> None:
    """Backbone, pictures, and last the note that all of it is there."""
    state = {name: value for name, value in trainer.student.encoder.state_dict().items()
             if not name.endswith("num_batches_tracked")}
    info = BackboneInfo("CLoVE", config.numbers.architecture, config.numbers.epochs, branch="student",
                        source_name=f"pretrain:{config.numbers.variant}", source_sha256=config.hash())
    digest = save_backbone(output / "backbone.safetensors", state, info)
    draw_curves(output / "metrics.jsonl", output / "curves.png")
    draw_views(folder, names, config.numbers, output / "views.png")
    write_text(output / "done.json", json.dumps({"steps": trainer.steps, "backbone_sha256": digest}) + "\n")


def _agree(received: list[int], process: Process) -> int:
    """The signal any process has received, 0 for none: all of them must stop after the same step."""
    if process.world == 1:
        return received[0] if received else 0
    flag = torch.tensor([float(received[0] if received else 0)], device=process.device)
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


class _Log:
    """metrics.jsonl and TensorBoard, from the main process; lines after the resumed step are dropped."""

    def __init__(self, output: Path, first_step: int, process: Process) -> None:
        self.path, self.active = output / "metrics.jsonl", process.is_main
        self.probed: set[int] = set()  # known to every process: a probe is done by all of them or by none
        kept = []
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a line that a kill cut off
                    entry = json.loads(line)
                    if entry["step"] <= first_step:
                        kept.append(line)
                        if "retrieval_backbone" in entry:
                            self.probed.add(entry["step"])
        if not self.active:
            return
        write_text(self.path, "".join(line + "\n" for line in kept))
        self.board = SummaryWriter(str(output / "tensorboard"), purge_step=first_step + 1)

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.board.close()

    def has_probe(self, step: int) -> bool:
        return step in self.probed

    def probe(self, step: int, values: dict[str, float]) -> None:
        self._write(step, values)

    def step(self, step: int, result: dict[str, float], images_per_second: float, loader_wait: float) -> None:
        self._write(step, {**result, "images_per_second": round(images_per_second, 2),
                           "loader_wait": round(loader_wait, 4)})

    def _write(self, step: int, values: dict[str, float]) -> None:
        if not self.active or not values:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
