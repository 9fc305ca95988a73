"""What one process holds in a training, networks, optimizer and loss scaler, and how it takes a step."""

import contextlib
import itertools
import math
import warnings
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from pretrain import distributed
from pretrain.config import Config
from pretrain.data import Batch, images_at_once
from pretrain.distributed import Process
from pretrain.encoder import BatchNorm
from pretrain.gpu_augment import finished_views
from pretrain.loss import clove_loss
from pretrain.model import Student, Teacher, normalise
from pretrain.optim import LARS, cosine_schedule, peak_lr

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Everything one process holds: networks, optimizer and scaler, and how they take a step."""

    def __init__(self, config: Config, process: Process, steps: int, per_epoch: int) -> None:
        self.config, self.process, self.steps = config, process, steps
        train, options = config.train, config.objective
        self.train, self.options = train, options
        self.warmup_steps = round(train.warmup_epochs * per_epoch)
        torch.manual_seed(train.seed)
        self.student = Student(train, options).to(process.device)
        self.teacher = Teacher(self.student).to(process.device)
        if config.runtime.channels_last:
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
        if config.runtime.compile:
            self.student.compile()
            self.teacher.compile()
        elif dtype := AUTOCAST[train.precision]:
            self.teacher.keep_cast(dtype)
        self.forward: nn.Module = self.student
        if process.world > 1:
            with warnings.catch_warnings():
                # torch 2.14 renames the argument to one that older versions do not know.
                warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
                self.forward = DistributedDataParallel(
                    self.student, device_ids=[process.device.index] if process.device.type == "cuda" else None,
                    broadcast_buffers=False, gradient_as_bucket_view=True)
        self.optimizer = LARS(self.student.parameters(), lr=0.0, momentum=train.sgd_momentum,
                              weight_decay=train.weight_decay, trust=train.trust)
        self.skipped = self.skipped_in_a_row = 0  # steps whose loss was not finite
        self.overflowed = self.overflowed_in_a_row = 0  # updates left out because fp16 gradients overflowed
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=train.precision == "fp16")
        self.micro_batch = process.world * images_at_once(
            train.batch_size, config.runtime.device_batch, process.world)
        self.accumulation = train.batch_size // self.micro_batch

    def lr(self, step: int) -> float:
        peak = peak_lr(self.train.base_lr, self.train.batch_size)
        return cosine_schedule(step, self.steps, peak, peak * self.train.final_lr, self.warmup_steps, peak / 100)

    def momentum(self, step: int) -> float:
        return cosine_schedule(step, self.steps, self.options.teacher_momentum, 1.0)

    def loss(self, batch: Batch, watch: bool = True) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of one micro-batch of this process, in fp32; with `watch` the statistics of `clove_loss` too."""
        device, dtype = self.process.device, AUTOCAST[self.train.precision]
        groups = [normalise(self._in_memory_format(views)) for views in finished_views(batch, device)]
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            teacher_maps = functional_call(self.teacher, self.teacher.cast, (groups[0],))
            student_maps = self.forward(groups)
        boxes = [boxes.to(device, non_blocking=True) for boxes in batch.boxes]
        sizes = batch.sizes.to(device, non_blocking=True)
        return clove_loss(student_maps, teacher_maps, boxes, sizes, self.options, watch)

    def _in_memory_format(self, views: torch.Tensor) -> torch.Tensor:
        """(V, B, 3, S, S) uint8, laid out as the encoder wants them."""
        if not self.config.runtime.channels_last:
            return views
        return views.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, views.shape[:2])

    def is_logged(self, step: int) -> bool:
        """Whether `step`, counted from 0, gets a line of metrics."""
        return (step + 1) % self.config.runtime.log_every == 0 or step + 1 in (1, self.steps)

    def step(self, step: int, micro_batches: list[Batch]) -> dict[str, float]:
        """One optimizer step; returns the loss and, in a logged step, the statistics, means over processes. When the
        loss is not finite nothing but the count of such steps changes: no update, and batch norm's running statistics
        are put back. The host waits for the device once, to learn whether the loss is finite."""
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
            self.skipped_in_a_row = 0
            for group in self.optimizer.param_groups:
                group["lr"] = result["lr"]
            if self.options.ema_timing == "before_step":
                self.teacher.follow(self.student, result["teacher_momentum"])
            if overflowed:
                self.overflowed += 1
                self.overflowed_in_a_row += 1
            else:
                self.overflowed_in_a_row = 0
                self.optimizer.step()
            self.scaler.update()
            if self.options.ema_timing == "after_step":
                self.teacher.follow(self.student, result["teacher_momentum"])
            passes = len(micro_batches[0].views) * self.accumulation
            for counters, more in ((self.student_counters, passes), (self.teacher_counters, self.accumulation)):
                if counters:
                    torch._foreach_add_(counters, more)
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1
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
                "rng": torch.get_rng_state(), "skipped": [self.skipped, self.skipped_in_a_row],
                "overflowed": [self.overflowed, self.overflowed_in_a_row]}

    def load(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.teacher.renew_cast()
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        self.skipped, self.skipped_in_a_row = state["skipped"]
        self.overflowed, self.overflowed_in_a_row = state.get("overflowed", (0, 0))
