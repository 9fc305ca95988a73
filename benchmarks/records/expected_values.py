"""Rows that need a second look: outside what the literature says, or below random initialisation. Never hidden.

Standard library only. `results/expected.csv` holds the expected values, each read in the source
that it names, with the tolerance that a single run may have; results/README.md says how they were
chosen.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.records.reported import epochs_of, read_csv
from transfer.settings.random_starts import RAND

COLUMNS = ["table", "method", "epochs", "heads", "metric", "value", "tolerance", "source"]
RANDOM = RAND.row


@dataclass(frozen=True)
class Expected:
    """One metric that a correct run should come near: percent, plus or minus `tolerance`."""

    metric: str
    value: float
    tolerance: float
    source: str


class RowKey(NamedTuple):
    """A row of a table, by what decides its values; of an expectation, None as epochs and "" as
    heads mean any."""

    table: str
    method: str
    epochs: int | None
    heads: str


Expectations = Mapping[RowKey, list[Expected]]


def read_expected(path: Path) -> Expectations:
    """The expected values in the file at `path`; UserError for a line that is not what it should
    be."""
    found: dict[RowKey, list[Expected]] = defaultdict(list)

    def add(entry: dict[str, str]) -> bool:
        one = Expected(entry["metric"], float(entry["value"]), float(entry["tolerance"]), entry["source"])
        found[RowKey(entry["table"], entry["method"], epochs_of(entry), entry["heads"])].append(one)
        return bool(one.metric and one.source) and 0 <= one.value <= 100 and one.tolerance > 0

    read_csv(path, COLUMNS, add, "a column of a table with its value, tolerance and source")
    return found


def outside(expectations: Expectations, row: RowKey, values: Mapping[str, float | None]) -> list[str]:
    """What is wrong with a row's `values` (percent by column) by the literature, one sentence each;
    empty: nothing.

    An expectation of what is not a column of the table, or no longer, says nothing.
    """
    expected: list[Expected] = []
    for epochs in {row.epochs, None}:
        for heads in {row.heads, ""}:
            expected += expectations.get(RowKey(row.table, row.method, epochs, heads), ())
    found = []
    for one in sorted(expected, key=lambda one: one.metric):
        value = values.get(one.metric)
        if value is not None and abs(value - one.value) > one.tolerance + 1e-9:
            found.append(f"{one.metric.replace('_', ' ')} {value:.1f} is outside {one.value:.1f} ± {one.tolerance:.1f} "
                         f"({one.source})")
    return found


def below_random(values: Mapping[str, float | None], random: Mapping[str, float | None], main: Iterable[str]
                 ) -> list[str]:
    """The columns among `main`, those that each kind of metric is judged by, in which a row is
    below random initialisation."""
    found = []
    for column in main:
        value, baseline = values.get(column), random.get(column)
        if value is not None and baseline is not None and value < baseline:
            found.append(f"{column.replace('_', ' ')} {value:.1f} is below random initialisation ({baseline:.1f})")
    return found
