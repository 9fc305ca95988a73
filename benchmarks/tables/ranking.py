"""Which cells are the best and the second of their column, and whether the best is more than luck.

Among printed rows as papers do it: best bold, second underlined. Among measured rows the first
place is bold only when Welch's t-test (two-sided, unequal variances) against the runner-up gives p
< 0.05, corrected by Holm for the columns that are tested, else underlined as the second is. Rows
that tie share their place; where several share the first there is no second.

Trials are the unit of that test, but for a method that was pretrained here its pretrainings are:
fine-tunings of one pretraining share their start and are not independent. Such a row is bold with
three pretrainings or more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.statistics.t_tests import holm, welch_p

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


# The runner-up; p of the best row against it before correction, or why none.
Test = tuple[int, float | None, str]


def places(values: Sequence[float | None]) -> list[str]:
    """BEST for the largest values, SECOND for the next ones if one alone is best, "" for the others
    and the missing.

    A column whose values are all equal has no places.
    """
    found = [""] * len(values)
    rounded = [round(value, SAME_DIGITS) for value in values if value is not None]
    order = sorted(set(rounded), reverse=True)
    if len(order) < 2:
        return found
    second = order[1] if rounded.count(order[0]) == 1 else None
    for number, value in enumerate(values):
        if value is not None and round(value, SAME_DIGITS) == order[0]:
            found[number] = BEST
        elif value is not None and round(value, SAME_DIGITS) == second:
            found[number] = SECOND
    return found


def compare(
    columns: Mapping[str, Sequence[Sample]], names: Sequence[str]
) -> tuple[dict[str, list[str]], str]:
    """(places of each column, one sentence on the tests) of measured rows that may be compared.

    `columns[column][row]` is what the row has there; `names[row]` says what the row is called. The
    p values of the columns are corrected for their number, by Holm.
    """
    found: dict[str, list[str]] = {}
    tests: dict[str, Test] = {}
    over = OVER_TRIALS
    for column, rows in columns.items():
        means: list[float | None] = []
        for row in rows:
            means.append(fmean(row.values) if row.values else None)
            if row.pretrained_here:
                over = OVER_PRETRAININGS
        found[column] = places(means)
        if SECOND in found[column]:
            tests[column] = _hardest(rows, found[column])
    corrected = dict(zip(tests, holm([p for _, p, _ in tests.values()]), strict=True))
    said: list[str] = []
    for column, rows in columns.items():
        title, proven = column.replace("_", " "), False
        if column in tests:
            runner_up, _, outcome = tests[column]
            best, p = found[column].index(BEST), corrected[column]
            row = rows[best]
            if p is not None:
                few = row.pretrained_here and len(row.values) < PRETRAININGS_FOR_BOLD
                outcome, proven = f"p = {p:.2g}", p < LEVEL and not few
                if p < LEVEL and few:
                    outcome += f", not bold with {len(row.values)} pretrainings"
            said.append(f"{title} {names[best]} over {names[runner_up]} {outcome}")
        elif BEST in found[column]:
            tied = [name for name, place in zip(names, found[column], strict=True) if place == BEST]
            said.append(f"{title} {' and '.join(tied)} tie")
        if not proven:
            found[column] = [place.replace(BEST, LEADING) for place in found[column]]
    if not said:
        return found, ""
    tested, how = len(tests) - list(corrected.values()).count(None), f"Welch's t-test over {over}"
    if tested > 1:
        how += f", Holm's correction for {tested} columns"
    return found, f"Best over runner-up ({how}, bold below {LEVEL}): {'; '.join(said)}."


def welch(one: Sample, other: Sample) -> tuple[float | None, str]:
    """(two-sided p of Welch's t-test, "") or (None, why there is none)."""
    for sample in (one, other):
        if len(sample.values) < 2 and sample.pretrained_here:
            return None, "not tested (one pretraining)"
        if len(sample.values) < 2:
            return None, "not tested (n=1)"
    p = welch_p(one.values, other.values)
    if p is None:
        return None, "not tested (trials without any spread)"
    return p, ""


def _hardest(rows: Sequence[Sample], column_places: Sequence[str]) -> Test:
    """The test of the best row against its runner-up.

    Of several runners-up that tie, one that can be tested, and of those the one with the largest p.
    """
    best, tests = rows[column_places.index(BEST)], []
    for number, place in enumerate(column_places):
        if place == SECOND:
            tests.append((number, *welch(best, rows[number])))
    return max(tests, key=lambda test: (test[1] is not None, test[1]))
