"""The differences of a table: each measured row minus another one of its block, and what is corrected for their number.

The other row is detectron2's random start, or the one that `make_tables.py --against ROW` names:
under the same setting, on the same data. Named pairs of rows, which a protocol fixed in advance,
are contrasts: `--contrast "CLoVE - Supervised"`, once for each. Standard library only.
"""

from collections import defaultdict

from benchmarks.records.expected_values import RANDOM
from benchmarks.statistics.t_tests import holm
from benchmarks.tables.paired import Difference, paired
from benchmarks.tables.shown_text import nearest
from benchmarks.tables.table_model import Row, TableModel
from benchmarks.tables.trial_groups import Group
from pretrain.common.errors import UserError, refuse

NOTE = ("{column} - {against}: mean difference over pairs, fine-tunings of the same trial and seed, with its 95 % "
        "interval by Student's t; n counts {units}. [-]: no interval, n is too small. "
        "Not corrected for the number of rows: tables.csv has p with Holm's correction, and the other columns.")
OF_PRETRAININGS = "pretrainings (pairs where neither row was pretrained here)"
OF_PAIRS = "pairs"


def add_differences(tables: list[TableModel], against: str | None = None) -> None:
    """Give the measured rows of the tables their differences to the row `against` (default: the
    random start), where there is one. UserError when it is named and nowhere."""
    name, measured = against or RANDOM, []
    for table in tables:
        rows = []
        for block in table.blocks:
            rows += block.comparable()
        called = [row.is_called(name) for row in rows]
        if True in called and False in called:
            _add_differences(table, rows, name)
        measured += rows
    if against and not any(row.is_called(name) for row in measured):
        raise UserError(f"--against {against}: expected a measured row, found none of that name; "
                        f"{nearest(against, [row.name for row in measured])}")


def _add_differences(table: TableModel, measured: list[Row], name: str) -> None:
    """Differences of a table's measured rows, and a note on them. A family of Holm's correction is
    all differences of one column of the table, in all of its blocks."""
    for block in table.blocks:
        others = [row for row in block.comparable() if row.is_called(name)]
        for row in block.comparable():
            if not row.is_called(name):
                row.differences = compared(row, others, name)
    table.against, doubts, units = name, {}, OF_PAIRS
    for column in table.columns:
        found = [row.differences[column] for row in measured if row.differences]
        corrected = holm([one.p for one in found])
        family = f"{column} - {name}: {len(corrected) - corrected.count(None)} in {table.name}"
        for one, p in zip(found, corrected, strict=True):
            if p is not None:
                one.p_holm, one.family = p, family
            if one.interval and one.doubt and column == table.columns[0]:
                doubts[f" {one.doubt.capitalize()}."] = None
    if any(row.group.pretrained_here for row in measured):
        units = OF_PRETRAININGS
    note = NOTE.format(column=table.columns[0].replace("_", " "), against=name, units=units)
    table.notes.append(note + "".join(doubts))


def compared(row: Row, others: list[Row], name: str) -> dict[str, Difference]:
    """A row's difference, by column, to the one of `others` under its setting, on its data; of
    several to the one whose configuration differs in the fewest keys. `name`: what the others are
    called."""
    by_distance: dict[int, list[Group]] = defaultdict(list)
    for other in others:
        if other.group.is_like(row.group):
            config, distance = other.group.config, 0
            for key in config.keys() | row.group.config.keys():
                distance += config.get(key) != row.group.config.get(key)
            by_distance[distance].append(other.group)
    alike = by_distance[min(by_distance, default=0)]
    if len(alike) == 1:
        return {column: paired(row.group, alike[0], column, name) for column in row.cells}
    count = f"{len(alike)} rows are" if alike else "no row is"
    return dict.fromkeys(row.cells, Difference(name, f"{count} called {name} under the same setting"))


def contrast_lines(tables: list[TableModel], asked: list[str]) -> list[str]:
    """One line for each contrast on each dataset; Holm's family is all of them. UserError for a row
    that is nowhere."""
    found: list[tuple[str, Difference]] = []
    for contrast in asked:
        of_contrast = _differences(tables, contrast)
        refuse((not of_contrast,
                f"--contrast {contrast}: expected \"ROW - OTHER ROW\", two measured rows of one dataset, "
                "found none; the tables name their rows"))
        found += of_contrast
    corrected = holm([difference.p for _, difference in found])
    tests = len(corrected) - corrected.count(None)
    lines = []
    for (title, one), p in zip(found, corrected, strict=True):
        line = f"{title}: {one.text()}"
        if p is not None:
            line += f", p = {one.p:.2g}, with Holm's correction for {tests}: {p:.2g}"
        if one.doubt:
            line += f" ({one.doubt})"
        lines.append(line)
    return lines


def _differences(tables: list[TableModel], contrast: str) -> list[tuple[str, Difference]]:
    """(what it is of, difference) of a contrast in the first column of each block that has both
    rows; a row that both names are names of is compared with nothing."""
    name, _, other = contrast.partition(" - ")
    found = []
    for table in tables:
        column = table.columns[0]
        for block in table.blocks:
            title = f"{contrast}, {column.replace('_', ' ')}, {block.heading or table.title}"
            others = [row for row in block.comparable() if row.is_called(other)]
            for row in block.comparable():
                if others and row.is_called(name) and not row.is_called(other):
                    found.append((title, compared(row, others, other)[column]))
    return found
