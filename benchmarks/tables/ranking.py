"""Which cells are the best and the second of their column, and whether the best is more than luck.

Among printed rows as papers do it: best bold, second underlined. Among measured rows the first
place is bold only when Welch's t-test (two-sided, unequal variances) against the runner-up gives p
< 0.05, else underlined as the second is. Rows that tie share their place; where several share the
first there is no second.

Trials are the unit of that test, but for a method that was pretrained here its pretrainings are:
fine-tunings of one pretraining share their start and are not independent. Such a row is bold with
three pretrainings or more.
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
    """The independent values of one row in one column, in percent: its trials' or, pretrained here,
    the mean of each pretraining's trials."""

    values: Sequence[float]
    pretrained_here: bool = False


def places(values: Sequence[float | None]) -> list[str]:
    """BEST for the largest values, SECOND for the next ones if one alone is best, "" for the others
    and the missing.

    A column whose values are all equal has no places.
    """
    rounded = [value if value is None else round(value, SAME_DIGITS) for value in values]
    order = sorted(set(rounded) - {None}, reverse=True)
    found = [""] * len(values)
    if len(order) < 2:
        return found
    best_alone = rounded.count(order[0]) == 1
    for number, value in enumerate(rounded):
        if value == order[0]:
            found[number] = BEST
        elif value == order[1] and best_alone:
            found[number] = SECOND
    return found


def compare(columns: Mapping[str, Sequence[Sample]], names: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """(places of each column, one sentence on the tests) of measured rows that may be compared.

    `columns[column][row]` is what the row has there; `names[row]` says what the row is called.
    """
    found: dict[str, list[str]] = {}
    said: list[str] = []
    pretrained_here = False
    for column, rows in columns.items():
        pretrained_here = pretrained_here or any(row.pretrained_here for row in rows)
        found[column] = places([fmean(row.values) if row.values else None for row in rows])
        best = [number for number, place in enumerate(found[column]) if place == BEST]
        if not best:
            continue
        title, proven = column.replace("_", " "), False
        if SECOND in found[column]:
            seconds = {number: rows[number] for number, place in enumerate(found[column]) if place == SECOND}
            runner_up, outcome, proven = _hardest(rows[best[0]], seconds)
            said.append(f"{title} {names[best[0]]} over {names[runner_up]} {outcome}")
        else:
            said.append(f"{title} {' and '.join(names[number] for number in best)} tie")
        if not proven:
            for number in best:
                found[column][number] = LEADING
    if not said:
        return found, ""
    over = OVER_PRETRAININGS if pretrained_here else OVER_TRIALS
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


def _hardest(best: Sample, seconds: Mapping[int, Sample]) -> tuple[int, str, bool]:
    """(row of the runner-up that the best must be tested against, outcome in words, whether the
    best is proven).

    Of several that tie, one that can be tested, and of those the one with the largest p.
    """
    hardest, largest, outcome = -1, -1.0, ""
    for number, sample in seconds.items():
        p, why_none = welch(best, sample)
        if p is None and hardest < 0:
            hardest, outcome = number, why_none
        elif p is not None and p > largest:
            hardest, largest, outcome = number, p, f"p = {p:.2g}"
    proven = 0.0 <= largest < LEVEL
    if proven and best.pretrained_here and len(best.values) < PRETRAININGS_FOR_BOLD:
        return hardest, f"{outcome}, not bold with {len(best.values)} pretrainings", False
    return hardest, outcome, proven
