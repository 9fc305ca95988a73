"""A figure of the tables: one panel a dataset, the mean of each method with its 95 % interval. Needs matplotlib.

Printed rows are hollow; every single fine-tuning is a small dot; on the right stands the paired
difference. Colours are those of Okabe & Ito; nothing is shown by colour alone.
"""

import io
import textwrap
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.formats.dot_panels import Dot, Panel, limits, panels
from benchmarks.tables.table_model import TableModel
from pretrain.common.atomic import atomic_path
from pretrain.common.errors import refuse

BLUE, VERMILLION, GREY, BLACK = "#0072B2", "#D55E00", "#666666", "#000000"
ENDINGS = (".svg", ".png")
# Label of a line -> colour, style.
LOOKS = {"random initialisation": (GREY, "--"), "supervised": (VERMILLION, "-.")}
WIDTH, DPI = 10.0, 140  # inches, pixels an inch: a PNG is 1400 pixels wide
ROW, AROUND = 0.34, 0.95  # inches of height: a row, and title and axis of a panel
TITLE_LETTERS = 62  # of a line
SETTINGS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters everywhere
    "font.size": 9, "svg.hashsalt": "dot plot",  # the same bytes each time
    "text.parse_math": False,  # names come from users, and a dollar is a dollar
}


def write_figure(tables: list[TableModel], path: Path) -> list[Path]:
    """The figure as SVG and PNG: `path` without such an ending, with both. UserError when no row
    was measured."""
    figure = dot_plot(tables)
    refuse((figure is None,
            f"--figure {path}: expected a measured row, found none; measure something first, or pass "
            "--include-demo"))
    stem = path.with_suffix("") if path.suffix.lower() in ENDINGS else path
    written = []
    for ending in ENDINGS:
        file = stem.with_name(stem.name + ending)
        refuse((file.is_dir(),
                f"--figure {file}: expected the name of a file, found a folder; choose another name"))
        with atomic_path(file) as sibling:
            sibling.write_bytes(saved(figure, ending[1:]))
        written.append(file)
    return written


def dot_plot(tables: list[TableModel]) -> Figure | None:
    """The figure of all blocks with measured rows, one below the other; None where there is none.
    """
    found = panels(tables)
    if not found:
        return None
    with matplotlib.rc_context(SETTINGS):
        heights = [AROUND + ROW * (panel.dots[-1].place + 1) for panel in found]
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), layout="constrained")
        places = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, panel in zip(places, found, strict=True):
            _draw(axes, panel)
        figure.legend(handles=_legend(found), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def saved(figure: Figure, ending: str) -> bytes:
    """The figure as a file of this ending (svg, png), the same bytes each time."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        metadata = {"svg": {"Date": None}}.get(ending)
        figure.savefig(buffer, format=ending, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def _draw(axes: Axes, panel: Panel) -> None:
    dots, table = panel.dots, pd.DataFrame(panel.dots)
    low, high = limits(dots)
    for dot in dots:
        look = {"color": BLUE} if dot.measured else {"color": BLACK, "markerfacecolor": "none"}
        axes.plot(dot.mean, dot.place, "o", markersize=7, **look)
        if dot.half is not None:
            _interval(axes, dot, (low, high))
        if len(dot.singles) > 1:
            axes.plot(dot.singles, [dot.place + 0.26] * len(dot.singles), "o", color=GREY, markersize=3, alpha=0.8)
    for label, value in panel.lines.items():
        colour, style = LOOKS[label]
        axes.axvline(value, color=colour, linestyle=style, linewidth=1, zorder=0)
    axes.set(xlim=(low, high), ylim=(dots[-1].place + 0.6, -0.6))
    axes.set_yticks(table["place"], labels=table["name"])
    axes.set_xlabel(f"{panel.column} (percent)")
    axes.set_title("\n".join(textwrap.wrap(panel.title, TITLE_LETTERS)), loc="left", fontsize=9.5, fontweight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    if any(table["difference"]):  # right of the panel, under what they are
        right = axes.secondary_yaxis("right")
        right.set_yticks(table["place"], labels=table["difference"])
        right.tick_params(length=0, pad=8)  # an arrow may stand before it
        right.spines["right"].set_visible(False)
        axes.annotate(f"minus {panel.against} [95 %]", (1, 1), (8, 4), xycoords="axes fraction", ha="left",
                      va="bottom", textcoords="offset points", fontsize=8, color=GREY)


def _interval(axes: Axes, dot: Dot, limits: tuple[float, float]) -> None:
    """A line from end to end; an arrow where it goes on beyond the panel."""
    low, high = dot.mean - dot.half, dot.mean + dot.half
    axes.plot((low, high), [dot.place, dot.place], color=BLUE, linewidth=2, solid_capstyle="butt")
    look = {"color": BLUE, "markersize": 7, "clip_on": False}
    for end, shown, arrow in ((low, max(low, limits[0]), "<"), (high, min(high, limits[1]), ">")):
        axes.plot(shown, dot.place, "|" if shown == end else arrow, **look)


def _legend(panels: list[Panel]) -> list[Line2D]:
    """What the marks mean, of those that are drawn."""
    dots, lines = [], {}
    for panel in panels:
        dots += panel.dots
        lines |= panel.lines
    table = pd.DataFrame(dots)
    handles = [Line2D([], [], color=BLUE, marker="o", linewidth=2, label="mean, 95 % interval (t)")]
    if any(table["singles"].str.len() > 1):
        handles.append(Line2D([], [], color=GREY, marker="o", markersize=3, linestyle="", label="one fine-tuning"))
    if not all(table["measured"]):
        handles.append(Line2D([], [], color=BLACK, marker="o", markerfacecolor="none", linestyle="",
                              label="not measured here"))
    for label, (colour, style) in LOOKS.items():
        if label in lines:
            handles.append(Line2D([], [], color=colour, linestyle=style, label=label))
    return handles
