"""Welch's p against values that follow by hand, against scipy, and where it is not defined."""

import math
import random
import warnings

import pytest

from benchmarks.statistics.welch import welch_p


def test_welch_p__two_degrees_of_freedom_by_hand() -> None:
    # One group without spread: n - 1 = 2 degrees of freedom, where p = 1 - t / sqrt(2 + t^2). The other group has mean
    # 2 and variance 1: t = 2 / sqrt(1 / 3) = sqrt(12), p = 1 - sqrt(12 / 14).
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert welch_p([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]) == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-12)
        assert welch_p([73.0, 73.0, 73.0], [74.0, 75.0, 76.0]) == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-12)


def test_welch_p__one_and_four_degrees_of_freedom_by_hand() -> None:
    # One degree: p = 1 - 2 / pi * atan(t). Two values 1 and 3 against 0: t = 2 / sqrt(2 / 2) = 2.
    assert welch_p([0.0, 0.0], [1.0, 3.0]) == pytest.approx(1 - 2 / math.pi * math.atan(2), rel=1e-12)
    # Four: equal variances of 1 and three values each, t = 3 / sqrt(2 / 3); with s = t / sqrt(4 + t^2), the share
    # within is (3 s - s^3) / 2.
    t = 3 / math.sqrt(2 / 3)
    s = t / math.sqrt(4 + t * t)
    assert welch_p([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == pytest.approx(1 - (3 * s - s**3) / 2, rel=1e-12)


def test_welch_p__equal_means_and_far_tails() -> None:
    assert welch_p([1.0, 3.0], [0.0, 4.0]) == 1.0
    assert 0 < welch_p([0.0, 1e-9, 2e-9], [50.0, 50.0, 50.0]) < 1e-18
    assert welch_p([1.0, 2.0], [4.0, 7.0, 9.0]) == pytest.approx(welch_p([4.0, 7.0, 9.0], [1.0, 2.0]), rel=1e-12)


@pytest.mark.parametrize(("one", "other"), [([1.0], [2.0, 3.0]), ([], [2.0, 3.0]), ([1.0, 1.0], [2.0, 2.0]),
                                            ([73.1] * 3, [73.1] * 3)])
def test_welch_p__is_none_where_it_is_not_defined(one: list[float], other: list[float]) -> None:
    assert welch_p(one, other) is None


def test_welch_p__equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(0)
    for _ in range(2000):
        spread = [10 ** draw.uniform(-2, 1.5) for _ in range(2)]
        one, other = ([40 + gap + draw.gauss(0, deviation) for _ in range(draw.choice([2, 3, 5, 10, 100, 400]))]
                      for gap, deviation in zip((0, draw.choice([0, 0.1, 1, 10])), spread, strict=True))
        expected = float(stats.ttest_ind(one, other, equal_var=False).pvalue)
        if expected > 1e-280:  # scipy's own tails end somewhere
            assert welch_p(one, other) == pytest.approx(expected, rel=1e-9), (one, other)
