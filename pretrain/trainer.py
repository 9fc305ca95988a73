"""What one process holds in a training (networks, optimizer, loss scaler) and how it takes a step.

Legend: V views of one size, B images, S side of a view in pixels.
"""

import contextlib
import functools
import math
import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pretrain import distributed, kernels, objectives
from pretrain.config import Config
from pretrain.data.augment_batch import finished_views
from pretrain.data.batches import Batch, images_at_once
from pretrain.distributed import Process
from pretrain.encoder import BatchNorm
from pretrain.model import normalise
from pretrain.objective import Inputs, Objective
from pretrain.optim import LARS, cosine_schedule, peak_lr

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Everything one process holds: networks, optimizer and scaler, and how they take a step."""

    def __init__(
        self, config: Config, process: Process, steps: int, per_epoch: int, classes: tuple[str, ...] = ()
    ) -> None:
        """steps: of the whole run; per_epoch: steps of an epoch; classes: of the images, sorted."""
        self.config, self.process, self.steps = config, process, steps
        self.train = train = config.train
        self.warmup_steps = round(train.warmup_epochs * per_epoch)
        self.kernels = kernels.choose(process.device, deterministic=config.runtime.deterministic)
        torch.manual_seed(train.seed)
        self.objective = objectives.get(config.objective_name)(train, config.objective, classes, steps)
        self._prepare(self.objective)
        # Batch norm layers leave their counting to the trainer: for each network (student, follower) one list.
        self.counters: list[list[torch.Tensor]] = []
        self.changed_by_forward: list[torch.Tensor] = []  # by a forward pass: all other buffers
        for network in self.objective.networks():
            counters = [layer.num_batches_tracked for layer in network.modules() if type(layer) is BatchNorm]
            known = set(map(id, counters))
            self.counters.append(counters)
            self.changed_by_forward += [buffer for buffer in network.buffers() if id(buffer) not in known]
        self.forward: nn.Module = self.student
        if process.world > 1:
            with warnings.catch_warnings():
                # torch 2.14 renames the argument to one that older versions do not know.
                warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
                self.forward = DistributedDataParallel(
                    self.student, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.optimizer = LARS(self.student.parameters(), lr=0.0, momentum=train.sgd_momentum,
                              weight_decay=train.weight_decay, trust=train.trust)
        self.skipped = self.skipped_in_a_row = 0  # steps whose loss was not finite
        self.overflowed = self.overflowed_in_a_row = 0  # updates left out because fp16 gradients overflowed
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=train.precision == "fp16")
        at_once = images_at_once(train.batch_size, config.runtime.device_batch, process.world)
        self.micro_batch = process.world * at_once
        self.accumulation = train.batch_size // self.micro_batch

    def _prepare(self, objective: Objective) -> None:
        """Bring the networks to the device, in the memory format and with the batch norm of this
        run."""
        process, runtime = self.process, self.config.runtime
        objective.student = objective.student.to(process.device)
        if objective.follower is not None:
            objective.follower = objective.follower.to(process.device)
        if runtime.channels_last:  # heads too: 1x1 convolutions' gradients would have other strides than their weights
            for network in objective.networks():
                network.to(memory_format=torch.channels_last)
        objective.student = distributed.synchronise_batch_norm(objective.student, process)
        if objective.follower is not None:
            objective.follower = distributed.synchronise_batch_norm(objective.follower, process).train()
        if runtime.compile:
            for network in objective.networks():
                network.compile()
        elif dtype := AUTOCAST[self.train.precision]:
            objective.keep_cast(dtype)

    @property
    def student(self) -> nn.Module:
        return self.objective.student

    def lr(self, step: int) -> float:
        """Learning rate at `step`, from 0."""
        peak = peak_lr(self.train.base_lr, self.train.batch_size)
        return cosine_schedule(step, self.steps, peak, peak * self.train.final_lr, self.warmup_steps)

    def loss(self, batch: Batch, watch: bool = True) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of one micro-batch of this process, in fp32; with `watch` the objective's statistics
        too."""
        inputs, objective = self._inputs(batch), self.objective
        # Two regions: autocast keeps the weights it has cast, and those cast without gradient would have none to give.
        with self._autocast(), torch.no_grad():
            targets = objective.targets(inputs)
        with self._autocast():
            outputs = self.forward(inputs.groups)
        return objective.loss(outputs, targets, inputs, watch)

    def _autocast(self) -> torch.autocast:
        dtype = AUTOCAST[self.train.precision]
        return torch.autocast(self.process.device.type, dtype=dtype, enabled=dtype is not None)

    def _inputs(self, batch: Batch) -> Inputs:
        """A micro-batch on the device."""
        device, labels = self.process.device, batch.labels
        groups = [normalise(self._in_memory_format(views)) for views in finished_views(batch, device)]
        boxes = [boxes.to(device, non_blocking=True) for boxes in batch.boxes]
        if labels is not None:
            labels = labels.to(device, non_blocking=True)
        return Inputs(groups, boxes, batch.sizes.to(device, non_blocking=True), labels)

    def _in_memory_format(self, views: torch.Tensor) -> torch.Tensor:
        """(V, B, 3, S, S) uint8, laid out as the encoder wants them."""
        if not self.config.runtime.channels_last:
            return views
        return views.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, views.shape[:2])

    def is_logged(self, step: int) -> bool:
        """Whether `step`, counted from 0, gets a line of metrics."""
        return (step + 1) % self.config.runtime.log_every == 0 or step + 1 in (1, self.steps)

    def step(self, step: int, micro_batches: list[Batch]) -> dict[str, float]:
        """One optimizer step; returns the loss and, in a logged step, the statistics, means over
        processes.

        When the loss is not finite, nothing but the count of such steps changes: no update, and
        batch norm's running statistics are put back. The host waits for the device once, to learn
        whether the loss is finite."""
        kept, before = self.changed_by_forward, []
        if kept:
            before = torch._foreach_mul(kept, 1)  # a copy of all of them in one operation
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.before_step(step)
        watched, means = self._accumulate(micro_batches, self.is_logged(step))
        *values, overflowed = self._fetch(means)
        result = _by_name(watched, values)
        result |= {"lr": self.lr(step), **self.objective.scheduled(step)}
        if math.isfinite(result["loss"]):
            self.skipped_in_a_row = 0
            self._update(step, result["lr"], overflowed > 0)
            # A micro-batch passes the student once for each size of views, the follower once.
            for counters, passes in zip(self.counters, (len(micro_batches[0].views), 1), strict=False):
                if counters:
                    torch._foreach_add_(counters, passes * self.accumulation)
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1
            if kept:
                torch._foreach_copy_(kept, before)
            if self.scaler.is_enabled():
                self.scaler.update(self.scaler._scale)  # forgets this step's gradients, keeps the scale
        return result

    def _accumulate(self, micro_batches: list[Batch], watch: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Add up the gradients. Returns loss and statistics of the last micro-batch, by name, and
        all of their values in one vector, means over micro-batches and processes."""
        vectors = []
        for number, batch in enumerate(micro_batches, 1):
            with contextlib.ExitStack() as stack:
                if self.process.world > 1 and number < len(micro_batches):
                    stack.enter_context(self.forward.no_sync())
                loss, statistics = self.loss(batch, watch)
                part = loss / self.accumulation if self.accumulation > 1 else loss
                self.scaler.scale(part).backward()
            watched = {"loss": loss.detach(), **statistics}
            vectors.append(torch.cat([value.float().reshape(-1) for value in watched.values()]))
        mean = functools.reduce(torch.add, vectors)
        if self.accumulation > 1:
            mean = mean / self.accumulation
        return watched, distributed.mean_over_processes(mean)

    def _update(self, step: int, lr: float, overflowed: bool) -> None:
        """Update the student, unless fp16 gradients overflowed, and then whatever follows it."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.objective.before_update(step)
        if overflowed:
            self.overflowed += 1
            self.overflowed_in_a_row += 1
        else:
            self.overflowed_in_a_row = 0
            self.optimizer.step()
        self.scaler.update()
        self.objective.after_update(step)

    def _fetch(self, means: torch.Tensor) -> list[float]:
        """The values of `means`, and last whether gradients overflowed (fp16), which are in their
        true scale after this. Here the host waits; GradScaler.step would make it wait once more."""
        if not self.scaler.is_enabled():
            return [*means.tolist(), 0.0]
        self.scaler.unscale_(self.optimizer)
        [overflow] = self.scaler._found_inf_per_device(self.optimizer).values()
        return torch.cat([means, overflow.reshape(1)]).tolist()

    def state(self) -> dict[str, Any]:
        follower = self.objective.follower
        return {"student": self.student.state_dict(), "follower": {} if follower is None else follower.state_dict(),
                "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
                "rng": torch.get_rng_state(), "skipped": [self.skipped, self.skipped_in_a_row],
                "overflowed": [self.overflowed, self.overflowed_in_a_row]}

    def load(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        if self.objective.follower is not None:
            self.objective.follower.load_state_dict(state["follower"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        self.skipped, self.skipped_in_a_row = state["skipped"]
        self.overflowed, self.overflowed_in_a_row = state["overflowed"]


def _by_name(watched: dict[str, torch.Tensor], values: list[float]) -> dict[str, float]:
    """The fetched `values` under the names of what they were; a sum and a count become their mean,
    NaN of nothing."""
    result, left = {}, iter(values)
    for name, value in watched.items():
        result[name] = next(left)
        if value.numel() == 2:
            count = next(left)
            result[name] = result[name] / count if count else math.nan
    return result
