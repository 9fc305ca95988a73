"""Welch's t-test.

B. L. Welch, "The generalization of 'Student's' problem when several different population variances
are involved", Biometrika 34 (1947); degrees of freedom by Welch and Satterthwaite.
"""

from collections.abc import Sequence
from statistics import fmean, variance

from benchmarks.statistics.student import two_sided_p


def welch_p(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Two-sided p for equal means of two groups of unequal variances.

    None where the test is not defined: fewer than two values in a group, or no spread in either.
    """
    if min(len(one), len(other)) < 2:
        return None
    first, second = variance(one) / len(one), variance(other) / len(other)
    total = first + second
    if total == 0.0:
        return None
    t_squared = (fmean(one) - fmean(other)) ** 2 / total
    share = first / total
    freedom = 1.0 / (share**2 / (len(one) - 1) + (1.0 - share) ** 2 / (len(other) - 1))
    return two_sided_p(t_squared, freedom)
