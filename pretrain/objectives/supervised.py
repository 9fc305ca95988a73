"""Supervised: cross-entropy on the images' classes, from the same views; the positive control of every benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pretrain.common.errors import UserError
from pretrain.objective import Inputs, Objective, ObjectiveOptions
from pretrain.options.shared_options import Runtime, Train

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SupervisedOptions(ObjectiveOptions):
    """No options of its own; it needs labels."""

    def check(self, train: Train, runtime: Runtime) -> None:
        if train.labels == "none":
            raise UserError("the objective supervised needs labels, found none: use --labels folder (CLASS/IMAGE) or "
                            "--labels prefix (CLASS__IMAGE)")


class Supervised(Objective):
    """Encoder, average pool and a linear classifier; every view of an image counts the same."""

    name = "supervised"
    method = "Supervised"
    Options = SupervisedOptions
    shown = ("accuracy",)
    curves = (("share of the training views with the right class", ("accuracy",)),)

    def __init__(self, train: Train, options: SupervisedOptions, classes: tuple[str, ...], steps: int) -> None:
        from torch import nn

        from pretrain.encoder import Encoder
        from pretrain.model import EncoderAndHead

        super().__init__(train, options, classes, steps)
        encoder = Encoder(train.architecture, train.last_stage_stride)
        classifier = nn.Linear(encoder.channels, len(classes))
        self.student = EncoderAndHead(encoder, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier))

    def loss(
        self, outputs: list[Tensor], targets: None, inputs: Inputs, watch: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        import torch
        import torch.nn.functional as F

        from pretrain.model import at_least_fp32

        scores = at_least_fp32(torch.cat(outputs))  # (V of all sizes, B, K)
        labels = inputs.labels.expand(scores.shape[:2])
        loss = F.cross_entropy(scores.flatten(0, 1), labels.flatten())
        if not watch:
            return loss, {}
        return loss, {"accuracy": (scores.detach().argmax(-1) == labels).float().mean()}


OBJECTIVE = Supervised
