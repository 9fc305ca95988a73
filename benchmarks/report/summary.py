"""The few lines that a reader in a hurry gets, and the intervals of each dataset's rows, ready to be drawn."""

from dataclasses import dataclass, replace

from benchmarks.formats.dot_panels import Dot, Panel, limits, panels
from benchmarks.report.charts import Scale
from benchmarks.tables.ranking import BEST
from benchmarks.tables.table_model import MEASURED, TableModel, each_block

MOST_ROWS = 1000  # measured rows of all tables of the page
MOST_DOTS, MOST_PLOTS = 60, 30  # of a plot; of the page
ROW, TOP, BELOW = 30, 34, 50  # pixels: a row, above the first one, below the last one
LEFT, RIGHT = 270, 730  # the ends of the axis
LEAST = 1.0  # percent: an axis shows as much, however near the values are


@dataclass(frozen=True)
class Plot:
    """A panel with its axis in pixels; `more`: rows that are not drawn."""

    panel: Panel
    x: Scale
    more: int

    @property
    def height(self) -> int:
        """Of the whole plot."""
        return round(self.y(self.panel.dots[-1]) + BELOW)

    def y(self, dot: Dot) -> float:
        """Where a row stands."""
        return round(TOP + ROW * dot.place + ROW / 2, 1)


def lines(tables: list[TableModel]) -> list[dict]:
    """What each block with measured rows says: its highest measured row beside the random start."""
    found = []
    for table, block in each_block(tables):
        first = table.columns[0]
        rows = [row for row in block.with_value(first) if row.kind == MEASURED]
        if not rows:
            continue
        highest, difference = max(rows, key=lambda row: row.cells[first].mean), ""
        if highest.differences and highest.differences[first].values:
            difference = f"{highest.differences[first].text()} to {table.against}"
        cell = highest.cells[first]
        found.append({"data": block.heading or table.title, "column": first.replace("_", " "),
                      "highest": highest.name, "value": cell.text, "source": highest.source,
                      "proven": cell.place == BEST, "difference": difference, "rows": len(rows)})
    return found


def plots(tables: list[TableModel]) -> list[Plot]:
    """The panels of `benchmarks.formats.dot_panels`, each with its axis."""
    found = []
    for panel in panels(tables)[:MOST_PLOTS]:
        drawn = panel.dots[:MOST_DOTS]
        low, high = limits(drawn)
        room = max(LEAST - (high - low), 0.0) / 2
        low, high = low - room, high + room
        found.append(Plot(replace(panel, dots=drawn), Scale(low, high, LEFT, RIGHT), len(panel.dots) - len(drawn)))
    return found


def shortened(tables: list[TableModel]) -> list[TableModel]:
    """The tables with MOST_ROWS measured rows at most; a note says where the others are."""
    left, found = MOST_ROWS, []
    for table in tables:
        short = replace(table, blocks=[], notes=list(table.notes))
        for block in table.blocks:
            measured = sum(row.kind == MEASURED for row in block.rows)
            rows = block.rows[:len(block.rows) - measured + left]  # printed ones stand first
            left = max(left - measured, 0)
            if len(rows) < len(block.rows):
                block = replace(block, rows=rows, remarks=block.remarks[:MOST_ROWS])
            if rows:
                short.blocks.append(block)
        hidden = len(table.rows()) - len(short.rows())
        if hidden:
            short.notes.append(f"{hidden} more measured rows stand in {table.name}.html and tables.csv.")
        if short.blocks:
            found.append(short)
    return found
