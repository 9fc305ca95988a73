"""The order of an epoch: a permutation for every number of images, and one as likely as another."""

import numpy as np
import pytest

from pretrain.data.order import EpochOrder


def whole(images: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return EpochOrder(images, seed, epoch)[range(images)]


def excess(counts: np.ndarray, freedom: int) -> float:
    """Chi-square of counts that should be equal, as standard deviations above its mean."""
    expected = counts.mean()
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("epoch", [0, 7])
def test_order__is_a_permutation_of_any_number_of_images(epoch: int) -> None:
    for images in [*range(1, 400), 1023, 1024, 1025, 9_973, 10_000, 100_003]:
        assert np.array_equal(np.sort(whole(images, 3, epoch)), np.arange(images)), images


def test_order__any_position_alone_is_that_of_the_whole() -> None:
    order, all_at_once = EpochOrder(1_281_167, 5, 9), whole(1_281_167, 5, 9)
    positions = np.random.default_rng(0).integers(0, 1_281_167, 1000)
    assert np.array_equal(order[positions], all_at_once[positions])
    assert [order[range(at, at + 1)].item() for at in (0, 1_281_166)] == all_at_once[[0, -1]].tolist()


def test_order__large_numbers_stay_in_range_and_apart() -> None:
    for images in (10**8, 2**31 + 11, 10**12 + 39):
        found = EpochOrder(images, 1, 2)[np.linspace(0, images - 1, 100_000).astype(np.int64)]
        assert found.min() >= 0 and found.max() < images and len(np.unique(found)) == 100_000


@pytest.mark.parametrize("images", [2, 3, 5, 6, 8, 9, 16, 25, 37])
def test_order__every_image_at_every_position_and_every_pair_first_equally_often(images: int) -> None:
    """Over 2,000 epochs. Five standard deviations: one in a million would be above by chance."""
    places, pairs = np.zeros((images, images)), np.zeros((images, images))
    for epoch in range(2000):
        order = whole(images, 1, epoch)
        places[np.arange(images), order] += 1
        pairs[order[0], order[1]] += 1
    assert excess(places, (images - 1) ** 2) < 5
    off_diagonal = pairs[~np.eye(images, dtype=bool)]
    assert np.trace(pairs) == 0 and excess(off_diagonal, max(len(off_diagonal) - 1, 1)) < 5


@pytest.mark.parametrize("images", [100_000, 2**20 + 3])
def test_order__neighbours_and_positions_of_a_large_epoch_are_unrelated(images: int) -> None:
    order = whole(images, 2, 4)
    cells = 64
    cell = order * cells // images
    place = np.arange(images) * cells // images
    counts = np.bincount(place * cells + cell, minlength=cells**2).astype(float)
    assert abs(excess(counts, (cells - 1) ** 2)) < 6
    following = np.bincount(cell[:-1] * cells + cell[1:], minlength=cells**2).astype(float)
    assert abs(excess(following, (cells - 1) ** 2)) < 6
    steps = np.diff(order) % images * cells // images  # how far from one image to the next
    assert abs(excess(np.bincount(steps, minlength=cells).astype(float), cells - 1)) < 6


def test_order__seeds_and_epochs_differ() -> None:
    orders = {tuple(whole(1000, seed, epoch)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100
    first = np.array([whole(1000, seed, epoch) for seed in range(10) for epoch in range(10)])
    same = (first[:, None] == first[None]).sum(-1)[~np.eye(100, dtype=bool)]
    assert same.mean() == pytest.approx(1, abs=0.1) and same.max() < 10  # of 1000 places, as two random orders


def test_order__stays_what_it_was() -> None:
    """A run that goes on after an update of the project must meet the images it expects."""
    assert whole(12, 0, 0).tolist() == [10, 5, 1, 6, 4, 11, 8, 3, 7, 2, 0, 9]
    assert EpochOrder(10**8, 3, 5)[range(4)].tolist() == [53983803, 24218482, 82827443, 41264414]
