"""Equation 2: the margin ranking loss between contextualized student cells and teacher cells.

Legend: P ordered view pairs (student view i, teacher global view j), B images, C channels,
Q = cells of a student view, L = cells of a teacher view, K = cells that a negative is made of.

For each positive pair (i, j) in M:   max(0, mu - lambda * cos(C_i, F_j) + cos(C_i, F_neg_i))

F_neg_i, poster: rank the teacher vectors of the same view by cosine with C_i, take the first k, leave out the very
first, average the others. With unit vectors f_1..f_n that average m has  cos(C_i, m) = mean_n(cos(C_i, f_n)) / |m|:
the released code's mean of cosines is the same without the division by |m|.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.clove_options import CloveOptions
from pretrain.matcher import match


@dataclass(frozen=True)
class _Ranking:
    """Student cells beside teacher cells, and the negative of each student cell."""

    positives: Tensor  # (P, B, Q, L) bool, M of eq. 1
    cosine: Tensor  # (P, B, Q, L)
    negative: Tensor  # (P, B, Q) cos(C_i, F_neg_i)
    usable: Tensor  # (P, B, Q) bool: there are enough candidates for a negative
    picked: tuple[Tensor, Tensor]  # (P, B, Q, K) cells of F_neg_i, as indices into L, and whether they count


def ranking_terms(
    student: Tensor, teacher: Tensor, positives: Tensor, options: CloveOptions, watch: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss term of each image and view pair.

    Args:
        student: (P, B, Q, C) contextualized vectors of unit length.
        teacher: (P, B, L, C) projected vectors of unit length, without gradient.
        positives: (P, B, Q, L) bool, M of eq. 1.
        watch: False leaves the statistics out.
    Returns:
        (P, B) terms, and detached statistics: see `_statistics`.
    """
    cosine = student @ teacher.transpose(-1, -2)
    ranking = _Ranking(positives, cosine, *_negative(cosine, teacher, positives, options))
    counted = positives & ranking.usable.unsqueeze(-1)
    if options.hinge == "pair":
        margin = (ranking.negative + options.mu).unsqueeze(-1)
        violation = F.relu(torch.add(margin, ranking.cosine, alpha=-options.lambda_pos))
        terms = (violation * counted).sum((-1, -2))
        if options.reduction == "mean":
            terms = terms / counted.sum((-1, -2)).clamp(min=1)
    else:
        terms = _image_hinge(ranking, options)
    if options.too_few_negatives == "zero":
        terms = terms.masked_fill(~ranking.usable.all(-1), 0.0)
    if options.loss_scale != 1:
        terms = options.loss_scale * terms
    if not watch:
        return terms, {}
    if options.hinge == "image":
        violation = terms  # an image whose term is set to 0 has no active hinge
    return terms, _statistics(ranking, counted, violation, options.lambda_pos)


