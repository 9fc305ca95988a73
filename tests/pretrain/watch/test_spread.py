"""Spread of features against figures worked out by hand."""

import math

import pytest
import torch

from pretrain.watch.spread import effective_rank, feature_std, sample_cells


def gaussian(cells: int, channels: int) -> torch.Tensor:
    return torch.randn(cells, channels, generator=torch.Generator().manual_seed(0))


def test_feature_std__one_for_the_axes_of_a_cross() -> None:
    """+e_i and -e_i: each channel is 1, -1 and 2C - 2 zeros, so its variance is 2 / 2C."""
    axes = torch.eye(5)
    assert feature_std(torch.cat([axes, -3 * axes])) == pytest.approx(1.0)  # lengths do not count


def test_feature_std__isotropic_gaussian_is_near_one() -> None:
    assert feature_std(gaussian(20_000, 16)) == pytest.approx(1.0, abs=0.01)


def test_feature_std__by_hand() -> None:
    """(1, 0) and (0, 1): each channel has standard deviation 1/2, times sqrt(2)."""
    assert feature_std(torch.tensor([[1.0, 0.0], [0.0, 7.0]])) == pytest.approx(0.5 * math.sqrt(2))


@pytest.mark.parametrize("lengths", [1.0, torch.arange(1.0, 9.0)[:, None]], ids=["equal", "of one direction"])
def test_feature_std__zero_when_collapsed(lengths: float | torch.Tensor) -> None:
    assert feature_std(torch.tensor([[1.0, 2.0, -3.0]]).expand(8, 3) * lengths) == pytest.approx(0, abs=1e-7)


def test_effective_rank__one_on_a_line() -> None:
    line = gaussian(50, 1) * torch.tensor([[1.0, -2.0, 0.5, 4.0]])
    assert effective_rank(line) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("shape", [(12, 4), (4, 12)], ids=["more cells", "more channels"])
def test_effective_rank__all_dimensions_alike(shape: tuple[int, int]) -> None:
    features = torch.eye(4).repeat(3, 1) if shape[0] == 12 else torch.eye(4, 12)
    assert effective_rank(features) == pytest.approx(4.0, abs=1e-9)


def test_effective_rank__known_spectrum() -> None:
    """Nine cells along x, four along y, one along z: singular values 3, 2, 1, shares 1/2, 1/3, 1/6."""
    features = torch.eye(3).repeat_interleave(torch.tensor([9, 4, 1]), dim=0)
    entropy = 1 / 2 * math.log(2) + 1 / 3 * math.log(3) + 1 / 6 * math.log(6)
    assert effective_rank(features) == pytest.approx(math.exp(entropy), abs=1e-9)
    turn = torch.linalg.qr(gaussian(3, 3).double()).Q
    lengths = gaussian(14, 1).exp()
    assert effective_rank((features.double() @ turn) * lengths) == pytest.approx(math.exp(entropy), abs=1e-6)


def test_effective_rank__isotropic_gaussian_uses_nearly_all_dimensions() -> None:
    assert 15.9 < effective_rank(gaussian(20_000, 16)) <= 16


def test_effective_rank__agrees_with_singular_values() -> None:
    features = torch.nn.functional.normalize(gaussian(40, 24).double() ** 3, dim=1)
    shares = torch.linalg.svdvals(features)
    shares = shares / shares.sum()
    assert effective_rank(features) == pytest.approx(math.exp(-(shares * shares.log()).sum()), rel=1e-9)


@pytest.mark.parametrize("features", [torch.zeros(3, 4), torch.zeros(0, 4), torch.full((3, 4), torch.nan)],
                         ids=["zeros", "none", "not finite"])
def test_effective_rank__nan_without_a_spectrum(features: torch.Tensor) -> None:
    assert math.isnan(effective_rank(features))


def test_feature_std__nan_without_cells() -> None:
    assert math.isnan(feature_std(torch.zeros(0, 4)))


def test_sample_cells__fixed_draw_without_moving_the_random_state() -> None:
    maps = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    state = torch.get_rng_state()
    some = sample_cells(maps, 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(sample_cells(maps, 7), some) and not torch.equal(sample_cells(maps, 7, seed=1), some)
    assert torch.equal(some[:, 1] - some[:, 0], torch.full((7,), 20.0))  # a row is one cell's channels
    assert len(torch.unique(some[:, 0])) == 7
    assert sample_cells(maps, 100).shape == (40, 3)
