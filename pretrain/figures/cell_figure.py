"""The figure of `clove show`: three bands, from the views to what becomes of one cell."""

import math
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from pretrain import objectives
from pretrain.common.atomic import atomic_path
from pretrain.config import Config
from pretrain.data.images import ImageList
from pretrain.data.pixels import UnreadableImage
from pretrain.figures.scene import CellReport, Scene, View, load_objective, make_scene, report_cell
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
    ink,
    join,
    tint,
    view_colours,
)

ACROSS = 4  # views in a row
HEADER = 0.62  # inches of a band's heading
BARS = 12  # positives listed at most


def _outline_style(colour: str, linestyle: object, width: float, halo: str = "white") -> dict[str, object]:
    return {"edgecolor": colour, "linestyle": linestyle, "linewidth": width,
            "path_effects": [withStroke(linewidth=width + 2, foreground=halo)]}


THE_CELL = _outline_style("white", "-", 3, halo=BLACK)
POSITIVE, LEFT_OUT = _outline_style(BLUE, "-", 2.5), _outline_style(YELLOW, (0, (2, 1)), 2)


class _Mark(NamedTuple):
    """A teacher cell that has a part in the loss. sign: + a positive, T the one left out, 1, 2,
    ... negatives."""

    sign: str
    name: str
    cell: int
    colour: str


def draw_show(scene: Scene, report: CellReport, note: str, path: Path) -> None:
    """Write the figure to `path` (PNG, 1200 pixels wide). note: which network the report is of."""
    with atomic_path(path) as sibling:
        show_figure(scene, report, note).savefig(sibling, dpi=DPI, facecolor="white")


def draw_run(names: ImageList, config: Config, run: Path, path: Path) -> None:
    """What the network of a run's newest checkpoint makes of the first image whose views overlap,
    written to `path`.

    Without such an image among the first few nothing is written: no run fails for want of a figure.
    """
    for index in range(min(len(names), 20)):
        try:
            scene = make_scene(names, index, 0, config)
        except UnreadableImage:
            continue
        if scene.positives.any():
            objective, note = load_objective(config, names.classes, run)
            draw_show(scene, report_cell(scene, scene.default_cell(), objective, names), note, path)
            return


def show_figure(scene: Scene, report: CellReport, note: str) -> Figure:
    rows = math.ceil(len(scene.views) / ACROSS)
    heights = [HEADER, max(3.6, 1.9 * rows), HEADER, 5.0, HEADER, 4.5]
    figure = Figure(figsize=(12, sum(heights[1::2]) + 3 * HEADER), layout="constrained")
    parts = figure.subfigures(6, 1, height_ratios=heights, hspace=0)
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
        mirrored = " mirrored" if view.mirrored else ""
        draw_view(axes, view, colour, f"{view.short}{mirrored}: {share}")
        tint(axes, view, matched)


def _pair_band(band: SubFigure, scene: Scene) -> str:
    """Student and teacher view with their positive cells joined; returns the text for it."""
    panels = band.subplots(1, 2, gridspec_kw={"wspace": 0.12})
    colours = view_colours(scene)
    for axes, number, role in zip(panels, scene.pair, roles(scene), strict=True):
        view = scene.views[number]
        title = f"{role} view: {view.full_name}, {view.grid[0]} x {view.grid[1]} cells"
        draw_view(axes, view, colours[number], title)
    shown = join(band, *panels, scene)
    positives, (t_pos, unit) = scene.positives, scene.config.objective.matching()
    units = {"cell_diagonal": "cell diagonals", "pixel": "source pixels",
             "cell_diagonal_fraction": "cell diagonals in fractions of the image"}
    closer = f"closer than T_pos = {t_pos:g} {units[unit]}"
    if not shown:
        return (f"No overlap: no cell of {scene.student.short} has a centre {closer} to one of "
                f"{scene.teacher.short}.")
    matched = int(positives.any(1).sum())
    return (f"{matched} of {positives.shape[0]} cells of the {roles(scene)[0]} view have positives "
            f"({closer}), {positives.sum() / matched:.1f} on average; "
            f"{shown} carry their number at both ends")


