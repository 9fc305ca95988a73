"""A figure of the tables: one panel a dataset, the mean of each method with its 95 % interval. Needs matplotlib.

A row of a panel is a row of the table, in its order, by the table's first column. Printed rows are hollow; every single
fine-tuning is a small dot; the two lines are random initialisation and supervised pretraining; on the right stands the
paired difference. Colours are those of Okabe & Ito; nothing is told by colour alone.
"""

import io
import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.statistics.student import margin
from benchmarks.tables.suspicious_rows import RANDOM
from benchmarks.tables.table_rows import IMPORTED, MEASURED, PRINTED, Block, Row, TableModel, row_name
from pretrain.common.atomic import atomic_path
from pretrain.common.errors import UserError

BLUE, VERMILLION, GREY, BLACK = "#0072B2", "#D55E00", "#666666", "#000000"
ENDINGS = (".svg", ".png")
WIDTH, DPI = 10.0, 140  # inches, pixels an inch: a PNG is 1400 pixels wide
ROW, AROUND = 0.34, 0.95  # inches of height: a row, and title and axis of a panel
LINE = 0.5  # rows of height for each line of a name from the third on
NAME_LETTERS, TITLE_LETTERS = 30, 62  # of a line
SETTINGS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters everywhere
    "font.size": 9, "svg.hashsalt": "dot plot",  # the same bytes each time
    "text.parse_math": False,  # names come from users, and a dollar is a dollar
}


@dataclass(frozen=True)
class Dot:
    """One row of a panel, in percent. `half`: half its 95 % interval, None where n is too small; `place`: its distance
    from the top, in rows."""

    name: str
    place: float
    mean: float
    half: float | None
    singles: tuple[float, ...]
    printed: bool
    difference: str


def write_figure(tables: list[TableModel], path: Path) -> list[Path]:
    """The figure as SVG and PNG: `path` without such an ending, with both. UserError when no row was measured."""
    figure = dot_plot(tables)
    if figure is None:
        raise UserError(f"--figure {path}: expected a measured row, found none; measure something first, or pass "
                        "--include-demo")
    stem = path.with_suffix("") if path.suffix.lower() in ENDINGS else path
    written = []
    for ending in ENDINGS:
        file = stem.with_name(stem.name + ending)
        if file.is_dir():
            raise UserError(f"--figure {file} is a folder: expected the name of a file")
        with atomic_path(file) as sibling:
            sibling.write_bytes(_saved(figure, ending[1:]))
        written.append(file)
    return written


def dot_plot_svg(tables: list[TableModel]) -> bytes | None:
    """The figure as SVG; None where nothing was measured."""
    figure = dot_plot(tables)
    return None if figure is None else _saved(figure, "svg")


def dot_plot(tables: list[TableModel]) -> Figure | None:
    """The figure of all blocks with measured rows, one below the other; None where there is none."""
    panels = [(table, block) for table in tables for block in table.blocks
              if any(row.kind == MEASURED and row.cells[table.columns[0]].mean is not None for row in block.rows)]
    if not panels:
        return None
    with matplotlib.rc_context(SETTINGS):
        heights = [AROUND + ROW * (_dots(table, block)[-1].place + 1) for table, block in panels]
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), layout="constrained")
        places = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (table, block) in zip(places, panels, strict=True):
            _panel(axes, table, block)
        figure.legend(handles=_legend(panels), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def _saved(figure: Figure, ending: str) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format=ending, dpi=DPI, metadata={"Date": None} if ending == "svg" else None)
    return buffer.getvalue()


def _dots(table: TableModel, block: Block) -> list[Dot]:
    """The rows of a panel, from its top."""
    column = table.columns[0]
    rows = [row for row in block.rows
            if row.kind in (PRINTED, MEASURED, IMPORTED) and row.cells[column].mean is not None]
    names = [row_name(row.method, row.epochs) for row in rows if row.kind == MEASURED]
    found: list[Dot] = []
    place = -1.0
    for row in rows:
        name = row_name(row.method, row.epochs)
        if row.kind != MEASURED:
            name += ", paper" if row.kind == PRINTED else ", imported"
        elif names.count(name) > 1:
            name += f" ({row.source.partition('; ')[2]})"
        singles, half = (), None
        if row.group is not None:
            singles = tuple(value for several in row.group.by_pretraining(column).values() for value in several)
            half = margin(row.group.independent(column))
        difference = row.differences[column].text() if row.differences else ""
        lines = textwrap.wrap(name, NAME_LETTERS)
        more = LINE * max(len(lines) - 2, 0) / 2  # above and below
        place += 1.0 + more
        found.append(Dot("\n".join(lines), place, row.cells[column].mean, half, singles, row.kind != MEASURED,
                         difference))
        place += more
    return found


