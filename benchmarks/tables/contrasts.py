"""Differences between named rows, corrected together: `make_tables.py --contrast "CLoVE - Supervised"`, once for each.

A column of a table compares all rows with one; here is what a protocol named in advance. Standard
library only.
"""

from benchmarks.statistics.holm import holm
from benchmarks.tables.differences import compared, is_called, measured_rows
from benchmarks.tables.paired import Difference
from benchmarks.tables.table_model import TableModel
from pretrain.common.errors import UserError


def contrast_lines(tables: list[TableModel], asked: list[str]) -> list[str]:
    """One line for each contrast on each dataset; Holm's family is all of them. UserError for a row
    that is nowhere."""
    found: list[tuple[str, Difference]] = []
    for contrast in asked:
        of_contrast = _differences(tables, contrast)
        if not of_contrast:
            raise UserError(f"--contrast {contrast}: expected \"ROW - OTHER ROW\", two measured rows of one dataset, "
                            "found none; the tables name their rows")
        found += of_contrast
    p_values = [difference.p for _, difference in found if difference.p is not None]
    corrected = iter(holm(p_values))
    lines = []
    for title, difference in found:
        line = f"{title}: {difference.text()}"
        if difference.p is not None:
            line += f", p = {difference.p:.2g}, with Holm's correction for {len(p_values)}: {next(corrected):.2g}"
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
            rows = measured_rows(block)
            others = [row for row in rows if is_called(row, other)]
            for row in rows:
                if others and row not in others and is_called(row, name):
                    title = f"{contrast}, {column.replace('_', ' ')}, {block.heading or table.title}"
                    found.append((title, compared(row, block, other).differences[column]))
    return found
