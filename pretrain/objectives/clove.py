"""CLoVE: contextualized student cells against teacher cells of other views, by a margin ranking loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretrain.clove_options import CloveOptions
from pretrain.objective import Inputs, Negatives, Objective
from pretrain.options.shared_options import Train

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Clove(Objective):
    """The poster's objective and the released code's; see `pretrain.clove_options`."""

    name = "clove"
    method = "CLoVE"
    Options = CloveOptions
    branch = "student"
    roles = ("student", "teacher")
    shown = ("ranking_gap", "positive_cosine", "negative_cosine")
    curves = (
        ("ranking gap: negative - lambda x positive cosine", ("ranking_gap",)),
        ("cosine of positive pairs and of negatives", ("positive_cosine", "negative_cosine")),
        ("active hinges; view pairs without overlap (shares)", ("hinge_active", "no_overlap")),
        ("share of the negatives that are positives", ("negative_is_positive",)),
        ("positive cells per student cell", ("positives_per_query",)),
    )

    def __init__(self, train: Train, options: CloveOptions, classes: tuple[str, ...], steps: int) -> None:
        from pretrain.model import Student, Teacher

        super().__init__(train, options, classes, steps)
        self.student = Student(train, options)
        self.follower = Teacher(self.student)

    def targets(self, inputs: Inputs) -> Tensor:
        from torch.func import functional_call

        return functional_call(self.follower, self.follower.cast, (inputs.groups[0],))

    def loss(
        self, outputs: list[Tensor], targets: Tensor, inputs: Inputs, watch: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        from pretrain.loss import clove_loss

        return clove_loss(outputs, targets, inputs.boxes, inputs.sizes, self.options, watch)

    def momentum(self, step: int) -> float:
        """Of the teacher at `step`, from 0."""
        from pretrain.optim import cosine_schedule

        return cosine_schedule(step, self.steps, self.options.teacher_momentum, 1.0)

    def scheduled(self, step: int) -> dict[str, float]:
        return {"teacher_momentum": self.momentum(step)}

    def before_update(self, step: int) -> None:
        if self.options.ema_timing == "before_step":
            self.follower.follow(self.student, self.momentum(step))

    def after_update(self, step: int) -> None:
        if self.options.ema_timing == "after_step":
            self.follower.follow(self.student, self.momentum(step))

    def keep_cast(self, dtype: torch.dtype) -> None:
        self.follower.keep_cast(dtype)

    def maps(self, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        backbone = self.student.encoder(images)
        contextualized = self.student.attention(self.student.projector(backbone))
        projected = self.follower(images.unsqueeze(0)).squeeze(0)
        return {"backbone": (backbone, backbone), "contextualized": (contextualized, projected)}

    def attention(self, images: Tensor) -> Tensor | None:
        if self.options.attention == "none":
            return None
        return self.student.attention.weights(self.student.projector(self.student.encoder(images))).mean(1)

    def negatives(self, cell: Tensor, others: Tensor, positives: Tensor) -> Negatives | None:
        from pretrain.loss import hardest_negatives, negative_cosine

        dropped, cells = hardest_negatives(cell @ others, positives, self.options)
        return Negatives(cells, negative_cosine(cell, others, cells, self.options), dropped)


OBJECTIVE = Clove
