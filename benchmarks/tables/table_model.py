"""A table before it is formatted: blocks of rows of cells.

Printed and measured rows never look alike: `Row.kind` decides the look, and every format knows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.tables.paired import Difference
from benchmarks.tables.shown_text import row_name
from benchmarks.tables.trial_groups import DEMO, Group

LOOK_AGAIN = "(!)"
PRINTED, MEASURED, IMPORTED = "printed", "measured", "imported"  # the kinds of rows


@dataclass
class Cell:
    """One metric as it is shown. `place` in its column: best, leading, second (see ranking) or none
    of them."""

    text: str
    mean: float | None = None
    deviation: float | None = None
    n: int | None = None
    place: str = ""


@dataclass
class Row:
    """One row; `group` has the trials behind a measured one, `paper` is its printed row: of the
    same method and epochs.

    `differences`: of a measured row to another one, by column; empty where there is none.
    `distinction`: what distinguishes it from others of its name.
    """

    kind: str
    method: str
    epochs: int | None
    cells: dict[str, Cell]
    source: str
    group: Group | None = None
    paper: "Row | None" = None
    differences: dict[str, Difference] = field(default_factory=dict)
    distinction: str = ""

    @property
    def name(self) -> str:
        """What it is called: its method and epochs, if it has any."""
        return row_name(self.method, self.epochs)

    def is_called(self, name: str) -> bool:
        """Whether it has this name, with or without its epochs."""
        return name.casefold() in (self.method.casefold(), self.name.casefold())

    def minus_paper(self, column: str) -> float | None:
        """The unrounded mean minus what the paper prints; None where one of them is missing."""
        printed = self.paper and self.paper.cells[column].mean
        if None in (self.cells[column].mean, printed):
            return None
        return self.cells[column].mean - printed


@dataclass
class Block:
    """Rows that may be compared, under a heading (none: the table itself), with the lines that
    stand under them. `remarks` begin with LOOK_AGAIN."""

    heading: str
    note: str
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)

    def with_value(self, column: str) -> list[Row]:
        """The rows that have a value in a column."""
        return [row for row in self.rows if row.cells[column].mean is not None]

    def comparable(self) -> list[Row]:
        """The measured rows that may be compared: demos prove nothing."""
        return [row for row in self.rows if row.kind == MEASURED and row.group.block[0] != DEMO]


@dataclass
class TableModel:
    """A whole table. A block without heading is the paper's, with what was measured under its
    protocol.

    `against`: the row that its measured rows are compared with, if any.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    in_poster: bool
    blocks: list[Block]
    notes: list[str]
    against: str = ""

    def rows(self) -> list[Row]:
        """The rows of all blocks."""
        return [row for block in self.blocks for row in block.rows]

    def is_printed(self) -> bool:
        """Whether all of its rows are printed ones."""
        return all(row.kind == PRINTED for row in self.rows())


def each_block(tables: list[TableModel]) -> Iterator[tuple[TableModel, Block]]:
    """Yield (table, block) of all blocks of all tables."""
    for table in tables:
        for block in table.blocks:
            yield table, block
