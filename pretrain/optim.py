"""LARS, and the schedules of learning rate and teacher momentum."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling over SGD with momentum (You et al. 2017), as in the released code.

    For tensors of more than one dimension: g <- g + weight_decay * w, then g <- g * trust * |w| / (|g| + eps) where
    both norms are above 0. One-dimensional tensors: neither. Then SGD: v <- momentum * v + g, w <- w - lr * v.
    The norms stay on the device: no host synchronisation.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.9, weight_decay: float = 0.0,
        trust: float = 1e-3, eps: float = 1e-8,
    ) -> None:
        params = list(params)
        groups = [
            {"params": [p for p in params if p.dim() > 1], "adapt": True},
            {"params": [p for p in params if p.dim() <= 1], "adapt": False},
        ]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust,
                                  "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            if group["adapt"]:
                grads = torch._foreach_add(grads, params, alpha=group["weight_decay"])
                torch._foreach_mul_(grads, self._rates(params, grads, group))
            fresh = [p for p in params if "momentum_buffer" not in self.state[p]]
            for p in fresh:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, grads)
            torch._foreach_add_(params, buffers, alpha=-group["lr"])

    @staticmethod
    def _rates(params: list[Tensor], grads: list[Tensor], group: dict) -> list[Tensor]:
        weight_norm = torch.stack(torch._foreach_norm(params))
        grad_norm = torch.stack(torch._foreach_norm(grads))
        rate = group["trust"] * weight_norm / (grad_norm + group["eps"])
        return list(torch.where((weight_norm > 0) & (grad_norm > 0), rate, 1.0).unbind())


def cosine_schedule(
    step: int, steps: int, start: float, end: float, warmup_steps: int = 0, warmup_start: float = 0.0
) -> float:
    """Value at `step` (0-based) of `steps`: linear from warmup_start to start over the first `warmup_steps`, which
    reach `start` at their last one, then half a cosine from start towards end."""
    if step < warmup_steps:
        return warmup_start + (start - warmup_start) * step / max(warmup_steps - 1, 1)
    progress = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def peak_lr(base_lr: float, batch_size: int) -> float:
    """The linear rule: base_lr for each 256 images of an optimizer step."""
    return base_lr * batch_size / 256
