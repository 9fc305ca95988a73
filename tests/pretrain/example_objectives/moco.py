"""MoCo (He et al., 2020) in short: a momentum encoder and a queue of its keys, the same in every process."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pretrain.objective import Inputs, Objective, ObjectiveOptions
from pretrain.options.option import option
from pretrain.options.shared_options import Train

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MocoOptions(ObjectiveOptions):
    """MoCo's own options."""

    dim: int = option(128, "channels of a key")
    queue: int = option(65536, "keys in the queue")
    temperature: float = option(0.07, "of the softmax")
    momentum: float = option(0.999, "of the momentum encoder")

    @classmethod
    def preset(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {"global_views": 2, "local_views": 0}  # the views it wants


class Moco(Objective):
    """The first global view is the query, the second one the key."""

    name = "moco"
    method = "MoCo"
    Options = MocoOptions
    branch = "student"
    shown = ("accuracy",)

    def __init__(self, train: Train, options: MocoOptions, classes: tuple[str, ...], steps: int) -> None:
        import torch
        import torch.nn.functional as F
        from torch import nn

        from pretrain.encoder import Encoder
        from pretrain.model import EncoderAndHead

        super().__init__(train, options, classes, steps)
        encoder = Encoder(train.architecture, train.last_stage_stride)
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(encoder.channels, options.dim))
        self.student = EncoderAndHead(encoder, head)
        self.follower = copy.deepcopy(self.student).requires_grad_(False)
        self.follower.register_buffer("queue", F.normalize(torch.randn(options.queue, options.dim), dim=1))
        self.keys: list[Tensor] = []

    def before_step(self, step: int) -> None:
        self.keys = []  # those of a step that was skipped do not count

    def targets(self, inputs: Inputs) -> Tensor:
        import torch.nn.functional as F

        from pretrain.model import at_least_fp32

        keys = F.normalize(at_least_fp32(self.follower([inputs.groups[0][1:2]])[0][0]), dim=1)  # (B, dim)
        self.keys.append(keys)
        return keys

    def loss(
        self, outputs: list[Tensor], targets: Tensor, inputs: Inputs, watch: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        import torch
        import torch.nn.functional as F

        from pretrain.model import at_least_fp32

        queries = F.normalize(at_least_fp32(outputs[0][0]), dim=1)
        right = (queries * targets).sum(1, keepdim=True)
        scores = torch.cat([right, queries @ self.follower.queue.T], dim=1) / self.options.temperature
        zeros = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
        return F.cross_entropy(scores, zeros), {"accuracy": (scores.argmax(1) == 0).float().mean()}

    def after_update(self, step: int) -> None:
        import torch

        from pretrain.distributed import gathered

        keys = gathered(torch.cat(self.keys))
        self.follower.queue.copy_(torch.cat([keys, self.follower.queue])[:len(self.follower.queue)])
        student = dict(self.student.named_parameters())
        for name, value in self.follower.named_parameters():
            value.lerp_(student[name].detach(), 1 - self.options.momentum)


OBJECTIVE = Moco
