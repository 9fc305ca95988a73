"""What a table looks like in every format: its columns, cells and dividers, and how a value is marked.

Printed metrics are in italics and measured ones upright; the best of a column is bold, the second
underlined, as is a best of measured rows that no test proves.
"""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.tables.ranking import BEST, LEADING, SECOND
from benchmarks.tables.shown_text import epochs_text, signed
from benchmarks.tables.table_model import PRINTED, Block, Row, TableModel

MEASURED_HERE = "measured here"
PAPER = "paper"  # what a measured row is compared with, where it is printed too


@dataclass(frozen=True)
class Look:
    """How a format escapes text and marks it: italic, bold or underlined."""

    escape: Callable[[str], str]
    italic: str
    bold: str
    underline: str


def column_names(table: TableModel) -> list[str]:
    """The columns of metrics as they are read: AP bb for AP_bb."""
    return [column.replace("_", " ") for column in table.columns]


def compared_with(table: TableModel, block: Block) -> list[str]:
    """What the first column of the block's measured rows is compared with: a column for each."""
    found = []
    if any(row.paper for row in block.rows):
        found.append(PAPER)
    if any(row.differences for row in block.rows):
        found.append(table.against)
    return found


def difference_texts(table: TableModel, compared: list[str], row: Row) -> list[str]:
    """A row's text in each column of `compared_with`; empty where it is compared with nothing."""
    first, texts = table.columns[0], []
    for other in compared:
        if other == PAPER:
            texts.append(signed(row.minus_paper(first)) if row.paper else "")
        else:
            texts.append(row.differences[first].text() if row.differences else "")
    return texts


def titles(table: TableModel, block: Block) -> list[str]:
    """The titles of all columns, as text."""
    names = ["Method", "Epochs", *column_names(table)]
    for other in compared_with(table, block):
        interval = "" if other == PAPER else " [95 %]"
        names.append(f"{names[2]} - {other}{interval}")
    return [*names, "Source"]


def line(table: TableModel, compared: list[str], row: Row, look: Look) -> list[str]:
    """The cells of a row under `titles`, escaped and marked; `compared`: `compared_with` of its block."""
    cells = [shown_cell(row, column, look) for column in table.columns]
    differences = map(look.escape, difference_texts(table, compared, row))
    return [look.escape(row.method), epochs_text(row.epochs), *cells, *differences, look.escape(row.source)]


def notes_of(table: TableModel, block: Block) -> list[str]:
    """The notes of the whole table: they stand under its first block."""
    return table.notes if block is table.blocks[0] else []


def with_divider(block: Block) -> list[Row | None]:
    """The rows, with None between printed and measured ones. Printed rows stand first."""
    rows: list[Row | None] = list(block.rows)
    printed = [row.kind for row in block.rows].count(PRINTED)
    if 0 < printed < len(rows):
        rows.insert(printed, None)
    return rows


def shown_cell(row: Row, column: str, look: Look) -> str:
    """A metric, marked by its place and by where it comes from."""
    cell = row.cells[column]
    mark = {LEADING: look.underline, SECOND: look.underline, BEST: look.bold}.get(cell.place, "{}")
    text = mark.format(look.escape(cell.text))
    return look.italic.format(text) if row.kind == PRINTED and cell.mean is not None else text
