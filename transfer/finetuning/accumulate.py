"""The step of the fine-tuning: a whole batch, a few images at a time through the network."""

import contextlib
import time

import torch
from detectron2.engine import SimpleTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.common import stalls


def parts(batch: list, size: int) -> list[list]:
    """`batch` in pieces of `size`, in order."""
    return [batch[start:start + size] for start in range(0, len(batch), size)]


class AccumulatingTrainer(SimpleTrainer):
    """detectron2's simple trainer whose step takes `images` of this process at a time and averages
    their gradients.

    With `images` the whole batch it is detectron2's own step, bit for bit. The losses that are
    written are the means over the pieces. `precision` is that of the forward pass where autocast
    allows it: float16 with a scaled loss, as in detectron2's AMPTrainer, or bfloat16, which needs
    no scaling.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, images: int, precision: torch.dtype = torch.float32
    ) -> None:
        super().__init__(model, None, optimizer)
        self.images, self.precision = images, precision
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == torch.float16)

    @stalls.step()
    def run_step(self) -> None:
        start = time.perf_counter()
        pieces = parts(next(self._data_loader_iter), self.images)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        written: dict[str, torch.Tensor] = {}
        for number, piece in enumerate(pieces, start=1):
            with self._exchange(last=number == len(pieces)):
                with self._autocast():
                    losses = self.model(piece)
                    total = sum(losses.values()) / len(pieces)
                self.scaler.scale(total).backward()
            for name, value in losses.items():
                written[name] = written.get(name, 0) + value.detach() / len(pieces)
        self.after_backward()
        self._write_metrics(written, data_time)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(next(self.model.parameters()).device.type, self.precision)

    def _exchange(self, *, last: bool) -> contextlib.AbstractContextManager:
        """Several processes exchange their gradients once, with the last piece."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def close(self) -> None:
        """Let the loader processes go; the exit would wait for those that ignore a stop signal."""
        self._data_loader_iter_obj = None

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.scaler.load_state_dict(state.get("grad_scaler", {}))  # does nothing without half precision
