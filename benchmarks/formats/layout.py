"""What a table looks like in every format: its columns, cells and dividers, and how a value is marked.

Printed metrics are in italics and measured ones upright; the best of a column is bold, the second
underlined, as is a best of measured rows that no test proves.
"""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.tables.ranking import BEST, LEADING, SECOND
from benchmarks.tables.shown_text import number_text, signed
from benchmarks.tables.table_model import PRINTED, Block, Row, TableModel

MEASURED_HERE = "measured here"
PAPER = "paper"  # what a measured row is compared with, where it is printed too
INTERVAL = "[95 %]"


@dataclass(frozen=True)
class Look:
    """How a format escapes text and marks it: italic, bold, underlined, or a divider."""

    escape: Callable[[str], str]
    italic: str
    bold: str
    underline: str
    divider: str


def compared_with(table: TableModel, block: Block) -> list[str]:
    """What the first column of the block's measured rows is compared with: a column for each."""
    found = []
    if any(row.paper for row in block.rows):
        found.append(PAPER)
    if any(row.differences for row in block.rows):
        found.append(table.against)
    return found


def titles(table: TableModel, block: Block) -> list[str]:
    """The titles of all columns, as text."""
    names = ["Method", "Epochs"]
    for column in table.columns:
        names.append(column.replace("_", " "))  # AP bb for AP_bb
    for other in compared_with(table, block):
        title = f"{names[2]} - {other}"
        if other != PAPER:
            title += f" {INTERVAL}"
        names.append(title)
    return [*names, "Source"]


def lines(table: TableModel, block: Block, look: Look) -> list[tuple[Row | None, list[str]]]:
    """(row, its cells under `titles`, escaped and marked) of all rows, and (None, a divider)
    between printed and measured ones. Printed rows stand first."""
    first, others, found = table.columns[0], compared_with(table, block), []
    marks = {LEADING: look.underline, SECOND: look.underline, BEST: look.bold}
    for row in block.rows:
        cells = [look.escape(row.method), number_text(row.epochs, "d")]
        for column in table.columns:
            cell = row.cells[column]
            text = marks.get(cell.place, "{}").format(look.escape(cell.text))
            if row.kind == PRINTED and cell.mean is not None:
                text = look.italic.format(text)
            cells.append(text)
        for other in others:
            text = ""
            if other == PAPER and row.paper:
                text = signed(row.minus_paper(first))
            elif other != PAPER and row.differences:
                text = row.differences[first].text()
            cells.append(look.escape(text))
        found.append((row, [*cells, look.escape(row.source)]))
    printed = [row.kind for row in block.rows].count(PRINTED)
    if 0 < printed < len(found):
        divider = [look.divider.format(MEASURED_HERE), *[""] * (len(found[0][1]) - 1)]
        found.insert(printed, (None, divider))
    return found


def notes_of(table: TableModel, block: Block) -> list[str]:
    """The notes of the whole table: they stand under its first block."""
    return table.notes if block is table.blocks[0] else []
