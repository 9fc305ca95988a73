"""Which cells are the best and the second of their column, and whether the best is more than luck.

Among printed rows as papers do it: best bold, second underlined. Among measured rows the first place is bold only when
Welch's t-test (two-sided, unequal variances) against the runner-up gives p < 0.05, else underlined as the second is.
Rows that tie share their place; where several share the first there is no second.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from benchmarks.welch import welch_p

LEVEL = 0.05
BEST, LEADING, SECOND = "best", "leading", "second"  # leading: first without a proof
SAME_DIGITS = 9  # of a mean in percent: what differs later is rounding, and a tie


def places(values: Sequence[float | None]) -> list[str]:
    """BEST for the largest values, SECOND for the next ones if one alone is best, "" for the others and the missing.

    A column whose values are all equal has no places.
    """
    rounded = [None if value is None else round(value, SAME_DIGITS) for value in values]
    order = sorted({value for value in rounded if value is not None}, reverse=True)
    if len(order) < 2:
        return ["" for _ in values]
    names = {order[0]: BEST} | ({order[1]: SECOND} if rounded.count(order[0]) == 1 else {})
    return ["" if value is None else names.get(value, "") for value in rounded]


def compare(columns: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """(places of each column, one sentence on the tests) of measured rows that may be compared.

    `columns[metric][row]` are the values of the row's trials, in percent; `names[row]` says what the row is called.
    """
    found: dict[str, list[str]] = {}
    said: list[str] = []
    for metric, rows in columns.items():
        found[metric] = places([fmean(values) if values else None for values in rows])
        best, second = ([number for number, place in enumerate(found[metric]) if place == wanted]
                        for wanted in (BEST, SECOND))
        column = metric.replace("_", " ")
        if second:
            runner_up, p, why = _hardest(rows[best[0]], {number: rows[number] for number in second})
            said.append(f"{column} {names[best[0]]} over {names[runner_up]} " + (why if p is None else f"p = {p:.2g}"))
        elif best:
            p = None
            said.append(f"{column} {' and '.join(names[number] for number in best)} tie")
        if best and (p is None or p >= LEVEL):
            found[metric] = [LEADING if place == BEST else place for place in found[metric]]
    if not said:
        return found, ""
    return found, f"Best over runner-up (Welch's t-test over trials, bold below {LEVEL}): {'; '.join(said)}."


def welch(one: Sequence[float], other: Sequence[float]) -> tuple[float | None, str]:
    """(two-sided p of Welch's t-test, "") or (None, why there is none)."""
    if min(len(one), len(other)) < 2:
        return None, "not tested (n=1)"
    p = welch_p(one, other)
    return p, "not tested (trials without any spread)" if p is None else ""


def _hardest(best: Sequence[float], seconds: Mapping[int, Sequence[float]]) -> tuple[int, float | None, str]:
    """(row, p, why none) of the runner-up that the best must be tested against.

    Of several that tie, one that can be tested, and of those the one with the largest p.
    """
    tested = [(number, *welch(best, values)) for number, values in seconds.items()]
    return max(tested, key=lambda one: -1.0 if one[1] is None else one[1])
