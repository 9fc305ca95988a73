"""Student's t: critical values and intervals that follow by hand, and scipy's."""

import math
import random

import pytest

from benchmarks.statistics.student import critical_t, margin, one_sample_p, two_sided_p


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
