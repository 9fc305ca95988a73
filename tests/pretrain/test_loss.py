"""Equation 2 against a slow loop written from the equations: one image, one view pair, one cell at a time."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pretrain.loss
from pretrain.clove_options import VARIANTS, CloveOptions
from pretrain.config import load_config
from pretrain.loss import clove_loss, ranking_terms

SIZES = torch.tensor([[640.0, 480.0], [300.0, 500.0], [224.0, 224.0]], dtype=torch.float64)
OPTIONS = {
    "negatives_exclude": ["top1", "positives_and_top1"], "negative_similarity": ["mean_vector", "mean_cosine"],
    "hinge": ["pair", "image"], "negative_queries": ["matched", "all"], "too_few_negatives": ["use_left", "zero"],
    "reduction": ["mean", "sum"], "loss_scale": [1.0, 2.0],
}


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a, b) / (a.norm() * b.norm())


def place(box: list[float], size: list[float], row: int, column: int, grid: tuple[int, int]) -> tuple[float, float]:
    """Source pixel of a cell's centre; a mirrored view has x0 > x1."""
    x = box[0] + (box[2] - box[0]) * (column + 0.5) / grid[1]
    y = box[1] + (box[3] - box[1]) * (row + 0.5) / grid[0]
    return x * size[0], y * size[1]


def diagonal(box: list[float], size: list[float], grid: tuple[int, int]) -> float:
    return math.hypot((box[2] - box[0]) * size[0] / grid[1], (box[3] - box[1]) * size[1] / grid[0])


