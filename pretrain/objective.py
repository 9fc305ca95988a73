"""What is learned: the seam between the training loop and an objective.

The loop gives an objective views of images and takes a loss; the objective owns the networks. In
every optimizer step:

    before_step
    for each micro-batch: targets (without gradient), student (with gradient), loss, backward
    before_update, the optimizer's update of the student, after_update      left out when the loss is not finite

Legend: V views of one size, B images, S side of a view in pixels, N images of any view, C channels,
H W feature grid, L = H*W cells in row-major order, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pretrain.options.shared_options import Runtime, Train

if TYPE_CHECKING:  # an objective's file is imported to list its options, which should not wait for torch
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class ObjectiveOptions:
    """The options of one objective, as a subclass with fields made by `option`; they and `Train`
    are its identity."""

    @classmethod
    def preset(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Values, shared or own, that `given` implies; values that are given themselves win over
        them. Such as the views that the objective wants, {"global_views": 2, "local_views": 0}."""
        return {}

    def check(self, train: Train, runtime: Runtime) -> None:
        """Raise `UserError` for values that cannot be."""

    def matching(self) -> tuple[float, str]:
        """T_pos and its unit (pretrain/matcher.py): which cells of two views see the same place,
        for the probes."""
        return 0.7, "cell_diagonal"


@dataclass(frozen=True)
class Inputs:
    """One micro-batch of a process, on its device.

    groups: for each size of views, the global one first, (V, B, 3, S, S) normalised RGB. boxes: for
    each group (V, B, 4), fractions of the source image. sizes: (B, 2) width and height in
    source-image pixels. labels: (B,) int64 class numbers, None with `labels: none`.
    """

    groups: list[Tensor]
    boxes: list[Tensor]
    sizes: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Negatives:
    """What one cell is pushed away from: cells of the other view, the hardest first, and its cosine
    with them as the loss takes it. dropped: a cell that the loss leaves out (None: no such
    cell)."""

    cells: list[int]
    cosine: float
    dropped: int | None = None


class Objective:
    """One objective: a subclass in a file of its own, which imports torch inside its methods only.

    student: takes `Inputs.groups` and gives anything; each group passes it once. Every parameter
        gets a gradient. It has the attribute `encoder`, a `pretrain.encoder.Encoder`.
    follower: what is kept beside the student and not trained by gradient, such as a teacher or a
        queue; None without. It is saved and resumed with the student, and the same in every
        process: what differs between them is gathered (`pretrain.distributed.gathered`). `targets`
        and `loss` may change its buffers, in place: they are put back when a step is skipped. Its
        parameters change in `before_update` and `after_update` only.
    """

    name: ClassVar[str]  # in recipes, on the command line and in a run's identity
    method: ClassVar[str]  # what its backbones are exported as: the row of a table
    Options: ClassVar[type[ObjectiveOptions]] = ObjectiveOptions
    branch: ClassVar[str] = "single"  # of the exported network in the backbone's header: student, teacher or single
    roles: ClassVar[tuple[str, str]] = ("first", "second")  # of the two views of a pair, in figures
    shown: ClassVar[tuple[str, ...]] = ()  # statistics in the progress bar and in status
    curves: ClassVar[tuple[tuple[str, tuple[str, ...]], ...]] = ()  # panels of curves.png: title, statistics

    student: nn.Module
    follower: nn.Module | None = None

    def __init__(self, train: Train, options: ObjectiveOptions, classes: tuple[str, ...], steps: int) -> None:
        """Make the networks, on the CPU, from the global random state. classes: of the images,
        sorted; empty without labels. steps: optimizer steps of the whole run."""
        self.train, self.options, self.classes, self.steps = train, options, classes, steps

    def targets(self, inputs: Inputs) -> Any:
        """What the student is compared with; under autocast, without gradient."""
        return None

    def loss(self, outputs: Any, targets: Any, inputs: Inputs, watch: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss in fp32, and with `watch` statistics, detached. The mean over processes and
        accumulated micro-batches of equal size is the loss of the joined batch. A statistic is a
        scalar; or, when it is the mean of a number of things that varies, (2,) sum and count."""
        raise NotImplementedError

    def scheduled(self, step: int) -> dict[str, float]:
        """Values that follow a schedule, logged for `step` (from 0)."""
        return {}

    def before_step(self, step: int) -> None:
        """Before the first micro-batch of a step."""

    def before_update(self, step: int) -> None:
        """Before the optimizer's update, when the loss is finite. It follows even where fp16
        gradients overflowed."""

    def after_update(self, step: int) -> None:
        """After the optimizer's update, when the loss is finite. It follows even where fp16
        gradients overflowed."""

    def keep_cast(self, dtype: torch.dtype) -> None:
        """Training runs in `dtype` under autocast: a chance to keep weights in it that no gradient
        changes."""

    def exported(self) -> nn.Module:
        """The encoder that becomes the backbone."""
        return self.student.encoder

    def maps(self, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """What the probes compare, by name: (N, C, H, W) maps of (N, 3, S, S) normalised images,
        those of the looking and of the found view; figures show the last. One network for both: the
        same tensor twice."""
        maps = self.student.encoder(images)
        return {"backbone": (maps, maps)}

    def attention(self, images: Tensor) -> Tensor | None:
        """(N, L, L) how much each cell (row) attends to each other one, rows sum to 1; None without
        attention."""
        return None

    def negatives(self, cell: Tensor, others: Tensor, positives: Tensor) -> Negatives | None:
        """For figures: the negatives of one cell (C,) among others (C, L), of unit length;
        positives (L,) bool."""
        return None

    def networks(self) -> list[nn.Module]:
        """Student and, where there is one, follower."""
        return [self.student] if self.follower is None else [self.student, self.follower]
