"""LARS, and the schedules of learning rate and momentum (EMA)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

EPS = 1e-8  # keeps the trust ratio finite where a gradient is 0


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling over SGD with momentum (You et al. 2017), as in the released
    code.

    For tensors of more than one dimension: g <- g + weight_decay * w, then
    g <- g * trust * |w| / (|g| + EPS) where both norms are above 0. One-dimensional tensors:
    neither. Then SGD: v <- momentum * v + g, w <- w - lr * v.
    The norms stay on the device: no host synchronisation.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.9, weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        params = list(params)
        groups = [{"params": [param for param in params if param.dim() > 1], "adapt": True},
                  {"params": [param for param in params if param.dim() <= 1], "adapt": False}]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust,
                                  "eps": EPS})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if not params:
                continue
            grads = [param.grad for param in params]
            if group["adapt"]:
                grads = torch._foreach_add(grads, params, alpha=group["weight_decay"])
                torch._foreach_mul_(grads, self._rates(params, grads, group))
            for param in params:
                if "momentum_buffer" not in self.state[param]:
                    self.state[param]["momentum_buffer"] = torch.zeros_like(param)
            buffers = [self.state[param]["momentum_buffer"] for param in params]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, grads)
            torch._foreach_add_(params, buffers, alpha=-group["lr"])

    @staticmethod
    def _rates(params: list[Tensor], grads: list[Tensor], group: dict) -> list[Tensor]:
        weight_norm = torch.stack(torch._foreach_norm(params))
        grad_norm = torch.stack(torch._foreach_norm(grads))
        rate = group["trust"] * weight_norm / (grad_norm + group["eps"])
        return list(torch.where((weight_norm > 0) & (grad_norm > 0), rate, 1.0).unbind())


def cosine_schedule(step: int, steps: int, start: float, end: float, warmup_steps: int = 0) -> float:
    """Value at `step` (from 0) of `steps`: linear from start / 100 to start over the first
    `warmup_steps`, which reach `start` at their last one, then half a cosine from start towards
    end."""
    if step < warmup_steps:
        lowest = start / 100
        return lowest + (start - lowest) * step / max(warmup_steps - 1, 1)
    progress = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def peak_lr(base_lr: float, batch_size: int) -> float:
    """Peak learning rate by the linear rule: base_lr for each 256 images of an optimizer step."""
    return base_lr * batch_size / 256
