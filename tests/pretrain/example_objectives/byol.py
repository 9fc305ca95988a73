"""BYOL (Grill et al., 2020) in short: a prediction of each global view's pooled embedding by a teacher of the other."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pretrain.objective import Inputs, Objective, ObjectiveOptions
from pretrain.options.option import option
from pretrain.options.shared_options import Train

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ByolOptions(ObjectiveOptions):
    """BYOL's own options."""

    hidden: int = option(4096, "units of the hidden layers")
    momentum: float = option(0.99, "of the teacher")


class Byol(Objective):
    """Two global views; local ones, if there are some, are predicted too."""

    name = "byol"
    method = "BYOL"
    Options = ByolOptions
    branch = "student"
    shown = ("cosine",)
    curves = (("cosine of prediction and teacher", ("cosine",)),)

    def __init__(self, train: Train, options: ByolOptions, classes: tuple[str, ...], steps: int) -> None:
        from torch import nn

        from pretrain.encoder import Encoder
        from pretrain.model import EncoderAndHead

        super().__init__(train, options, classes, steps)
        encoder = Encoder(train.architecture, train.last_stage_stride)
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(encoder.channels, options.hidden))
        self.follower = copy.deepcopy(EncoderAndHead(encoder, pool)).requires_grad_(False)
        predictor = nn.Sequential(nn.ReLU(), nn.Linear(options.hidden, options.hidden))
        self.student = EncoderAndHead(encoder, nn.Sequential(*pool, *predictor))

    def targets(self, inputs: Inputs) -> Tensor:
        from pretrain.model import at_least_fp32

        return at_least_fp32(self.follower(inputs.groups[:1])[0])  # (V global, B, hidden)

    def loss(
        self, outputs: list[Tensor], targets: Tensor, inputs: Inputs, watch: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        import torch
        import torch.nn.functional as F

        from pretrain.model import at_least_fp32

        student = at_least_fp32(torch.cat(outputs))  # (V, B, hidden), global views first
        cosine = F.cosine_similarity(student.unsqueeze(1), targets.unsqueeze(0), dim=-1)  # (V, V global, B)
        others = torch.ones_like(cosine[..., 0]).fill_diagonal_(0)  # no view is compared with itself
        mean = (cosine * others.unsqueeze(-1)).sum() / (others.sum() * cosine.shape[-1])
        return 1 - mean, {"cosine": mean.detach()}

    def after_update(self, step: int) -> None:
        student = dict(self.student.named_parameters())
        for name, value in self.follower.named_parameters():
            value.lerp_(student[name].detach(), 1 - self.options.momentum)


OBJECTIVE = Byol
