"""Student's t, Welch's test and Holm's correction: values that follow by hand, and scipy's."""

import math
import random
import warnings

import pytest

from benchmarks.statistics.t_tests import critical_t, holm, margin, one_sample_p, two_sided_p, welch_p


def test_critical_t__one_and_two_degrees_of_freedom_by_hand() -> None:
    # One degree: p = 1 - 2 / pi * atan(t). Two: p = 1 - t / sqrt(2 + t^2), so t^2 = 2 * 0.95^2 / (1 - 0.95^2).
    assert critical_t(1) == pytest.approx(math.tan(0.95 * math.pi / 2), rel=1e-12)
    assert critical_t(2) == pytest.approx(math.sqrt(2 * 0.95**2 / (1 - 0.95**2)), rel=1e-12)
    assert critical_t(4) == pytest.approx(2.776, abs=5e-4)  # any table
    assert critical_t(1e6) == pytest.approx(1.959966, abs=1e-5)  # the normal distribution's 1.959964


def test_margin_and_p__of_three_values_by_hand() -> None:
    # Mean 3.26667, squares of the distances 1.77778 + 24.33778 + 39.27111, variance 32.69333, standard error 3.30117:
    # t(0.975, 2) = 4.30265 gives 14.2038; p of t = 0.98955 is 1 - t / sqrt(2 + t^2) = 0.42671.
    values = [4.6, 8.2, -3.0]
    assert margin(values) == pytest.approx(14.2038, abs=2e-4)
    assert one_sample_p(values) == pytest.approx(0.4267, abs=1e-4)


def test_margin_and_p__are_none_where_they_are_not_defined() -> None:
    assert margin([1.0]) is None and margin([]) is None and margin([2.0, 2.0]) == 0.0
    assert one_sample_p([1.0]) is None and one_sample_p([2.0, 2.0]) is None
    assert one_sample_p([-1.0, 1.0]) == 1.0


def test_margin_and_p__equal_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(0)
    for _ in range(300):
        values = [draw.uniform(-3, 3) + draw.gauss(0, 2) for _ in range(draw.choice([2, 3, 5, 8, 30, 200]))]
        expected = stats.ttest_1samp(values, 0.0)
        interval = expected.confidence_interval(0.95)
        assert margin(values) == pytest.approx((interval.high - interval.low) / 2, rel=1e-9)
        assert one_sample_p(values) == pytest.approx(float(expected.pvalue), rel=1e-9)
        assert two_sided_p(critical_t(len(values) - 1) ** 2, len(values) - 1) == pytest.approx(0.05, rel=1e-9)


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


def test_holm__by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04 which may not be below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm__no_probability_above_1_one_alone_unchanged_and_equal_ones_alike() -> None:
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04] and holm([]) == []
    assert holm([0.02, 0.02]) == [0.04, 0.04]
