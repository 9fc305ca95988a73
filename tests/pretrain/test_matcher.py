"""Equation 1 against a loop over pixel coordinates, and what must not change when views are mirrored or swapped."""

import math

import pytest
import torch
from torch import Tensor

from pretrain.matcher import cell_centres, cell_diagonal, match

GRIDS = [((7, 7), (7, 7)), ((3, 3), (7, 7)), ((2, 5), (4, 3))]


def boxes_in_pixels(count: int, width: int, height: int, seed: int) -> list[list[int]]:
    """Whole-pixel crops left, top, right, bottom; every second one mirrored (left > right)."""
    rng = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        w, h = (int(torch.randint(side // 5, side, (1,), generator=rng)) for side in (width, height))
        x, y = (int(torch.randint(0, free + 1, (1,), generator=rng)) for free in (width - w, height - h))
        made.append([x + w, y, x, y + h] if number % 2 else [x, y, x + w, y + h])
    return made


def fractions(boxes: list[list[int]], width: int, height: int) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float64) / torch.tensor([width, height, width, height])


def random_pair(count: int, width: int, height: int, seed: int) -> tuple[Tensor, Tensor]:
    """Boxes (count, 4) of two views each, fractions of the image."""
    made = boxes_in_pixels(2 * count + 1, width, height, seed)
    return fractions(made[:count], width, height), fractions(made[count + 1:], width, height)


def loop_centres(box: list[int], grid: tuple[int, int]) -> list[tuple[float, float]]:
    """Walks the view's cells row by row, from its left edge to its right one, in source pixels."""
    x0, y0, x1, y1 = box
    places = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            left, right = (x0 + (x1 - x0) * c / grid[1] for c in (column, column + 1))
            top, bottom = (y0 + (y1 - y0) * r / grid[0] for r in (row, row + 1))
            places.append(((left + right) / 2, (top + bottom) / 2))
    return places


def loop_match(
    first: list[int], second: list[int], grids: tuple, t_pos: float, unit: str, size: tuple[int, int]
) -> Tensor:
    """The mask of one pair of views."""
    scale = size if unit == "cell_diagonal_fraction" else (1, 1)

    def cell(box: list[int], grid: tuple[int, int]) -> float:
        return math.hypot((box[2] - box[0]) / scale[0] / grid[1], (box[3] - box[1]) / scale[1] / grid[0])

    threshold = t_pos if unit == "pixel" else t_pos * max(cell(first, grids[0]), cell(second, grids[1]))
    rows = [[math.hypot((x - u) / scale[0], (y - v) / scale[1]) < threshold for u, v in loop_centres(second, grids[1])]
            for x, y in loop_centres(first, grids[0])]
    return torch.tensor(rows)


@pytest.mark.parametrize("grids", GRIDS, ids=str)
@pytest.mark.parametrize(("unit", "t_pos"), [("cell_diagonal", 0.7), ("cell_diagonal_fraction", 0.7), ("pixel", 37.5)])
def test_match__equals_the_loop(grids: tuple, unit: str, t_pos: float) -> None:
    width, height = 613, 331
    first, second = boxes_in_pixels(24, width, height, 0), boxes_in_pixels(24, width, height, 1)
    first, second = first[1:] + first[:1], second  # mirrored against upright and the other way round
    mask = match(fractions(first, width, height), fractions(second, width, height), *grids, t_pos, unit,
                 torch.tensor([[width, height]], dtype=torch.float64))
    expected = torch.stack([loop_match(a, b, grids, t_pos, unit, (width, height))
                            for a, b in zip(first, second, strict=True)])
    assert mask.shape == (24, grids[0][0] * grids[0][1], grids[1][0] * grids[1][1]) and mask.dtype == torch.bool
    assert torch.equal(mask, expected)
    assert 0 < expected.float().mean() < 0.5


def test_cell_centres__row_major_and_mirrored() -> None:
    centres = cell_centres(torch.tensor([[0.0, 0.0, 4.0, 2.0], [4.0, 0.0, 0.0, 2.0]]), (2, 2))
    assert centres.tolist() == [[[1, 0.5], [3, 0.5], [1, 1.5], [3, 1.5]], [[3, 0.5], [1, 0.5], [3, 1.5], [1, 1.5]]]


def test_cell_diagonal__mirrored_is_the_same() -> None:
    upright, mirrored = torch.tensor([10.0, 0, 40, 40]), torch.tensor([40.0, 0, 10, 40])
    assert cell_diagonal(upright, (10, 10)) == cell_diagonal(mirrored, (10, 10)) == 5


@pytest.mark.parametrize("unit", ["cell_diagonal", "cell_diagonal_fraction", "pixel"])
def test_match__both_views_mirrored_gives_the_mirrored_mask(unit: str) -> None:
    size = torch.tensor([400.0, 300.0], dtype=torch.float64)
    first, second = random_pair(8, 400, 300, 2)
    t_pos = 30.0 if unit == "pixel" else 0.7
    mask = match(first, second, (3, 3), (7, 7), t_pos, unit, size).unflatten(1, (3, 3)).unflatten(3, (7, 7))
    mirror = [2, 1, 0, 3]
    mirrored = match(first[:, mirror], second[:, mirror], (3, 3), (7, 7), t_pos, unit, size)
    assert mask.any() and torch.equal(mirrored.unflatten(1, (3, 3)).unflatten(3, (7, 7)), mask.flip(2, 4))
    assert not torch.equal(mask, mask.flip(2, 4))


@pytest.mark.parametrize("unit", ["cell_diagonal", "cell_diagonal_fraction", "pixel"])
def test_match__swapping_the_views_transposes(unit: str) -> None:
    size = torch.tensor([400.0, 300.0], dtype=torch.float64)
    first, second = random_pair(8, 400, 300, 4)
    t_pos = 30.0 if unit == "pixel" else 0.7
    mask = match(first, second, (3, 3), (7, 7), t_pos, unit, size)
    assert mask.any() and torch.equal(match(second, first, (7, 7), (3, 3), t_pos, unit, size), mask.transpose(1, 2))


def test_match__no_overlap_is_empty() -> None:
    mask = match(torch.tensor([0.0, 0.0, 0.3, 0.3]), torch.tensor([0.6, 0.6, 1.0, 1.0]), (7, 7), (7, 7), 0.7,
                 "cell_diagonal", torch.tensor([500.0, 500.0]))
    assert not mask.any()


@pytest.mark.parametrize("box", [[0.1, 0.2, 0.7, 0.9], [0.7, 0.2, 0.1, 0.9]], ids=["upright", "mirrored"])
def test_match__identical_views_match_cell_by_cell(box: list[float]) -> None:
    view = torch.tensor(box)
    mask = match(view, view, (7, 7), (7, 7), 0.7, "cell_diagonal", torch.tensor([300.0, 200.0]))
    assert mask.diagonal().all()
    narrow = match(view, view, (7, 7), (7, 7), 1e-6, "cell_diagonal", torch.tensor([300.0, 200.0]))
    assert torch.equal(narrow, torch.eye(49).bool())


def test_match__one_view_mirrored_matches_the_mirrored_cells() -> None:
    view, mirrored = torch.tensor([0.1, 0.2, 0.7, 0.9]), torch.tensor([0.7, 0.2, 0.1, 0.9])
    mask = match(view, mirrored, (3, 3), (3, 3), 0.1, "cell_diagonal", torch.tensor([300.0, 200.0]))
    assert torch.equal(mask.unflatten(1, (3, 3)), torch.eye(9).bool().unflatten(1, (3, 3)).flip(2))


def test_match__elliptic_only_in_fractions() -> None:
    """A 400 x 100 image, square cells of 10 pixels: 9 pixels along x or y is the same distance in pixels (0.64 of the
    diagonal), but in fractions of each side x counts a quarter of y."""
    size = torch.tensor([400.0, 100.0])
    box = torch.tensor([100.0, 20, 110, 30]) / size.repeat(2)
    along_x = torch.tensor([109.0, 20, 119, 30]) / size.repeat(2)
    along_y = torch.tensor([100.0, 29, 110, 39]) / size.repeat(2)

    def matched(other: Tensor, unit: str, t_pos: float) -> bool:
        return bool(match(box, other, (1, 1), (1, 1), t_pos, unit, size).item())

    assert [matched(other, "cell_diagonal", 0.7) for other in (along_x, along_y)] == [True, True]
    assert [matched(other, "cell_diagonal", 0.6) for other in (along_x, along_y)] == [False, False]
    assert [matched(other, "cell_diagonal_fraction", 0.7) for other in (along_x, along_y)] == [True, False]


def test_match__fraction_and_pixel_diagonals_agree_on_square_images() -> None:
    size = torch.tensor([256.0, 256.0], dtype=torch.float64)
    first, second = random_pair(16, 256, 256, 6)
    masks = [match(first, second, (7, 7), (7, 7), 0.7, unit, size)
             for unit in ("cell_diagonal", "cell_diagonal_fraction")]
    assert masks[0].any() and torch.equal(*masks)


def test_match__strict_at_the_threshold() -> None:
    """Centres exactly 3-4-5 apart: distance 5 pixels is not below 5, nor 1 diagonal of a 3 x 4 cell below 1."""
    size = torch.tensor([64.0, 64.0], dtype=torch.float64)
    first, second = (torch.tensor(box, dtype=torch.float64) / 64 for box in ([0, 0, 3, 4], [3, 4, 6, 8]))
    for unit, at in (("pixel", 5.0), ("cell_diagonal", 1.0), ("cell_diagonal_fraction", 1.0)):
        assert not match(first, second, (1, 1), (1, 1), at, unit, size).item()
        assert match(first, second, (1, 1), (1, 1), math.nextafter(at, 9), unit, size).item()


def test_match__the_larger_diagonal_counts() -> None:
    """A local cell of 2 pixels against a global one of 20: 10 pixels apart is half of the larger diagonal."""
    size = torch.tensor([100.0, 100.0])
    small, large = torch.tensor([50.0, 50, 52, 52]) / 100, torch.tensor([41.0, 51, 61, 71]) / 100
    assert match(small, large, (1, 1), (1, 1), 0.4, "cell_diagonal", size).item()
    assert match(large, small, (1, 1), (1, 1), 0.4, "cell_diagonal", size).item()


def test_match__broadcasts_over_views_and_images() -> None:
    rng = torch.Generator().manual_seed(0)
    first, second = torch.rand(3, 1, 2, 4, generator=rng), torch.rand(1, 5, 2, 4, generator=rng)
    sizes = torch.tensor([[300.0, 200.0], [90.0, 120.0]])
    mask = match(first, second, (3, 3), (4, 4), 0.7, "cell_diagonal", sizes)
    assert mask.shape == (3, 5, 2, 9, 16)
    for i, j, b in ((0, 0, 0), (2, 4, 1), (1, 3, 1)):
        one = match(first[i, 0, b], second[0, j, b], (3, 3), (4, 4), 0.7, "cell_diagonal", sizes[b])
        assert torch.equal(mask[i, j, b], one)