def roles(scene: Scene) -> tuple[str, str]:
    """What the two views of the pair are to the objective, as in student and teacher."""
    return objectives.get(scene.config.objective_name).roles


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
        # Seen through where there is little: the image stays.
        heat = axes.imshow(share, extent=(-0.5, side - 0.5, side - 0.5, -0.5), cmap="viridis", vmin=0,
                           alpha=0.35 + 0.45 * share / share.max(), interpolation="nearest")
        bar = figure.colorbar(heat, ax=axes, shrink=0.75, pad=0.02, format=lambda value, _: f"{value:.3g} %")
        bar.ax.tick_params(labelsize=9)
        uniform = 100 / share.size
        bar.ax.axhline(uniform, color="white", linewidth=2)
        bar.ax.axhline(uniform, color=BLACK, linewidth=1, linestyle="--")
        axes.set_xlabel(f"dashed in the bar: equal for all cells ({uniform:.2g} %)", fontsize=9)
    _outline(axes, view, report.cell, THE_CELL)


def _outline(axes: Axes, view: View, cell: int, style: dict[str, object]) -> None:
    left, top, w, h = cell_box(view, cell)
    inset = 0.06 * w
    axes.add_patch(Rectangle((left + inset, top + inset), w - 2 * inset, h - 2 * inset, fill=False, zorder=4, **style))


def _negatives(report: CellReport) -> list[_Mark]:
    """The cell that is left out and the negatives, the hardest first; none where the objective has
    none."""
    marks = []
    if report.negatives is not None:
        if report.negatives.dropped is not None:
            marks.append(_Mark("T", "left out", report.negatives.dropped, YELLOW))
        for rank, cell in enumerate(report.negatives.cells, start=1):
            marks.append(_Mark(str(rank), "negative", cell, ORANGE))
    return marks


def _marks(axes: Axes, scene: Scene, report: CellReport) -> None:
    """Positives and, where the objective has them, hardest negatives on the second view."""
    view, negatives = scene.teacher, _negatives(report)
    title, legend = "positives", "this objective has no negatives"
    if report.negatives is not None:
        title, legend = "positives and hardest negatives", "T: most similar, left out; 1, 2, ...: negatives"
    draw_view(axes, view, view_colours(scene)[scene.pair[1]], f"{title} in {view.short}", grey=True)
    for cell in report.positives:
        _outline(axes, view, cell, POSITIVE)
    for mark in negatives:
        if mark.colour == YELLOW:
            _outline(axes, view, mark.cell, LEFT_OUT)
        _label(axes, view, report, mark)
    for cell in set(report.positives) - {mark.cell for mark in negatives}:
        _label(axes, view, report, _Mark("+", "positive", cell, BLUE))
    axes.set_xlabel(f"blue outline: positive; {legend}", fontsize=9)


def _label(axes: Axes, view: View, report: CellReport, mark: _Mark) -> None:
    """Sign and cosine where they fit into the cell, else the sign."""
    wide = max(view.grid) <= 7
    text = f"{mark.sign}\n{report.cosine[mark.cell]:.2f}" if wide else mark.sign
    axes.text(*cell_middle(view, mark.cell), text, fontsize=8, ha="center", va="center", color=ink(mark.colour),
              linespacing=0.95, zorder=5,
              bbox={"boxstyle": "round,pad=0.12", "facecolor": mark.colour, "edgecolor": "none", "alpha": 0.92})


def _bars(axes: Axes, scene: Scene, report: CellReport) -> None:
    """Cosines of the positives, the cell that is left out, and the negatives."""
    by_cosine = sorted(report.positives, key=lambda cell: -report.cosine[cell].item())
    rows = [_Mark("+", "positive", cell, BLUE) for cell in by_cosine[:BARS]] + _negatives(report)
    names, cosines = [], []
    for at, mark in enumerate(rows):
        cosine, also, edge, hatch = report.cosine[mark.cell].item(), "", BLACK, ""
        if mark.colour == BLUE:
            edge = "white"
        elif mark.cell in report.positives:
            also = " (positive!)"
            if mark.colour == ORANGE:
                hatch = "//"
        names.append(f"{mark.sign}  {mark.name} {place(scene.teacher, mark.cell)}{also}")
        cosines.append(cosine)
        axes.barh(at, cosine, color=mark.colour, hatch=hatch, edgecolor=edge, linewidth=0.4)
        # Beside the axis when below 0: at the bar's end it would meet the names.
        axes.annotate(f"{cosine:.2f}", (max(cosine, 0), at), (4, 0), textcoords="offset points", va="center",
                      fontsize=9)
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    low, high = min([0.0, *cosines]), max([0.1, *cosines])
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
    if report.negatives is None:
        axes.set_xlabel(f"of its {report.map_name} features", fontsize=9)
    else:
        axes.set_xlabel(f"cosine with F_neg (eq. 2): {report.negatives.cosine:.3f}", fontsize=9)
