"""Figures of a training: its curves, and images with two views and their matched cells.

Colours are those of Okabe & Ito, which colour-blind people tell apart; nothing is shown by colour
alone. Legend: H W feature grid, L = H*W cells in row-major order, S side of a view in pixels.
"""

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import ConnectionPatch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from pretrain.common.atomic import atomic_path
from pretrain.config import Config
from pretrain.data.images import ImageList
from pretrain.data.pixels import UnreadableImage
from pretrain.figures.scene import Scene, View, make_scene
from pretrain.runs.metrics import lines_until

matplotlib.use("Agg")
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, YELLOW, BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE, YELLOW, BLACK)
DPI = 100
JOINED, LINES = 10, 30
Panel = tuple[str, tuple[str, ...]]  # title, keys of metrics.jsonl drawn in it; NAME_* for each of the probe's maps
LOSS: list[Panel] = [("loss", ("loss",))]  # then the objective's own panels, then these
CURVES: list[Panel] = [
    ("retrieval (and k-NN): share found", ("retrieval_*", "knn_top1")),
    ("feature standard deviation (0: collapse)", ("feature_std_*",)),
    ("effective rank (1: collapse)", ("effective_rank_*",)),
    ("learning rate", ("lr",)),
    ("images per second", ("images_per_second",)),
    ("share of the time waiting for the loader", ("loader_wait",)),
]
SIGNED = ("loss", "cosine", "gap")  # in a key: its panel need not start at 0
ACROSS = 3  # panels in a row
STYLES = ((BLUE, "-", "o"), (VERMILLION, "--", "s"), (GREEN, "-.", "^"))
MANY = 300  # points from which a curve is drawn faint, under its running mean


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """The lines of a metrics.jsonl; one that is just being written, or that a kill cut off, is
    left out."""
    return [entry for _, entry in lines_until(path, "step", math.inf)]


def draw_curves(metrics: Path, path: Path, own: Sequence[Panel] = ()) -> None:
    """Every curve of a metrics.jsonl over the optimizer steps (PNG, 1200 pixels wide); own: panels
    of the objective."""
    with atomic_path(path) as sibling:
        curves_figure(read_metrics(metrics), own).savefig(sibling, dpi=DPI)


def curves_figure(entries: list[dict[str, float | None]], own: Sequence[Panel] = ()) -> Figure:
    """The training curves of the lines of a metrics.jsonl, not yet written."""
    panels = [*own[:1], *LOSS, *own[1:], *CURVES]
    rows = math.ceil(len(panels) / ACROSS)
    figure = Figure(figsize=(12, 2.875 * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    places = figure.subplots(rows, ACROSS, sharex=True, squeeze=False)
    for axes, (title, keys) in zip(places.flat, panels, strict=False):
        _panel(axes, entries, title, keys)
    for axes in places.flat[len(panels):]:
        axes.set_axis_off()
    for axes in places.flat[max(len(panels) - ACROSS, 0):len(panels)]:
        axes.set_xlabel("optimizer step")
    return figure


def _panel(axes: Axes, entries: list[dict[str, float | None]], title: str, keys: tuple[str, ...]) -> None:
    """One panel: its curves with a legend, or that nothing was recorded."""
    keys = _of_maps(keys, entries)
    there = []
    for key, style in zip(keys, STYLES, strict=False):
        points = _points(entries, key)
        if len(points):
            there.append(key)
            _curve(axes, points, key, style)
    values = [entry.get(key, 0) for entry, key in itertools.product(entries, keys)]
    if None in values:
        title += f" ({values.count(None)} not finite)"
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=9, labelbottom=True)
    axes.spines[["top", "right"]].set_visible(False)
    if not there:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color="#666666")
        axes.set_yticks([])
        return
    axes.ticklabel_format(useOffset=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    chance = _points(entries, "retrieval_chance")
    if len(chance) and there[0].startswith("retrieval"):
        axes.axhline(chance[-1, 1], color=BLACK, linewidth=1.2, linestyle=":", label="retrieval by chance")
    if there[0].startswith("effective_rank"):
        _log_axis(axes)
    elif not any(word in " ".join(keys) for word in SIGNED):
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])  # the highest point whole
    elif len(there) > 1:
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.4 * (high - low), high)  # room for the legend: curves around 0 leave none
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(fontsize=9, framealpha=0.8, edgecolor="none")