def slow_positives(student_box: Tensor, teacher_box: Tensor, size: Tensor, student_grid: tuple[int, int],
                   teacher_grid: tuple[int, int], t_pos: float) -> list[tuple[int, int]]:
    """Eq. 1 for one image and view pair, T_pos in units of the larger cell diagonal."""
    own, other, sides = student_box.tolist(), teacher_box.tolist(), size.tolist()
    unit = max(diagonal(own, sides, student_grid), diagonal(other, sides, teacher_grid))
    found = []
    for a in range(student_grid[0] * student_grid[1]):
        x, y = place(own, sides, a // student_grid[1], a % student_grid[1], student_grid)
        for b in range(teacher_grid[0] * teacher_grid[1]):
            u, v = place(other, sides, b // teacher_grid[1], b % teacher_grid[1], teacher_grid)
            if math.hypot(x - u, y - v) < t_pos * unit:
                found.append((a, b))
    return found


def slow_negative(query: Tensor, teacher: Tensor, positives: set[int], options: CloveOptions) -> Tensor | None:
    """cos(C_i, F_neg) for one query, None where it has no negative."""
    cosines = [cosine(query, vector) for vector in teacher]
    candidates = [j for j in range(len(teacher)) if options.negatives_exclude == "top1" or j not in positives]
    first_k = sorted(candidates, key=lambda j: -cosines[j].item())[:options.k]
    kept = first_k[1:]
    if not kept or (options.too_few_negatives == "zero" and len(first_k) < options.k):
        return None
    if options.negative_similarity == "mean_cosine":
        return sum(cosines[j] for j in kept) / len(kept)
    mean = sum(teacher[j] for j in kept) / len(kept)
    return cosine(query, mean)


def slow_term(student: Tensor, teacher: Tensor, pairs: list[tuple[int, int]], options: CloveOptions) -> Tensor:
    """One image and view pair; student (Q, C), teacher (L, C)."""
    zero = (student * 0.0).sum()
    of_query = [{j for i, j in pairs if i == q} for q in range(len(student))]
    negatives = [slow_negative(student[q], teacher, of_query[q], options) for q in range(len(student))]
    if options.too_few_negatives == "zero" and any(value is None for value in negatives):
        return zero
    if options.hinge == "pair":
        hinges = [torch.clamp(options.mu - options.lambda_pos * cosine(student[i], teacher[j]) + negatives[i], min=0)
                  for i, j in pairs if negatives[i] is not None]
        if not hinges:
            return zero
        total = torch.stack(hinges).sum()
        return options.loss_scale * (total / len(hinges) if options.reduction == "mean" else total)
    queries = [q for q in range(len(student))
               if negatives[q] is not None and (options.negative_queries == "all" or of_query[q])]
    if not queries and options.negative_queries == "matched":
        return zero
    positive = sum((cosine(student[i], teacher[j]) for i, j in pairs), zero) / max(len(pairs), 1)
    negative = sum((negatives[q] for q in queries), zero) / max(len(queries), 1)
    hinge = torch.clamp(options.mu - options.lambda_pos * positive + negative, min=0)
    return options.loss_scale * hinge * (len(pairs) if options.reduction == "sum" else 1)


def slow_loss(student_maps: list[Tensor], teacher_maps: Tensor, boxes: list[Tensor], sizes: Tensor,
              options: CloveOptions) -> Tensor:
    """Mean over every ordered pair (student view i, other global teacher view j) and every image."""
    views = [(maps[v], group_boxes[v]) for maps, group_boxes in zip(student_maps, boxes, strict=True)
             for v in range(len(maps))]
    terms = []
    for i, (student, student_boxes) in enumerate(views):
        for j in range(len(teacher_maps)):
            if i == j:
                continue
            for b in range(len(sizes)):
                own, other = student[b].flatten(1).T, teacher_maps[j, b].flatten(1).T
                pairs = slow_positives(student_boxes[b], boxes[0][j, b], sizes[b], tuple(student.shape[-2:]),
                                       tuple(teacher_maps.shape[-2:]), options.t_pos)
                terms.append(slow_term(own, other, pairs, options))
    return torch.stack(terms).sum() / len(terms)


def mean(statistic: Tensor) -> float:
    """Of a sum and a number."""
    return (statistic[0] / statistic[1]).item()


def slow_gap(student_maps: list[Tensor], teacher_maps: Tensor, boxes: list[Tensor], sizes: Tensor,
             options: CloveOptions) -> tuple[float, int]:
    """Sum over all matched pairs with a negative of its cosine minus lambda times the positive one; their number."""
    views = [(maps[v], group_boxes[v]) for maps, group_boxes in zip(student_maps, boxes, strict=True)
             for v in range(len(maps))]
    total, number = 0.0, 0
    for i, (student, student_boxes) in enumerate(views):
        for j in range(len(teacher_maps)):
            if i == j:
                continue
            for b in range(len(sizes)):
                own, other = student[b].flatten(1).T, teacher_maps[j, b].flatten(1).T
                pairs = slow_positives(student_boxes[b], boxes[0][j, b], sizes[b], tuple(student.shape[-2:]),
                                       tuple(teacher_maps.shape[-2:]), options.t_pos)
                for query, cell in pairs:
                    of_query = {one for other_query, one in pairs if other_query == query}
                    negative = slow_negative(own[query], other, of_query, options)
                    if negative is not None:
                        total += (negative - options.lambda_pos * cosine(own[query], other[cell])).item()
                        number += 1
    return total, number


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_ranking_gap__over_all_matched_pairs_of_all_views(variant: str) -> None:
    """Global and local views have other numbers of pairs, and one pair of views has none."""
    options = replace(load_config(None, {"variant": variant}).objective, t_pos_unit="cell_diagonal", k=6,
                      lambda_pos=1.7)
    students, teacher, boxes, sizes = case(11, teacher_grid=5)
    _, statistics = clove_loss([F.normalize(maps, dim=2) for maps in students], teacher, boxes, sizes, options)
    expected = slow_gap(students, teacher, boxes, sizes, options)
    assert expected[1] > 50 and mean(statistics["no_overlap"]) > 0
    assert statistics["ranking_gap"].tolist() == pytest.approx(expected, rel=1e-9)


def random_boxes(rng: torch.Generator, *shape: int) -> Tensor:
    """Fractions of the image; half of them mirrored."""
    corner = torch.rand(*shape, 2, generator=rng, dtype=torch.float64) * 0.6
    side = 0.2 + torch.rand(*shape, 2, generator=rng, dtype=torch.float64) * 0.2
    boxes = torch.cat([corner, corner + side], -1)
    mirrored = torch.rand(*shape, generator=rng) < 0.5
    return torch.where(mirrored[..., None], boxes[..., [2, 1, 0, 3]], boxes)


def case(seed: int, global_views: int = 2, local_views: int = 2, teacher_grid: int = 7, local_grid: int = 3,
         images: int = 3, channels: int = 8) -> tuple[list[Tensor], Tensor, list[Tensor], Tensor]:
    """Student groups (leaves with gradient), teacher maps, boxes, sizes; one global pair of image 0 is far apart."""
    rng = torch.Generator().manual_seed(seed)

    def maps(views: int, grid: int) -> Tensor:
        raw = torch.randn(views, images, channels, grid, grid, generator=rng, dtype=torch.float64)
        return F.normalize(raw, dim=2)

    boxes = [random_boxes(rng, global_views, images), random_boxes(rng, local_views, images)]
    boxes[0][0, 0] = torch.tensor([0.0, 0.0, 0.3, 0.3])
    boxes[0][1, 0] = torch.tensor([1.0, 0.7, 0.7, 1.0])
    students = [maps(global_views, teacher_grid).requires_grad_(), maps(local_views, local_grid).requires_grad_()]
    if not local_views:
        students, boxes = students[:1], boxes[:1]
    return students, maps(global_views, teacher_grid), boxes, SIZES[:images]


def compare(options: CloveOptions, *made: object) -> float:
    """Loss and gradients of both writings must agree; returns the loss.

    The slow one takes cosines of any vectors; the fast one wants unit vectors, so that the gradient goes through the
    normalisation here.
    """
    students, teacher, boxes, sizes = made
    fast, _ = clove_loss([F.normalize(maps, dim=2) for maps in students], teacher, boxes, sizes, options)
    slow = slow_loss(students, teacher, boxes, sizes, options)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    fast_grads = torch.autograd.grad(fast, students, allow_unused=True)
    slow_grads = torch.autograd.grad(slow, students, allow_unused=True)
    for one, other in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-14)
    return slow.item()


def paper(**changes: object) -> CloveOptions:
    return replace(load_config(None, {"variant": "paper"}).objective, **changes)


@pytest.mark.parametrize("seed", [0, 1])
def test_paper__equals_the_slow_loop(seed: int) -> None:
    made = case(seed)
    assert compare(paper(), *made) > 10
    statistics = clove_loss(*made, paper())[1]
    assert 0 < mean(statistics["no_overlap"]) < 1  # a view pair without match, and others


def test_paper__hinge_at_work_when_the_margin_is_small() -> None:
    made = case(2)
    compare(paper(mu=-0.3), *made)
    active = mean(clove_loss(*made, paper(mu=-0.3))[1]["hinge_active"])
    assert 0.05 < active < 0.95


def test_paper__one_view_pair_without_match_adds_nothing() -> None:
    students, teacher, boxes, sizes = case(3, local_views=0, images=1)
    value, statistics = clove_loss(students, teacher, boxes, sizes, paper())
    assert mean(statistics["no_overlap"]) == 1
    assert value == 0
    assert torch.autograd.grad(value, students)[0].abs().max() == 0


def test_paper__view_without_match_keeps_the_denominator() -> None:
    """An image without match halves the mean over two images: the denominator is fixed."""
    students, teacher, boxes, sizes = case(3, local_views=0, images=2)
    both = clove_loss(students, teacher, boxes, sizes, paper())[0]
    second = clove_loss([students[0][:, 1:]], teacher[:, 1:], [boxes[0][:, 1:]], sizes[1:], paper())[0]
    assert second > 20
    torch.testing.assert_close(both, second / 2)


def test_paper__mean_over_ranks_with_unequal_numbers_of_positives() -> None:
    """The mean of two ranks' losses and gradients is that of the joined batch, the sum of their statistics too,
    whatever each one matched."""
    students, teacher, boxes, sizes = case(4, images=2)
    whole, of_whole = clove_loss(students, teacher, boxes, sizes, paper())
    of_rank, watched = [], []
    for rank in range(2):
        at = slice(rank, rank + 1)
        value, statistics = clove_loss([maps[:, at] for maps in students], teacher[:, at],
                                       [group[:, at] for group in boxes], sizes[at], paper())
        of_rank.append(value)
        watched.append(statistics)
    assert abs(mean(watched[0]["positives_per_query"]) - mean(watched[1]["positives_per_query"])) > 0.1
    for name, joined in of_whole.items():
        torch.testing.assert_close(watched[0][name] + watched[1][name], joined, rtol=1e-12, atol=1e-12)
    of_both = sum(of_rank) / 2
    torch.testing.assert_close(of_both, whole, rtol=1e-12, atol=0)
    for one, other in zip(torch.autograd.grad(of_both, students), torch.autograd.grad(whole, students), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("change", [{key: value} for key, values in OPTIONS.items() for value in values],
                         ids=lambda change: "-".join(map(str, next(iter(change.items())))))
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_options__each_value_equals_the_slow_loop(variant: str, change: dict) -> None:
    """Every value of every option from both presets; a small margin, so that hinges switch on and off."""
    options = replace(load_config(None, {"variant": variant}).objective, t_pos_unit="cell_diagonal",
                      mu=0.4, k=6, **change)
    compare(options, *case(5, teacher_grid=4, local_grid=3, local_views=1, images=2))


def test_options__the_table_names_every_option_and_value() -> None:
    """An option that is added to the loss must be added to the table above."""
    scalars = {"lambda_pos", "mu", "k", "t_pos", "t_pos_unit"}
    read = set(re.findall(r"\boptions\.(\w+)", Path(pretrain.loss.__file__).read_text(encoding="utf-8")))
    assert read == OPTIONS.keys() | scalars
    for name, value in VARIANTS["paper"].items():
        if name in OPTIONS:
            assert value in OPTIONS[name]


@pytest.mark.parametrize("exclude", OPTIONS["negatives_exclude"])
@pytest.mark.parametrize("similarity", OPTIONS["negative_similarity"])
@pytest.mark.parametrize("few", OPTIONS["too_few_negatives"])
def test_few_candidates__fewer_cells_than_k(exclude: str, similarity: str, few: str) -> None:
    """2 x 2 teacher cells against k = 10: what is left is used, or the term is 0."""
    options = paper(negatives_exclude=exclude, negative_similarity=similarity, too_few_negatives=few)
    value = compare(options, *case(6, teacher_grid=2, local_grid=3))
    assert (value == 0) == (few == "zero")


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_few_candidates__one_teacher_cell(variant: str) -> None:
    """L = 1: nothing is left for a negative; every pair is skipped, without NaN."""
    options = replace(load_config(None, {"variant": variant}).objective, t_pos_unit="cell_diagonal")
    assert compare(options, *case(7, teacher_grid=1, local_grid=3)) == 0


def test_few_candidates__all_cells_positive() -> None:
    """With every teacher cell a positive and positives excluded there is no negative: the pairs are skipped."""
    made = case(8, teacher_grid=3, local_grid=2)
    options = paper(negatives_exclude="positives_and_top1", t_pos=100.0)
    assert compare(options, *made) == 0
    assert compare(replace(options, negatives_exclude="top1"), *made) > 20


def test_statistics__a_hinge_whose_term_is_0_is_not_active() -> None:
    """Released, 9 teacher cells against k = 10: all terms are 0, though mu is far from reached."""
    student, teacher = (F.normalize(torch.randn(2, 3, cells, 8), dim=-1) for cells in (4, 9))
    positives = torch.zeros(2, 3, 4, 9, dtype=torch.bool)
    for options, active in ((load_config(None, {"variant": "released"}).objective, 0.0),
                            (paper(hinge="image"), 0.0),
                            (paper(hinge="image", negative_queries="all"), 1.0)):
        terms, statistics = ranking_terms(student, teacher, positives, options)
        assert bool((terms > 0).all()) == bool(active) and mean(statistics["hinge_active"]) == active


def test_sum__is_the_literal_sum_over_pairs() -> None:
    """A hand-made case: two unit vectors, three pairs, margin 1."""
    student = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]]])
    positives = torch.tensor([[[[True, False, True], [False, True, False]]]])
    options = paper(mu=1.0, lambda_pos=1.0, k=2, reduction="sum")
    # Query 0 ranks cells 0 (1.0), 2 (0.6): F_neg is cell 2. Query 1 ranks 1 (1.0), 2 (0.8): F_neg is cell 2.
    hinges = [1 - 1 + 0.6, 1 - 0.6 + 0.6, 1 - 1 + 0.8]
    terms, statistics = ranking_terms(student, teacher, positives, options)
    torch.testing.assert_close(terms, torch.tensor([[sum(hinges)]]))
    torch.testing.assert_close(ranking_terms(student, teacher, positives, replace(options, reduction="mean"))[0],
                               torch.tensor([[sum(hinges) / 3]]))
    gap = statistics.pop("ranking_gap")
    torch.testing.assert_close(gap, torch.tensor([(0.6 - 1) + (0.6 - 0.6) + (0.8 - 1), 3.0]))
    expected = {"positive_cosine": (1 + 0.6 + 1) / 3, "negative_cosine": 0.7, "hinge_active": 1.0,
                "negative_is_positive": 0.5, "positives_per_query": 1.5, "no_overlap": 0.0}
    assert {name: round(mean(value), 6) for name, value in statistics.items()} == pytest.approx(expected)


def test_views__three_globals_and_no_locals_make_six_terms() -> None:
    compare(paper(), *case(9, global_views=3, local_views=0, teacher_grid=3))


def test_views__mirroring_both_views_of_every_pair_changes_nothing() -> None:
    """Mirrored boxes and mirrored maps are the same cells in another order."""
    students, teacher, boxes, sizes = case(10)
    mirrored = clove_loss([maps.flip(-1) for maps in students], teacher.flip(-1),
                          [group[..., [2, 1, 0, 3]] for group in boxes], sizes, paper())[0]
    torch.testing.assert_close(mirrored, clove_loss(students, teacher, boxes, sizes, paper())[0])


def test_gradient__teacher_gets_none() -> None:
    """Nothing in the loss asks for the teacher's gradient when the teacher has none."""
    students, teacher, boxes, sizes = case(11)
    value, statistics = clove_loss(students, teacher, boxes, sizes, paper())
    value.backward()
    assert teacher.grad is None and all(maps.grad.isfinite().all() for maps in students)
    assert not any(one.requires_grad for one in statistics.values())
