"""Which cells are the best and the second of their column, and whether the best is more than luck.

Among printed rows as papers do it: best bold, second underlined. Among measured rows the first place is bold only when
Welch's t-test (two-sided, unequal variances) against the runner-up gives p < 0.05, else underlined as the second is.
Rows that tie share their place; where several share the first there is no second.

Trials are the unit of that test, but for a method that was pretrained here its pretrainings are: fine-tunings of one
pretraining share their start and are not independent. Such a row is bold with three pretrainings or more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.statistics.welch import welch_p

LEVEL = 0.05
PRETRAININGS_FOR_BOLD = 3
BEST, LEADING, SECOND = "best", "leading", "second"  # leading: first without a proof
SAME_DIGITS = 9  # of a mean in percent: what differs later is rounding, and a tie
OVER_TRIALS = "trials"
OVER_PRETRAININGS = "pretrainings, over trials where a row starts from elsewhere or from random weights"


@dataclass(frozen=True)
class Sample:
    """The independent values of one row in one column, in percent: its trials' or, pretrained here, the mean of each
    pretraining's trials."""

    values: Sequence[float]
    pretrained_here: bool = False


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


def compare(columns: Mapping[str, Sequence[Sample]], names: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """(places of each column, one sentence on the tests) of measured rows that may be compared.

    `columns[column][row]` is what the row has there; `names[row]` says what the row is called.
    """
    found: dict[str, list[str]] = {}
    said: list[str] = []
    for column, rows in columns.items():
        found[column] = places([fmean(row.values) if row.values else None for row in rows])
        best = [number for number, place in enumerate(found[column]) if place == BEST]
        second = [number for number, place in enumerate(found[column]) if place == SECOND]
        title, proven = column.replace("_", " "), False
        if second:
            runner_up, p, why = _hardest(rows[best[0]], {number: rows[number] for number in second})
            proven = p is not None and p < LEVEL
            outcome = why if p is None else f"p = {p:.2g}"
            few = len(rows[best[0]].values) if rows[best[0]].pretrained_here else PRETRAININGS_FOR_BOLD
            if proven and few < PRETRAININGS_FOR_BOLD:
                proven = False
                outcome += f", not bold with {few} pretrainings"
            said.append(f"{title} {names[best[0]]} over {names[runner_up]} {outcome}")
        elif best:
            said.append(f"{title} {' and '.join(names[number] for number in best)} tie")
        if not proven:
            found[column] = [LEADING if place == BEST else place for place in found[column]]
    if not said:
        return found, ""
    here = any(row.pretrained_here for rows in columns.values() for row in rows)
    over = OVER_PRETRAININGS if here else OVER_TRIALS
    return found, f"Best over runner-up (Welch's t-test over {over}, bold below {LEVEL}): {'; '.join(said)}."


def welch(one: Sample, other: Sample) -> tuple[float | None, str]:
    """(two-sided p of Welch's t-test, "") or (None, why there is none)."""
    for sample in (one, other):
        if len(sample.values) < 2:
            return None, "not tested (one pretraining)" if sample.pretrained_here else "not tested (n=1)"
    p = welch_p(one.values, other.values)
    if p is None:
        return None, "not tested (trials without any spread)"
    return p, ""


def _hardest(best: Sample, seconds: Mapping[int, Sample]) -> tuple[int, float | None, str]:
    """(row, p, why none) of the runner-up that the best must be tested against.

    Of several that tie, one that can be tested, and of those the one with the largest p.
    """
    tested = [(number, *welch(best, sample)) for number, sample in seconds.items()]
    return max(tested, key=lambda one: -1.0 if one[1] is None else one[1])