def _panel(axes: Axes, table: TableModel, block: Block) -> None:
    dots = _dots(table, block)
    low, high = _limits(dots)
    for dot in dots:
        look = {"color": BLACK, "markerfacecolor": "none"} if dot.printed else {"color": BLUE}
        axes.plot(dot.mean, dot.place, "o", markersize=7, **look)
        if dot.half is not None:
            _interval(axes, dot.place, (dot.mean - dot.half, dot.mean + dot.half), (low, high))
        if len(dot.singles) > 1:
            axes.plot(dot.singles, [dot.place + 0.26] * len(dot.singles), "o", color=GREY, markersize=3, alpha=0.8)
    for row, colour, style in _lines(table, block):
        axes.axvline(row.cells[table.columns[0]].mean, color=colour, linestyle=style, linewidth=1, zorder=0)
    axes.set(xlim=(low, high), ylim=(dots[-1].place + 0.6, -0.6))
    axes.set_yticks([dot.place for dot in dots], labels=[dot.name for dot in dots])
    axes.set_xlabel(f"{table.columns[0].replace('_', ' ')} (percent)")
    title = block.heading or table.title
    axes.set_title("\n".join(textwrap.wrap(title, TITLE_LETTERS)), loc="left", fontsize=9.5, fontweight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    if any(dot.difference for dot in dots):
        _differences(axes, dots, table.against)


def _interval(axes: Axes, place: float, ends: tuple[float, float], limits: tuple[float, float]) -> None:
    """A line from end to end; an arrow where it goes on beyond the panel."""
    axes.plot(ends, [place, place], color=BLUE, linewidth=2, solid_capstyle="butt")
    for end, limit, marker, beyond in ((ends[0], limits[0], "<", ends[0] < limits[0]),
                                       (ends[1], limits[1], ">", ends[1] > limits[1])):
        axes.plot(limit if beyond else end, place, marker if beyond else "|", color=BLUE, markersize=7, clip_on=False)


def _differences(axes: Axes, dots: list[Dot], against: str) -> None:
    """The paired differences right of the panel, under what they are."""
    right = axes.secondary_yaxis("right")
    right.set_yticks([dot.place for dot in dots], labels=[dot.difference for dot in dots])
    right.tick_params(length=0, pad=8)  # an arrow may stand before it
    right.spines["right"].set_visible(False)
    axes.annotate(f"minus {against} [95 %]", (1, 1), (8, 4), xycoords="axes fraction", textcoords="offset points",
                  ha="left", va="bottom", fontsize=8, color=GREY)


def _limits(dots: list[Dot]) -> tuple[float, float]:
    """The ends of a panel: all values, and of the intervals what is no further from them than they are wide."""
    values = [value for dot in dots for value in (dot.mean, *dot.singles)]
    low, high = min(values), max(values)
    width = max(high - low, 1.0)
    ends = [(dot.mean - dot.half, dot.mean + dot.half) for dot in dots if dot.half is not None]
    least = max(min([low, *(end[0] for end in ends)]), low - width)
    most = min(max([high, *(end[1] for end in ends)]), high + width)
    return least - 0.05 * width, most + 0.05 * width


def _lines(table: TableModel, block: Block) -> list[tuple[Row, str, str]]:
    """(row, colour, style) of random initialisation and of supervised pretraining; the measured one where there is."""
    found = []
    for name, colour, style in ((RANDOM, GREY, "--"), ("supervised", VERMILLION, "-.")):
        rows = [row for row in block.rows if row.kind in (PRINTED, MEASURED)
                and row.method.removeprefix("DEMO ").casefold().startswith(name.casefold())
                and row.cells[table.columns[0]].mean is not None]
        rows.sort(key=lambda row: (row.kind != MEASURED, len(row.method)))  # "Rand init" before its variants
        found += [(row, colour, style) for row in rows[:1]]
    return found


def _legend(panels: list[tuple[TableModel, Block]]) -> list[Line2D]:
    """What the marks mean, of those that are drawn."""
    dots = [dot for table, block in panels for dot in _dots(table, block)]
    lines = {style for table, block in panels for _, _, style in _lines(table, block)}
    handles = [Line2D([], [], color=BLUE, marker="o", linewidth=2, label="mean, 95 % interval (t)")]
    if any(len(dot.singles) > 1 for dot in dots):
        handles.append(Line2D([], [], color=GREY, marker="o", markersize=3, linestyle="", label="one fine-tuning"))
    if any(dot.printed for dot in dots):
        handles.append(Line2D([], [], color=BLACK, marker="o", markerfacecolor="none", linestyle="",
                              label="not measured here"))
    if "--" in lines:
        handles.append(Line2D([], [], color=GREY, linestyle="--", label="random initialisation"))
    if "-." in lines:
        handles.append(Line2D([], [], color=VERMILLION, linestyle="-.", label="supervised"))
    return handles
