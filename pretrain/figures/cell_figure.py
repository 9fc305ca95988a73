"""The picture of `python -m pretrain show`: three bands, from the views to what the network makes of one cell."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from pretrain import objectives
from pretrain.common.atomic import atomic_path
from pretrain.figures.scene import CellReport, Scene, View
from pretrain.figures.training_figures import (
    BLACK,
    BLUE,
    DPI,
    ORANGE,
    YELLOW,
    cell_box,
    cell_middle,
    draw_source,
    draw_view,
    join,
    tint,
    view_colours,
)

ACROSS = 4  # views in a row
HEADER = 0.62  # inches of a band's heading
BARS = 12  # positives listed at most


def draw_show(scene: Scene, report: CellReport, note: str, path: Path) -> None:
    """Write the picture to `path` (PNG, 1200 pixels wide).

    note: which network the report is of.
    """
    with atomic_path(path) as sibling:
        show_figure(scene, report, note).savefig(sibling, dpi=DPI, facecolor="white")


def show_figure(scene: Scene, report: CellReport, note: str) -> Figure:
    """The picture, not yet written."""
    rows = math.ceil(len(scene.views) / ACROSS)
    heights = [max(3.6, 1.9 * rows), 5.0, 4.5]
    figure = Figure(figsize=(12, sum(heights) + 3 * HEADER), layout="constrained")
    parts = figure.subfigures(6, 1, height_ratios=[part for height in heights for part in (HEADER, height)], hspace=0)
    train = scene.config.train
    _headline(parts[0], "1  Views",
              f"image {scene.index}, epoch {scene.epoch}, seed {train.seed}: {train.global_views} global views (G), "
              f"{train.local_views} local views (L); tinted: the cells with a positive in {scene.teacher.short}")
    _views_band(parts[1], scene, rows)
    _headline(parts[2], "2  Positive cells", _pair_band(parts[3], scene))
    _headline(parts[4], f"3  Cell {place(scene.student, report.cell)} of {scene.student.short} (row, column from 0) "
              f"among the cells of {scene.teacher.short}", note)
    _cell_band(parts[5], scene, report)
    return figure


def _headline(part: SubFigure, title: str, text: str) -> None:
    part.text(0.012, 0.62, title, fontsize=13, weight="bold", va="center")
    part.text(0.012, 0.18, text, fontsize=10, va="center", color="#333333", parse_math=False)


def _views_band(band: SubFigure, scene: Scene, rows: int) -> None:
    left, right = band.subfigures(1, 2, width_ratios=(4.4, 7.6))
    draw_source(left.subplots(), scene)
    panels = right.subplots(rows, math.ceil(len(scene.views) / rows), squeeze=False)
    for axes in panels.flat[len(scene.views):]:
        axes.set_axis_off()
    for axes, view, colour in zip(panels.flat, scene.views, view_colours(scene), strict=False):
        if view is scene.teacher:
            matched, share = [], f"{roles(scene)[1]} view"
        else:
            matched = scene.positives_of(view).any(1).nonzero().flatten().tolist()
            share = f"{len(matched)} of {math.prod(view.grid)}"
        draw_view(axes, view, colour, f"{view.short}{' mirrored' if view.mirrored else ''}: {share}")
        tint(axes, view, matched)


def _pair_band(band: SubFigure, scene: Scene) -> str:
    """Student and teacher view with their positive cells joined; returns the words for it."""
    panels = band.subplots(1, 2, gridspec_kw={"wspace": 0.12})
    colours = view_colours(scene)
    draw_view(panels[0], scene.student, colours[scene.pair[0]], f"{roles(scene)[0]} view: {_named(scene.student)}")
    draw_view(panels[1], scene.teacher, colours[scene.pair[1]], f"{roles(scene)[1]} view: {_named(scene.teacher)}")
    shown = join(band, *panels, scene)
    positives, (t_pos, unit) = scene.positives, scene.config.objective.matching()
    words = {"cell_diagonal": "cell diagonals", "pixel": "source pixels",
             "cell_diagonal_fraction": "cell diagonals in fractions of the image"}
    closer = f"closer than T_pos = {t_pos:g} {words[unit]}"
    if not shown:
        return f"No overlap: no cell of {scene.student.short} has a centre {closer} to one of {scene.teacher.short}."
    matched = int(positives.any(1).sum())
    return (f"{matched} of {positives.shape[0]} cells of the {roles(scene)[0]} view have positives ({closer}), "
            f"{positives.sum() / matched:.1f} on average; {shown} are numbered and joined with theirs.")


def roles(scene: Scene) -> tuple[str, str]:
    """What the two views of the pair are to the objective, as in student and teacher."""
    return objectives.get(scene.config.objective_name).roles


def _named(view: View) -> str:
    return f"{view.name}{', mirrored' if view.mirrored else ''}, {view.grid[0]} x {view.grid[1]} cells"


def place(view: View, cell: int) -> str:
    """"3,4": row and column from 0."""
    return f"{cell // view.grid[1]},{cell % view.grid[1]}"


def _cell_band(band: SubFigure, scene: Scene, report: CellReport) -> None:
    left, middle, right = band.subfigures(1, 3, width_ratios=(4.1, 3.9, 4))
    _attention(left, scene, report)
    _marks(middle.subplots(), scene, report)
    _bars(right.subplots(), scene, report)


def _attention(figure: SubFigure, scene: Scene, report: CellReport) -> None:
    axes, view = figure.subplots(), scene.student
    colour = view_colours(scene)[scene.pair[0]]
    if report.attention is None:
        draw_view(axes, view, colour, "no attention", grey=True)
    else:
        draw_view(axes, view, colour, f"attention over {view.short}, mean of the heads", grey=True)
        side, share = view.pixels.shape[1], report.attention.numpy() * 100
        # Seen through where there is little: the picture stays.
        heat = axes.imshow(share, extent=(-0.5, side - 0.5, side - 0.5, -0.5), cmap="viridis", vmin=0,
                           alpha=0.35 + 0.45 * share / share.max(), interpolation="nearest")
        bar = figure.colorbar(heat, ax=axes, shrink=0.75, pad=0.02, format=lambda value, _: f"{value:.3g} %")
        bar.ax.tick_params(labelsize=9)
        uniform = 100 / share.size
        bar.ax.axhline(uniform, color="white", linewidth=2)
        bar.ax.axhline(uniform, color=BLACK, linewidth=1, linestyle="--")
        axes.set_xlabel(f"dashed in the bar: equal for all cells ({uniform:.2g} %)", fontsize=9)
    _outline(axes, view, report.cell, "white", "-", 3)


def _outline(axes: Axes, view: View, cell: int, colour: str, style: str, width: float) -> None:
    left, top, w, h = cell_box(view, cell)
    inset = 0.06 * w
    axes.add_patch(Rectangle((left + inset, top + inset), w - 2 * inset, h - 2 * inset, fill=False, edgecolor=colour,
                             linewidth=width, linestyle=style,
                             path_effects=[withStroke(linewidth=width + 2, foreground=BLACK if colour == "white"
                                                      else "white")], zorder=4))


def _marks(axes: Axes, scene: Scene, report: CellReport) -> None:
    """Positives and, where the objective has them, hardest negatives on the second view."""
    view, negatives = scene.teacher, report.negatives
    dropped, cells = (None, []) if negatives is None else (negatives.dropped, negatives.cells)
    colour = view_colours(scene)[scene.pair[1]]
    title = "positives" if negatives is None else "positives and hardest negatives"
    draw_view(axes, view, colour, f"{title} in {view.short}", grey=True)
    for cell in report.positives:
        _outline(axes, view, cell, BLUE, "-", 2.5)
    if dropped is not None:
        _outline(axes, view, dropped, YELLOW, (0, (2, 1)), 2)
        _label(axes, view, dropped, "T", report, YELLOW, "black")
    for rank, cell in enumerate(cells, start=1):
        _label(axes, view, cell, str(rank), report, ORANGE, "black")
    for cell in set(report.positives) - {dropped, *cells}:
        _label(axes, view, cell, "+", report, BLUE, "white")
    if negatives is None:
        axes.set_xlabel("blue outline: positive; this objective has no negatives", fontsize=9)
    else:
        axes.set_xlabel("blue outline: positive; T: most similar, left out; 1, 2, ...: negatives", fontsize=9)


def _label(axes: Axes, view: View, cell: int, mark: str, report: CellReport, colour: str, ink: str) -> None:
    """Mark and cosine where they fit into the cell, else the mark."""
    wide = max(view.grid) <= 7
    text = f"{mark}\n{report.cosine[cell]:.2f}" if wide else mark
    axes.text(*cell_middle(view, cell), text, fontsize=8, ha="center", va="center", color=ink, linespacing=0.95,
              zorder=5, bbox={"boxstyle": "round,pad=0.12", "facecolor": colour, "edgecolor": "none", "alpha": 0.92})


def _bars(axes: Axes, scene: Scene, report: CellReport) -> None:
    """Cosines of the positives, the cell that is dropped, and the negatives."""
    view, negatives, rows = scene.teacher, report.negatives, []
    dropped, cells = (None, []) if negatives is None else (negatives.dropped, negatives.cells)
    by_cosine = sorted(report.positives, key=lambda cell: -report.cosine[cell].item())
    for cell in by_cosine[:BARS]:
        rows.append((f"+  positive {place(view, cell)}", cell, BLUE, ""))
    if dropped is not None:
        also = " (positive!)" if dropped in report.positives else ""
        rows.append((f"T  left out {place(view, dropped)}{also}", dropped, YELLOW, ""))
    for rank, cell in enumerate(cells, start=1):
        also = " (positive!)" if cell in report.positives else ""
        rows.append((f"{rank}  negative {place(view, cell)}{also}", cell, ORANGE, "//" if also else ""))
    cosines = np.array([report.cosine[cell].item() for _, cell, _, _ in rows])
    for at, ((_, _, colour, hatch), cosine) in enumerate(zip(rows, cosines, strict=True)):
        axes.barh(at, cosine, color=colour, hatch=hatch, edgecolor="white" if colour == BLUE else BLACK, linewidth=0.4)
        # Beside the axis when below 0: at the bar's end it would meet the names.
        axes.annotate(f"{cosine:.2f}", (max(cosine, 0), at), (4, 0), textcoords="offset points", va="center",
                      fontsize=9)
    axes.set_yticks(range(len(rows)), [text for text, *_ in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    low, high = min(0.0, cosines.min(initial=0)), max(0.0, cosines.max(initial=0.1))
    axes.set_xlim(low, high + 0.18 * (high - low))
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="x", labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if not report.positives:
        title = "cosines (the cell has no positive)"
    elif len(report.positives) > BARS:
        title = f"cosines ({BARS} of {len(report.positives)} positives)"
    else:
        title = "cosines"
    axes.set_title(title, fontsize=10)
    if negatives is None:
        axes.set_xlabel(f"of its {report.map_name} features", fontsize=9)
    else:
        axes.set_xlabel(f"cosine with F_neg (eq. 2): {negatives.cosine:.3f}", fontsize=9)