def _of_maps(keys: tuple[str, ...], entries: list[dict[str, float | None]]) -> list[str]:
    """`keys` with each NAME_* as the keys of that beginning, in the order in which they were
    logged."""
    logged: dict[str, None] = {}
    for entry in entries:
        logged.update(dict.fromkeys(entry))
    logged.pop("retrieval_chance", None)
    found = []
    for key in keys:
        if key.endswith("*"):
            found += [one for one in logged if one.startswith(key[:-1])]
        else:
            found.append(key)
    return found


def _points(entries: list[dict[str, float | None]], key: str) -> np.ndarray:
    """(N, 2): step and value of the lines that have a finite one."""
    points = [(entry["step"], entry[key]) for entry in entries if entry.get(key) is not None]
    return np.array(points, dtype=float)


def _log_axis(axes: Axes) -> None:
    """A logarithmic axis from 1 on, with plain numbers: ranks of 3 and 300 are both read."""
    axes.set_yscale("log")
    axes.set_ylim(1, 1.3 * axes.get_ylim()[1])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _curve(axes: Axes, points: np.ndarray, key: str, style: tuple[str, str, str]) -> None:
    colour, line, marker = style
    label = re.sub("retrieval |feature std |effective rank ", "", key.replace("_", " "))
    if len(points) > MANY:
        axes.plot(*points.T, color=colour, alpha=0.25, linewidth=0.8)
        window = len(points) // 50
        middle = points[window // 2:len(points) - (window - 1) // 2, 0]
        axes.plot(middle, np.convolve(points[:, 1], np.full(window, 1 / window), "valid"), line, color=colour,
                  linewidth=1.8, label=label)
    else:
        axes.plot(*points.T, line, color=colour, linewidth=1.6, label=label,
                  marker=marker if len(points) < 40 else None, markersize=4)


def draw_views(names: ImageList, config: Config, path: Path, shown: int = 3) -> None:
    """A few images with the boxes of two global views, the views with their grids, and some
    positive pairs."""
    scenes = []
    for index in range(len(names)):
        try:
            scenes.append(make_scene(names, index, 0, config))
        except UnreadableImage:
            continue
        if len(scenes) == shown:
            break
    if not scenes:
        return
    figure = Figure(figsize=(12, 4 * len(scenes)), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)
    for row, scene in zip(figure.subplots(len(scenes), 3, squeeze=False), scenes, strict=True):
        draw_source(row[0], scene, views=2)
        draw_view(row[1], scene.student, BLUE)
        draw_view(row[2], scene.teacher, VERMILLION)
        join(figure, row[1], row[2], scene)
    with atomic_path(path) as sibling:
        figure.savefig(sibling, dpi=DPI)


def draw_source(axes: Axes, scene: Scene, views: int | None = None) -> None:
    """The image with the boxes of its (first) views: global ones solid, local ones dashed, with
    their names."""
    image = scene.image
    axes.imshow(image)
    axes.set_title(shorten(scene.name, 44), fontsize=10, parse_math=False)  # a name may hold dollars
    axes.set_axis_off()
    placed: list[tuple[float, float]] = []
    for view, colour in zip(scene.views[:views], view_colours(scene), strict=False):
        x0, y0, x1, y1 = view.pixels_of(image)
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=2.2,
                                 linestyle="-" if view.is_global else (0, (4, 2)),
                                 path_effects=[withStroke(linewidth=4, foreground="white")]))
        x, y = _free_place((x0, y0, x1, y1), placed)
        placed.append((x, y))
        axes.text(x, y, view.short, color=ink(colour), fontsize=9, weight="bold", ha="center", va="center",
                  bbox={"boxstyle": "round,pad=0.2", "facecolor": colour, "edgecolor": "white"})


def _free_place(box: tuple[float, float, float, float], placed: list[tuple[float, float]]) -> tuple[float, float]:
    """A place on the outline of `box` as far as possible from the labels that are there."""
    x0, y0, x1, y1 = box
    shares = np.linspace(0.08, 0.92, 7)
    xs, ys = x0 + shares * (x1 - x0), y0 + shares * (y1 - y0)
    places = [*itertools.product(xs, (y0,)), *itertools.product(xs, (y1,))]
    places += itertools.product((x0, x1), ys)
    if not placed:
        return places[0]
    return max(places, key=lambda place: min(np.hypot(place[0] - x, place[1] - y) for x, y in placed))


def view_colours(scene: Scene) -> list[str]:
    return list(itertools.islice(itertools.cycle(COLOURS), len(scene.views)))


