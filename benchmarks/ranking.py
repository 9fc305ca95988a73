"""Which cells are the best and the second of their column, and whether the best is more than luck.

Among printed rows as papers do it: best bold, second underlined. Among measured rows the best is bold only when
Welch's t-test (two-sided, unequal variances) against the runner-up gives p < 0.05; one trial has no test and no bold.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

LEVEL = 0.05
BEST, SECOND = "best", "second"


def places(values: Sequence[float | None]) -> list[str]:
    """BEST for the largest values, SECOND for the next ones, "" for all others and for what is missing."""
    order = sorted({value for value in values if value is not None}, reverse=True)
    names = dict(zip(order, (BEST, SECOND), strict=False)) if len(order) > 1 else {}
    return ["" if value is None else names.get(value, "") for value in values]


def compare(columns: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """(places of each column, one sentence on the tests) of measured rows that may be compared.

    `columns[metric][row]` are the values of the row's trials, in percent; `names[row]` says what the row is called.
    """
    found: dict[str, list[str]] = {}
    said: list[str] = []
    for metric, rows in columns.items():
        means = [fmean(values) if values else None for values in rows]
        found[metric] = places(means)
        if found[metric].count(BEST) != 1:  # one row, or a tie: nothing to test
            found[metric] = ["" if place == BEST else place for place in found[metric]]
            continue
        best = found[metric].index(BEST)
        second = found[metric].index(SECOND)
        p, why = welch(rows[best], rows[second])
        if p is None or p >= LEVEL:
            found[metric][best] = ""
        said.append(f"{metric.replace('_', ' ')} {names[best]} over {names[second]} "
                    + (why if p is None else f"p = {p:.2g}"))
    if not said:
        return found, ""
    return found, f"Best over runner-up (Welch's t-test over trials, bold below {LEVEL}): {'; '.join(said)}."


def welch(one: Sequence[float], other: Sequence[float]) -> tuple[float | None, str]:
    """(two-sided p of Welch's t-test, "") or (None, why there is none)."""
    if min(len(one), len(other)) < 2:
        return None, "not tested (n=1)"
    if len(set(one)) == len(set(other)) == 1:
        return None, "not tested (trials without any spread)"
    try:
        from scipy.stats import ttest_ind
    except ImportError:
        return None, "not tested (scipy is not installed)"
    return float(ttest_ind(one, other, equal_var=False).pvalue), ""
