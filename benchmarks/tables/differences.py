"""The differences of a table: each measured row minus another one of its block, and what is corrected for their number.

The other row is detectron2's random start, or the one that `make_tables.py --against ROW` names:
under the same setting, on the same data. Named pairs of rows, which a protocol fixed in advance, are
contrasts: `--contrast "CLoVE - Supervised"`, once for each. Standard library only.
"""

from dataclasses import replace

from benchmarks.records.expected_values import RANDOM
from benchmarks.statistics.t_tests import holm
from benchmarks.tables.paired import Difference, paired
from benchmarks.tables.shown_text import nearest
from benchmarks.tables.table_model import Block, Row, TableModel
from benchmarks.tables.table_rows import under_same_setting
from benchmarks.tables.trial_groups import Group
from pretrain.common.errors import UserError, refuse

NOTE = ("{column} - {against}: mean difference over pairs, fine-tunings of the same trial and seed, with its 95 % "
        "interval by Student's t; n counts {units}. [-]: no interval, n is too small. "
        "Not corrected for the number of rows: tables.csv has p with Holm's correction, and the other columns.")
OF_PRETRAININGS = "pretrainings (pairs where neither row was pretrained here)"
OF_PAIRS = "pairs"


def with_differences(tables: list[TableModel], against: str | None = None) -> list[TableModel]:
    """The tables with the differences of their measured rows to the row `against` (default: the
    random start), where there is one. UserError when it is named and nowhere."""
    name = against or RANDOM
    rows = [row for table in tables for row in _measured(table)]
    if against and not any(is_called(row, name) for row in rows):
        raise UserError(f"--against {against}: expected a measured row, found none of that name; "
                        f"{nearest(against, [row.name for row in rows])}")
    return [_with_differences(table, name) for table in tables]


def _with_differences(table: TableModel, name: str) -> TableModel:
    called = {is_called(row, name) for row in _measured(table)}
    if called != {True, False}:
        return table
    blocks = [replace(block, rows=[compared(row, block, name) for row in block.rows]) for block in table.blocks]
    found = replace(table, blocks=blocks, against=name)
    _correct(found)
    doubts, units = {}, OF_PAIRS
    for row in _measured(found):
        if row.group.pretrained_here:
            units = OF_PRETRAININGS
        first = row.differences.get(table.columns[0])
        if first and first.interval and first.doubt:
            doubts[f"{first.doubt.capitalize()}."] = None
    note = NOTE.format(column=table.columns[0].replace("_", " "), against=name, units=units)
    return replace(found, notes=[*found.notes, " ".join([note, *doubts])])


def _measured(table: TableModel) -> list[Row]:
    return [row for block in table.blocks for row in block.comparable()]


def is_called(row: Row, name: str) -> bool:
    """Whether a row has this name, with or without its epochs."""
    return name.casefold() in (row.method.casefold(), row.name.casefold())


def compared(row: Row, block: Block, name: str) -> Row:
    """The row of a block with its differences to the row of this name, one for each column; itself
    where it is that."""
    rows = block.comparable()
    if row not in rows or is_called(row, name):
        return row
    others = under_same_setting(row.group, [other.group for other in rows if is_called(other, name)])
    others = _most_alike(row.group, others)
    if len(others) == 1:
        return replace(row, differences={column: paired(row.group, others[0], column, name) for column in row.cells})
    count = f"{len(others)} rows are" if others else "no row is"
    none = Difference(name, (), (), f"{count} called {name} under the same setting")
    return replace(row, differences=dict.fromkeys(row.cells, none))


def _most_alike(group: Group, others: list[Group]) -> list[Group]:
    """Those whose configuration differs from the group's in the fewest keys."""
    distances = []
    for other in others:
        keys = other.config.keys() | group.config.keys()
        distances.append(sum(other.config.get(key) != group.config.get(key) for key in keys))
    return [other for other, distance in zip(others, distances, strict=True) if distance == min(distances)]


def _correct(table: TableModel) -> None:
    """Fill in Holm's p: a family is all differences of one column of the table, in all of its
    blocks."""
    for column in table.columns:
        compared_rows = [row.differences for row in _measured(table) if row.differences]
        corrected = holm([differences[column].p for differences in compared_rows])
        family = f"{column} - {table.against}: {len(corrected) - corrected.count(None)} in {table.name}"
        for differences, p in zip(compared_rows, corrected, strict=True):
            if p is not None:
                differences[column] = replace(differences[column], p_holm=p, family=family)


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
    for (title, difference), p in zip(found, corrected, strict=True):
        line = f"{title}: {difference.text()}"
        if p is not None:
            line += f", p = {difference.p:.2g}, with Holm's correction for {tests}: {p:.2g}"
        if difference.doubt:
            line += f" ({difference.doubt})"
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
            rows = block.comparable()
            others = [row for row in rows if is_called(row, other)]
            for row in rows:
                if others and row not in others and is_called(row, name):
                    title = f"{contrast}, {column.replace('_', ' ')}, {block.heading or table.title}"
                    found.append((title, compared(row, block, other).differences[column]))
    return found