def _negative(
    cosine: Tensor, teacher: Tensor, positives: Tensor, options: CloveOptions
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The last three fields of `_Ranking`; teacher: (P, B, L, C)."""
    candidates = cosine
    if options.negatives_exclude == "positives_and_top1":
        candidates = cosine.masked_fill(positives, -torch.inf)
    top, index = candidates.topk(min(options.k, cosine.shape[-1]), dim=-1)
    top, index = top[..., 1:], index[..., 1:]
    found = top != -torch.inf  # NaN is found, and goes on into the loss
    count = found.sum(-1)
    needed = options.k - 1 if options.too_few_negatives == "zero" else 1
    usable = count >= needed
    total = top.masked_fill(~found, 0.0).sum(-1)
    if options.negative_similarity == "mean_cosine":
        return total / count.clamp(min=1), usable, (index, found)
    picked = torch.zeros_like(cosine, requires_grad=False).scatter(-1, index, found.to(cosine.dtype))
    length = (picked @ teacher).norm(dim=-1)  # of the sum: the count cancels in the cosine
    return total / length.clamp(min=1e-12), usable, (index, found)


def _image_hinge(ranking: _Ranking, options: CloveOptions) -> Tensor:
    """Released code: positives averaged over pairs, negatives over queries, then one hinge for each
    image: (P, B)."""
    positives, usable, negative = ranking.positives, ranking.usable, ranking.negative
    pairs = positives.sum((-1, -2))
    positive = (ranking.cosine * positives).sum((-1, -2)) / pairs.clamp(min=1)
    queries = usable
    if options.negative_queries == "matched":
        queries = usable & positives.any(-1)
    if options.negative_queries == "all" and options.too_few_negatives == "zero":
        negative = negative.mean(-1)  # where not all are usable the image's term becomes 0
    else:
        negative = (negative * queries).sum(-1) / queries.sum(-1).clamp(min=1)
    terms = F.relu(torch.add(negative + options.mu, positive, alpha=-options.lambda_pos))
    if options.negative_queries == "matched":  # with "all" an image without a match still pushes its negatives away
        terms = terms * queries.any(-1)
    if options.reduction == "sum":
        terms = terms * pairs
    return terms


@torch.no_grad()
def _statistics(ranking: _Ranking, counted: Tensor, violation: Tensor, lambda_pos: float) -> dict[str, Tensor]:
    """Statistics of training, each as (2,) sum and count, so that micro-batches and processes add
    up. As quotients, shares from 0 to 1:

    ranking_gap: cos(C, F_neg) - lambda * cos(C, F), mean over the pairs of M that have a negative:
        the loss without margin, hinge, and the pairs of views without overlap.
    positive_cosine: mean over M.
    negative_cosine: mean of cos(C, F_neg) over queries.
    hinge_active: share of counted hinges (`hinge: image`: of all images) above 0.
    negative_is_positive: share of F_neg's cells that are in M for their query.
    positives_per_query: mean.
    no_overlap: share of (image, view pair) with an empty M.

    counted: (P, B, Q, L) bool, pairs that have a hinge. violation: (P, B, Q, L) or (P, B) hinges.
    """
    cosine, positives, (index, found) = ranking.cosine, ranking.positives, ranking.picked
    active, apart = violation > 0, ~positives.flatten(-2).any(-1)
    hinges = counted if active.dim() == counted.dim() else torch.ones_like(active)
    summed = {
        "ranking_gap": ((ranking.negative.unsqueeze(-1) - lambda_pos * cosine) * counted, counted),
        "positive_cosine": (cosine * positives, positives),
        "negative_cosine": (ranking.negative * ranking.usable, ranking.usable),
        "hinge_active": (active & hinges, hinges),
        "negative_is_positive": (positives.gather(-1, index) & found, found),
        "positives_per_query": (positives, torch.ones_like(ranking.usable)),
        "no_overlap": (apart, torch.ones_like(apart)),
    }
    return {name: torch.stack([one.sum(dtype=cosine.dtype) for one in both]) for name, both in summed.items()}


def clove_loss(
    student_maps: list[Tensor], teacher_maps: Tensor, boxes: list[Tensor], image_sizes: Tensor, options: CloveOptions,
    watch: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The whole loss: every ordered pair of a student view and a different global teacher view,
    with equal weight.

    Args:
        student_maps: groups of views of one size, the global group first; each (V, B, C, H, W) of
            unit length over C.
        teacher_maps: (V_global, B, C, H, W) of unit length over C, of the same views as the first
            group.
        boxes: for each group (V, B, 4), fractions of the source image.
        image_sizes: (B, 2) width and height in source-image pixels.
        watch: False leaves the statistics out.
    Returns:
        The mean over images and view pairs with a fixed denominator, so that the mean over
        processes or accumulated micro-batches of equal size is exactly the loss of the joined
        batch; and the statistics of `ranking_terms`, summed over the view pairs.
    """
    global_views = teacher_maps.shape[0]
    teacher_cells = teacher_maps.flatten(3).transpose(2, 3)  # (V, B, L, C)
    all_terms, pairs, statistics = [], 0, {}
    for group, (maps, group_boxes) in enumerate(zip(student_maps, boxes, strict=True)):
        of_student, of_teacher = _view_pairs(maps.shape[0], global_views, group == 0, maps.device)
        positives = match(
            group_boxes.index_select(0, of_student), boxes[0].index_select(0, of_teacher), tuple(maps.shape[-2:]),
            tuple(teacher_maps.shape[-2:]), options.t_pos, options.t_pos_unit, image_sizes,
        )
        student_cells = maps.flatten(3).transpose(2, 3).index_select(0, of_student)
        terms, of_group = ranking_terms(
            student_cells, teacher_cells.index_select(0, of_teacher), positives, options, watch)
        all_terms.append(terms)
        pairs += len(of_student)
        statistics = {name: statistics.get(name, 0) + value for name, value in of_group.items()}
    return torch.cat(all_terms).sum() / (pairs * teacher_maps.shape[1]), statistics


@lru_cache
def _view_pairs(student_views: int, global_views: int, same: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Student views i and teacher views j of all ordered pairs, without i = j where both are the
    `same` views.

    Kept: a copy from the host at every step would make the host wait for the GPU.
    """
    index = [(i, j) for i in range(student_views) for j in range(global_views) if not same or i != j]
    return torch.tensor(index, device=device).unbind(1)


def hardest_negatives(cosine: Tensor, positives: Tensor, options: CloveOptions) -> tuple[int | None, list[int]]:
    """The teacher cell that is dropped, and those that F_neg of eq. 2 is made of, by falling
    cosine.

    cosine, positives: (L,) of one student cell."""
    if options.negatives_exclude == "positives_and_top1":
        cosine = cosine.masked_fill(positives, -torch.inf)
    top, index = cosine.topk(min(options.k, len(cosine)))
    first, *others = index[top > -torch.inf].tolist() or [None]
    return first, others


def negative_cosine(student: Tensor, teacher: Tensor, negatives: list[int], options: CloveOptions) -> float:
    """cos(C_i, F_neg); student (C,), teacher (C, L). NaN without negatives."""
    if not negatives:
        return float("nan")
    mean = teacher[:, negatives].mean(1)
    cosine = student @ mean
    if options.negative_similarity == "mean_vector":
        cosine = cosine / mean.norm()
    return cosine.item()
