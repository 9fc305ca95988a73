"""The `released` variant against figures that the authors' released code gave; golden/ says what is what.

Every file of golden/ is a case. Mutants: each single departure from the released rule must be told from it.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pretrain import loss, matcher
from pretrain.config import Numbers, load_config
from pretrain.loss import LossOptions, clove_loss, ranking_terms
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


def released() -> Numbers:
    return load_config(None, {"variant": "released"}).numbers


def pair_loss(golden: Golden, which: str, numbers: Numbers) -> tuple[float, Tensor]:
    """Loss of the one view pair of the file, and its gradient for the student map."""
    student, teacher = golden[f"{which}.student"].clone().requires_grad_(), golden[f"{which}.teacher"]
    positives = match(golden[f"{which}.student_boxes"], golden[f"{which}.teacher_boxes"], tuple(student.shape[-2:]),
                      tuple(teacher.shape[-2:]), numbers.t_pos, numbers.t_pos_unit)
    terms, _ = ranking_terms(student.flatten(2).transpose(1, 2)[None], teacher.flatten(2).transpose(1, 2)[None],
                             positives[None], LossOptions.from_numbers(numbers))
    value = terms.mean()
    value.backward()
    return value.item(), student.grad


def whole_loss(golden: Golden, numbers: Numbers, image_major: bool = False) -> float:
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
                          torch.ones(images, 2, dtype=torch.float64), numbers)
    return value.item()


def off(golden: Golden, numbers: Numbers) -> float:
    """How far losses and gradients are from the golden ones, in tolerances; the largest of them."""
    distances = [abs(whole_loss(golden, numbers) - golden["all.loss"].item()) / LOSS_TOLERANCE]
    for which in ("global", "local"):
        value, grad = pair_loss(golden, which, numbers)
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
    rates = [cosine_schedule(step, 260, peak, peak / 100, 5 * 13, peak / 100) for step in range(260)]
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
                 options: LossOptions) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
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
