"""Rows that need a second look: outside what the literature says, or below random initialisation. Never hidden.

Standard library only. `results/expected.csv` holds the expected values, each read in the source
that it names, with the tolerance that a single run may have; results/README.md says how they were
chosen.
"""

from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.records.reported import read_csv
from transfer.settings.random_starts import RAND

COLUMNS = ["table", "method", "epochs", "heads", "metric", "value", "tolerance", "source"]
RANDOM = RAND.row
RowKey = tuple[str, str, int | None, str]  # table, method, epochs, heads of a row


def read_expected(path: Path) -> list[dict[str, Any]]:
    """The expected values in the file at `path`: percent, plus or minus `tolerance`, for rows of a
    method; None as epochs and "" as heads mean any. UserError for a line that is not what it should
    be."""
    def is_good(entry: dict[str, Any]) -> bool:
        return bool(entry["metric"] and entry["source"]) and entry["tolerance"] > 0

    expected = "a column of a table with its value, tolerance and source"
    return read_csv(path, COLUMNS, is_good, expected, ("value", "tolerance"))


def outside(
    expected: list[dict[str, Any]], row: RowKey, values: Mapping[str, float | None]
) -> list[str]:
    """What is wrong with a row's `values` (percent by column) by the literature, one sentence each;
    empty: nothing.

    An expectation of what is not a column of the table, or no longer, says nothing.
    """
    table, method, epochs, heads = row
    found = []
    for one in sorted(expected, key=itemgetter("metric")):
        same_method = one["table"] == table and one["method"] == method
        value, middle, tolerance = values.get(one["metric"]), one["value"], one["tolerance"]
        if not same_method or one["epochs"] not in (None, epochs) or one["heads"] not in ("", heads):
            continue
        if value is not None and abs(value - middle) > tolerance + 1e-9:
            name = one["metric"].replace("_", " ")
            found.append(f"{name} {value:.1f} is outside {middle:.1f} ± {tolerance:.1f} ({one['source']})")
    return found


def below_random(
    values: Mapping[str, float | None], random: Mapping[str, float | None], main: Iterable[str]
) -> list[str]:
    """The columns among `main`, those that each kind of metric is judged by, in which a row is
    below random initialisation."""
    found = []
    for column in main:
        value, baseline = values.get(column), random.get(column)
        if value is not None and baseline is not None and value < baseline:
            found.append(f"{column.replace('_', ' ')} {value:.1f} is below random initialisation ({baseline:.1f})")
    return found
