"""The `released` variant against figures that the authors' released code gave; golden/ says what is what.

Every file of golden/ is a case. Mutants: each single departure from the released rule must be told from it.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pretrain import loss, matcher
from pretrain.clove_options import CloveOptions
from pretrain.config import load_config
from pretrain.loss import clove_loss, ranking_terms
from pretrain.matcher import match
from pretrain.optim import LARS, cosine_schedule, peak_lr

FOLDER = Path(__file__).resolve().parent.parent / "golden"
FILES = sorted(FOLDER.glob("released_seed*.npz"))
LOSS_TOLERANCE, GRAD_TOLERANCE = 3e-5, 1e-5
CLEARLY = 10  # times the tolerance by which a mutant must be off

Golden = dict[str, Tensor]


def read(path: Path) -> Golden:
    return {name: torch.from_numpy(values).double() for name, values in np.load(path).items()}


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def golden(request: pytest.FixtureRequest) -> Golden:
    return read(request.param)


@pytest.fixture
def seed0() -> Golden:
    return read(FOLDER / "released_seed0.npz")


def released() -> CloveOptions:
    return load_config(None, {"variant": "released"}).objective


def pair_loss(golden: Golden, which: str, options: CloveOptions) -> tuple[float, Tensor]:
    """Loss of the one view pair of the file, and its gradient for the student map."""
    student, teacher = golden[f"{which}.student"].clone().requires_grad_(), golden[f"{which}.teacher"]
    positives = match(golden[f"{which}.student_boxes"], golden[f"{which}.teacher_boxes"], tuple(student.shape[-2:]),
                      tuple(teacher.shape[-2:]), options.t_pos, options.t_pos_unit)
    terms, _ = ranking_terms(student.flatten(2).transpose(1, 2)[None], teacher.flatten(2).transpose(1, 2)[None],
                             positives[None], options)
    value = terms.mean()
    value.backward()
    return value.item(), student.grad


def whole_loss(golden: Golden, options: CloveOptions, image_major: bool = False) -> float:
    """The loss over all terms. `image_major` misreads the rows, as if they were image * V + view."""
    boxes = golden["all.boxes"]
    views, images = boxes.shape[:2]

    def split(rows: Tensor) -> Tensor:
        if image_major:
            return rows.unflatten(0, (images, -1)).transpose(0, 1).contiguous()
        return rows.unflatten(0, (-1, images))

    teacher = split(golden["all.teacher"])
    global_views = teacher.shape[0]
    students = [split(golden["all.global_student"]), split(golden["all.local_student"])]
    assert sum(len(maps) for maps in students) == views
    value, _ = clove_loss(students, teacher, [boxes[:global_views], boxes[global_views:]],
                          torch.ones(images, 2, dtype=torch.float64), options)
    return value.item()


def off(golden: Golden, options: CloveOptions) -> float:
    """How far losses and gradients are from the golden ones, in tolerances; the largest of them."""
    distances = [abs(whole_loss(golden, options) - golden["all.loss"].item()) / LOSS_TOLERANCE]
    for which in ("global", "local"):
        value, grad = pair_loss(golden, which, options)
        expected = golden[f"{which}.student_grad"]
        distances += [abs(value - golden[f"{which}.loss"].item()) / LOSS_TOLERANCE,
                      ((grad - expected).abs().max() / expected.abs().max()).item() / GRAD_TOLERANCE]
    return max(distances)


def test_golden__files_are_there() -> None:
    assert "released_seed0" in [path.stem for path in FILES]


@pytest.mark.parametrize("which", ["global", "local"])
def test_released__loss_and_gradient_of_one_view_pair(golden: Golden, which: str) -> None:
    value, grad = pair_loss(golden, which, released())
    assert abs(value - golden[f"{which}.loss"].item()) < LOSS_TOLERANCE
    expected = golden[f"{which}.student_grad"]
    assert (grad - expected).abs().max() < GRAD_TOLERANCE * expected.abs().max()


def test_released__loss_over_all_terms(golden: Golden) -> None:
    assert abs(whole_loss(golden, released()) - golden["all.loss"].item()) < LOSS_TOLERANCE


def written_again(students: list[Tensor], teacher: Tensor, boxes: list[Tensor], k: int) -> float:
    """The released rule one cell at a time, from its description and not from our code: every number a Python float.

    For each image of each ordered pair: mean cosine over the positive pairs; for every query the mean cosine of the
    second to k-th most similar non-positive cells, mean over the queries; max(0, 100 - 2 * 2 * positive + 2 *
    negative), 0 when some query has fewer than k non-positives.
    """
    views = [(maps[v], group[v]) for maps, group in zip(students, boxes, strict=True) for v in range(len(maps))]
    terms = []
    for (i, (own, own_boxes)), (j, other) in itertools.product(enumerate(views), enumerate(teacher)):
        for b in range(teacher.shape[1]) if i != j else ():
            (x0, y0, x1, y1), (u0, v0, u1, v1) = own_boxes[b].tolist(), boxes[0][j, b].tolist()
            (rows, columns), (high, wide) = own.shape[-2:], other.shape[-2:]
            larger = max(math.hypot((x1 - x0) / columns, (y1 - y0) / rows),
                         math.hypot((u1 - u0) / wide, (v1 - v0) / high))
            positive, negatives, complete = [], [], True
            for row, column in itertools.product(range(rows), range(columns)):
                query, left = own[b, :, row, column].tolist(), []
                x, y = x0 + (column + 0.5) * (x1 - x0) / columns, y0 + (row + 0.5) * (y1 - y0) / rows
                for r, c in itertools.product(range(high), range(wide)):
                    u, v = u0 + (c + 0.5) * (u1 - u0) / wide, v0 + (r + 0.5) * (v1 - v0) / high
                    cosine = sum(p * q for p, q in zip(query, other[b, :, r, c].tolist(), strict=True))
                    (positive if math.hypot(x - u, y - v) / larger < 0.7 else left).append(cosine)
                complete &= len(left) >= k
                negatives.append(sum(sorted(left, reverse=True)[1:k]) / (k - 1))
            mean = sum(positive) / max(len(positive), 1)
            hinge = max(0.0, 100 - 4 * mean + 2 * sum(negatives) / len(negatives))
            terms.append(hinge if complete else 0.0)
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("seed", "images", "global_views", "local_views", "teacher_grid", "local_grid", "k"), [
    (1, 2, 2, 6, (7, 7), (3, 3), 10), (2, 1, 2, 2, (4, 6), (3, 2), 10), (3, 3, 3, 1, (5, 5), (1, 4), 4),
    (4, 2, 2, 1, (6, 3), (7, 7), 9), (5, 2, 2, 2, (4, 4), (2, 2), 14), (6, 1, 2, 0, (7, 5), (1, 1), 2)])
def test_released__equals_the_rule_written_again(seed: int, images: int, global_views: int, local_views: int,
                                                 teacher_grid: tuple, local_grid: tuple, k: int) -> None:
    """Other sizes, grids that are not square, mirrored views, no overlap at all, fewer than k candidates."""
    rng = torch.Generator().manual_seed(seed)

    def maps(views: int, grid: tuple[int, int]) -> Tensor:
        return nn.functional.normalize(torch.randn(views, images, 6, *grid, generator=rng, dtype=torch.float64), dim=2)

    def boxes(views: int) -> Tensor:
        corner = 0.5 * torch.rand(views, images, 2, generator=rng, dtype=torch.float64)
        box = torch.cat([corner, corner + 0.1 + 0.4 * torch.rand(views, images, 2, generator=rng)], -1)
        return torch.where(torch.rand(views, images, 1, generator=rng) < 0.5, box[..., [2, 1, 0, 3]], box)

    students, places = [maps(global_views, teacher_grid)], [boxes(global_views)]
    if local_views:
        students, places = [*students, maps(local_views, local_grid)], [*places, boxes(local_views)]
    places[0][0, 0], places[0][1, 0] = torch.tensor([[0.0, 0.0, 0.2, 0.2], [1.0, 0.7, 0.7, 1.0]])  # far apart
    places[0][:, -1] = places[0][0, -1] if images > 1 else places[0][:, -1]  # the same place in all views
    teacher = maps(global_views, teacher_grid)
    sizes = torch.tensor([[500.0, 375.0]]).repeat(images, 1)  # fractions of each side decide: read by nothing
    value, statistics = clove_loss(students, teacher, places, sizes, replace(released(), k=k))
    assert value.item() == pytest.approx(written_again(students, teacher, places, k), abs=1e-9)
    assert 0 < statistics["no_overlap"][0] <= statistics["no_overlap"][1]
    assert (value < 95) == (seed in (3, 5))  # some terms are 0: fewer than k cells are left


def test_lars__three_steps(golden: Golden) -> None:
    count = sum(name.startswith("lars.param") and name.endswith(".before") for name in golden)
    params = [nn.Parameter(golden[f"lars.param{i}.before"].clone()) for i in range(count)]
    optimizer = LARS(params, lr=0.5, momentum=0.9, weight_decay=2e-5, trust=1e-3)
    for step in itertools.takewhile(lambda s: f"lars.step{s}.grad0" in golden, itertools.count()):
        for i, param in enumerate(params):
            param.grad = golden[f"lars.step{step}.grad{i}"].clone()
        optimizer.step()
    assert count >= 6
    for i, param in enumerate(params):
        torch.testing.assert_close(param.detach(), golden[f"lars.param{i}.after"], rtol=0, atol=1e-6)
        assert (param - golden[f"lars.param{i}.before"]).abs().max() > 1e-5


def test_schedules__learning_rate_and_momentum(golden: Golden) -> None:
    peak = peak_lr(1.0, 2048)
    rates = [cosine_schedule(step, 260, peak, peak / 100, 5 * 13) for step in range(260)]
    momenta = [cosine_schedule(step, 260, 0.99, 1.0) for step in range(260)]
    np.testing.assert_allclose(rates, golden["schedule.lr"].numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(momenta, golden["schedule.momentum"].numpy(), rtol=0, atol=1e-6)


def test_mutants__the_rule_itself_is_within_tolerance(seed0: Golden) -> None:
    assert off(seed0, released()) < 1


@pytest.mark.parametrize("change", [
    {"k": 11}, {"k": 9}, {"negatives_exclude": "top1"}, {"t_pos": 0.71}, {"negative_similarity": "mean_vector"},
    {"negative_queries": "matched"}, {"lambda_pos": 1.99}, {"loss_scale": 1.0},
], ids=lambda change: "-".join(f"{key}-{value}" for key, value in change.items()))
def test_mutants__one_value_changed(seed0: Golden, change: dict) -> None:
    assert off(seed0, replace(released(), **change)) > CLEARLY


def negative_without(dropped: int) -> Callable:
    """The released negative written again, leaving out the `dropped` most similar ones of the k."""

    def negative(cosine: Tensor, teacher: Tensor, positives: Tensor,
                 options: CloveOptions) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        ranked = cosine.masked_fill(positives, -9.0).sort(-1, descending=True)
        value = ranked.values[..., dropped:options.k].mean(-1)
        usable = (~positives).sum(-1) >= options.k
        index = ranked.indices[..., dropped:options.k]
        return value, usable, (index, torch.ones_like(index, dtype=torch.bool))

    return negative


def test_mutants__nothing_dropped(seed0: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "_negative", negative_without(1))
    assert off(seed0, released()) < 1
    monkeypatch.setattr(loss, "_negative", negative_without(0))
    assert off(seed0, released()) > CLEARLY


@pytest.mark.parametrize("used", [0, 1], ids=["student", "teacher"])
def test_mutants__diagonal_of_one_view_only(seed0: Golden, monkeypatch: pytest.MonkeyPatch, used: int) -> None:
    calls = itertools.count()
    true_diagonal = matcher.cell_diagonal

    def one_sided(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
        diagonal = true_diagonal(boxes, grid)
        return diagonal if next(calls) % 2 == used else torch.zeros_like(diagonal)

    monkeypatch.setattr(matcher, "cell_diagonal", one_sided)
    assert off(seed0, released()) > CLEARLY
    asked = next(calls)
    assert asked > 0 and asked % 2 == 0  # two diagonals for every match


def test_mutants__image_major_order(seed0: Golden) -> None:
    wrong = whole_loss(seed0, released(), image_major=True)
    assert abs(wrong - seed0["all.loss"].item()) > CLEARLY * LOSS_TOLERANCE
