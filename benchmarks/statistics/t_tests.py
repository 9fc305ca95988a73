"""The t-tests and Holm's correction in plain Python: the same results give the same tables whatever is installed.

The tail of Student's t distribution is a regularised incomplete beta function, here by its
continued fraction (Abramowitz and Stegun 26.5.8) with Lentz's method (1976, as modified by Thompson
and Barnett, 1986).
"""

import math
from collections.abc import Sequence
from functools import cache
from statistics import fmean, stdev, variance

SMALLEST, PRECISION = 1e-300, 1e-15
CONFIDENCE = 0.95


def two_sided_p(t_squared: float, freedom: float) -> float:
    """The probability that |t| of Student's distribution is larger, from its square and its degrees
    of freedom."""
    return _incomplete_beta(t_squared / freedom, freedom / 2.0)


@cache
def critical_t(freedom: float) -> float:
    """The t that |t| stays below with a probability of 95 %, by halving."""
    low, high = 0.0, 1.0
    while two_sided_p(high**2, freedom) > 1.0 - CONFIDENCE:
        high *= 2.0
    while (middle := (low + high) / 2.0) not in (low, high):
        if two_sided_p(middle**2, freedom) > 1.0 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def margin(values: Sequence[float]) -> float | None:
    """Half the 95 % interval of the mean of independent values; None of fewer than two."""
    if len(values) < 2:
        return None
    return critical_t(len(values) - 1) * stdev(values) / math.sqrt(len(values))


def one_sample_p(values: Sequence[float]) -> float | None:
    """Two-sided p for a mean of 0; None where it is not defined: fewer than two values, or no
    spread."""
    if len(values) < 2 or stdev(values) == 0.0:
        return None
    return two_sided_p(len(values) * (fmean(values) / stdev(values)) ** 2, len(values) - 1)


def welch_p(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Two-sided p for equal means of two groups of unequal variances.

    B. L. Welch, "The generalization of 'Student's' problem when several different population
    variances are involved", Biometrika 34 (1947); degrees of freedom by Welch and Satterthwaite.
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


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The corrected p of each: below a level, the test holds at that level for the whole family.
    None is no test.

    The smallest is multiplied by their number, the next by one less, and so on; none is below one
    before it. S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6 (1979).
    """
    corrected: list[float | None] = [None] * len(p_values)
    tests = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    largest = 0.0
    for rank, (p, place) in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - rank) * p))
        corrected[place] = largest
    return corrected


def _incomplete_beta(ratio: float, a: float) -> float:
    """I_x(a, 1/2) at x = 1 / (1 + ratio). The ratio keeps the digits that x would lose near 0 and
    1."""
    b = 0.5
    if ratio == 0.0:
        return 1.0
    log_x, log_y = -math.log1p(ratio), -math.log1p(1.0 / ratio)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * log_x + b * log_y)
    x, y = 1.0 / (1.0 + ratio), ratio / (1.0 + ratio)
    # Where the fraction converges fast; the mirrored one does elsewhere.
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _fraction(x, a, b) / a
    return 1.0 - front * _fraction(y, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function, from the front, until it stands
    still."""
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, 10_000):
        for factor in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                       -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1.0 / _not_zero(1.0 + factor * d)
            c = _not_zero(1.0 + factor / c)
            step = c * d
            value *= step
        if abs(step - 1.0) < PRECISION:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > SMALLEST else SMALLEST
