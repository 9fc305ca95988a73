"""What a figure of the tables shows: for each dataset the rows' means, intervals, single runs and differences.

A row of a panel is a row of the table, in its order, by the table's first column. The two lines are
random initialisation and supervised pretraining.
"""

import textwrap
from collections import Counter
from dataclasses import dataclass

from benchmarks.records.expected_values import RANDOM
from benchmarks.statistics.t_tests import margin
from benchmarks.tables.table_model import IMPORTED, MEASURED, PRINTED, Row, TableModel, each_block

# Label of a line -> what the method's name begins with.
LINES = {"random initialisation": RANDOM, "supervised": "supervised"}
LINE = 0.5  # rows of height for each line of a name from the third on
NAME_LETTERS = 30  # of a line


@dataclass(frozen=True)
class Dot:
    """One row of a panel, in percent. `half`: half its 95 % interval, None where n is too small;
    `place`: its distance from the top, in rows."""

    name: str
    place: float
    mean: float
    half: float | None
    singles: tuple[float, ...]
    measured: bool
    difference: str


@dataclass(frozen=True)
class Panel:
    """A block of a table. `dots`: its rows from the top; `lines`: label of a line -> the value
    where it stands, in percent."""

    title: str
    column: str
    against: str
    dots: list[Dot]
    lines: dict[str, float]


def panels(tables: list[TableModel]) -> list[Panel]:
    """A panel for each block that has measured rows, in the order of the tables."""
    found = []
    for table, block in each_block(tables):
        rows = block.with_value(table.columns[0])
        if any(row.kind == MEASURED for row in rows):
            title, column = block.heading or table.title, table.columns[0].replace("_", " ")
            lines = _lines(rows, table.columns[0])
            found.append(Panel(title, column, table.against, _dots(rows, table.columns[0]), lines))
    return found


def _dots(rows: list[Row], column: str) -> list[Dot]:
    measured = Counter(row.name for row in rows if row.kind == MEASURED)
    dots: list[Dot] = []
    place = -1.0
    for row in rows:
        name = row.name + {PRINTED: ", paper", IMPORTED: ", imported", MEASURED: ""}[row.kind]
        if measured[name] > 1:
            name += f" ({row.source.partition('; ')[2]})"
        singles, half, difference = (), None, ""
        if row.group is not None:
            singles, half = tuple(row.group.values(column)), margin(row.group.independent(column))
        if row.differences:
            difference = row.differences[column].text()
        lines = textwrap.wrap(name, NAME_LETTERS)
        more = LINE * max(len(lines) - 2, 0) / 2  # above and below
        place += 1.0 + more
        mean = row.cells[column].mean
        dots.append(Dot("\n".join(lines), place, mean, half, singles, row.kind == MEASURED, difference))
        place += more
    return dots


def _lines(rows: list[Row], column: str) -> dict[str, float]:
    """Where the lines of LINES stand: at the measured row of that name where there is one, else the
    printed one."""
    found = {}
    for label, method in LINES.items():
        named = [row for row in rows if row.kind != IMPORTED
                 and row.method.removeprefix("DEMO ").casefold().startswith(method.casefold())]
        if named:  # "Rand init" before its variants
            row = min(named, key=lambda row: (row.kind != MEASURED, len(row.method)))
            found[label] = row.cells[column].mean
    return found


def limits(dots: list[Dot]) -> tuple[float, float]:
    """The ends of a panel: all values, and of the intervals what is no further from them than they
    are wide."""
    values, ends = [], []
    for dot in dots:
        values += [dot.mean, *dot.singles]
        ends += [dot.mean - (dot.half or 0.0), dot.mean + (dot.half or 0.0)]
    low, high = min(values), max(values)
    width = max(high - low, 1.0)
    least, most = max(min(low, *ends), low - width), min(max(high, *ends), high + width)
    return least - 0.05 * width, most + 0.05 * width