def draw_view(axes: Axes, view: View, colour: str, title: str | None = None, grey: bool = False) -> None:
    image = Image.fromarray(view.pixels.transpose(1, 2, 0))
    if grey:
        image = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), 0.35)
    axes.imshow(image, interpolation="bilinear")
    axes.set_title(title or f"{view.full_name}: {view.grid[0]} x {view.grid[1]}", fontsize=10)
    side = view.pixels.shape[1]
    for lines, draw in zip(view.grid, (axes.axhline, axes.axvline), strict=True):
        for line in range(1, lines):
            draw(line * side / lines - 0.5, color="white", linewidth=0.6, alpha=0.8)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(edgecolor=colour, linewidth=3)


def cell_box(view: View, cell: int) -> tuple[float, float, float, float]:
    """Left, top, width, height of a cell in the pixels of its view."""
    side, (rows, columns) = view.pixels.shape[1], view.grid
    return (cell % columns * side / columns - 0.5, cell // columns * side / rows - 0.5, side / columns, side / rows)


def cell_middle(view: View, cell: int) -> tuple[float, float]:
    """x and y of a cell's middle in the pixels of its view."""
    left, top, width, height = cell_box(view, cell)
    return left + width / 2, top + height / 2


def join(figure: Figure | SubFigure, student_axes: Axes, teacher_axes: Axes, scene: Scene) -> int:
    """Number some student cells that have a positive, and join them with all their positives, which
    carry their numbers; the rest would hide the image, and is tinted. Returns how many cells are
    joined: at most `JOINED`, and about `LINES` lines."""
    matched = scene.positives.any(1).nonzero().flatten()
    tint(student_axes, scene.student, matched.tolist())
    tint(teacher_axes, scene.teacher, scene.positives.any(0).nonzero().flatten().tolist())
    if not len(matched):
        student_axes.text(0.5, 0.5, "no overlap:\nno positive cells", transform=student_axes.transAxes,
                          ha="center", va="center", fontsize=12, bbox={"facecolor": "white", "edgecolor": BLACK})
        return 0
    cells = min(len(matched), JOINED, max(2, round(LINES * len(matched) / scene.positives.sum().item())))
    chosen = matched[torch.linspace(0, len(matched) - 1, cells).round().long()].tolist()
    ends: dict[int, list[int]] = {}  # teacher cell -> numbers of the student cells that it is a positive of
    for number, cell in enumerate(chosen):
        colour = COLOURS[number % len(COLOURS)]
        start = cell_middle(scene.student, cell)
        # All of it belongs to the figure: what belongs to an axes would be drawn under the lines.
        for other in scene.positives[cell].nonzero().flatten().tolist():
            end = cell_middle(scene.teacher, other)
            line = ConnectionPatch(start, end, "data", "data", axesA=student_axes, axesB=teacher_axes, color=colour,
                                   linewidth=1.2, path_effects=[withStroke(linewidth=2.6, foreground="white")])
            line.set_in_layout(False)
            figure.add_artist(line)
            ends.setdefault(other, []).append(number)
        _numbered(figure, student_axes, start, [number])
    for other, numbers in ends.items():
        _numbered(figure, teacher_axes, cell_middle(scene.teacher, other), numbers)
    return len(chosen)


def _numbered(figure: Figure | SubFigure, axes: Axes, middle: tuple[float, float], numbers: list[int]) -> None:
    """The numbers of one cell, in the colour of the first."""
    colour = COLOURS[numbers[0] % len(COLOURS)]
    figure.text(*middle, " ".join(str(number + 1) for number in numbers), color=ink(colour), fontsize=9, weight="bold",
                ha="center", va="center", transform=axes.transData, zorder=4, in_layout=False,
                bbox={"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "white"})


def tint(axes: Axes, view: View, cells: list[int]) -> None:
    for cell in cells:
        left, top, width, height = cell_box(view, cell)
        axes.add_patch(Rectangle((left, top), width, height, facecolor="white", alpha=0.28, edgecolor="none"))


def ink(colour: str) -> str:
    """Black or white, whichever reads better on `colour`."""
    red, green, blue = (int(colour[i:i + 2], 16) for i in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "white"


def shorten(text: str, length: int) -> str:
    """The end of a long path says more than its start; bytes of a name that are no UTF-8 show as
    ?."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= length else "..." + text[3 - length:]
