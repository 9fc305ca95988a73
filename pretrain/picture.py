"""Pictures for people: training curves, and two views of a photograph with their matched cells."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle
from PIL import Image

from pretrain.atomic import atomic_path
from pretrain.config import Numbers
from pretrain.encoder import Encoder
from pretrain.images import ImageList, UnreadableImage
from pretrain.matcher import match
from pretrain.views import make_views

matplotlib.use("Agg")
CURVES = [("loss", "loss"), ("positive_cosine", "cosine of positive pairs and of negatives"),
          ("retrieval_backbone", "matched-location retrieval"), ("lr", "learning rate")]
TOGETHER = {"positive_cosine": ["positive_cosine", "negative_cosine"],
            "retrieval_backbone": ["retrieval_backbone", "retrieval_contextualized"]}
COLOURS = ("#c8442d", "#2563b0", "#2f8f4e", "#8e44ad", "#d08a1d", "#1c8a8a")


def draw_curves(metrics: Path, path: Path) -> None:
    """Loss, cosines, retrieval and learning rate over the steps of a metrics.jsonl."""
    entries = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(11, 6), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, CURVES, strict=True):
        for name in TOGETHER.get(key, [key]):
            points = [(e["step"], e[name]) for e in entries if e.get(name) is not None]
            axes.plot(*zip(*points, strict=True) if points else ([], []), marker="o", markersize=3,
                      label=name.replace("_", " "))
        axes.set_title(title)
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if key in TOGETHER:
            axes.legend(frameon=False)
    with atomic_path(path) as sibling:
        figure.savefig(sibling, dpi=110)


def draw_views(names: ImageList, numbers: Numbers, path: Path, shown: int = 3) -> None:
    """A few photographs with the boxes of two global views, the views with their grids, and some positive pairs."""
    images = []
    for index in range(len(names)):
        try:
            images.append((index, Image.fromarray(names.pixels(index))))
        except UnreadableImage:
            continue
        if len(images) == shown:
            break
    if not images:
        return
    grid = _grid(numbers)
    figure = Figure(figsize=(11, 3.6 * len(images)), layout="constrained")
    rows = figure.subplots(len(images), 3, squeeze=False)
    for row, (index, image) in zip(rows, images, strict=True):
        views, boxes, _ = make_views(image, replace(numbers, colour_on="loader", box_frame="edges"), 0, index)
        made = list(zip(views[:2], boxes[:2], strict=True))
        boxes = torch.from_numpy(boxes[:2])
        positives = match(boxes[0], boxes[1], grid, grid, numbers.t_pos, numbers.t_pos_unit,
                          torch.tensor(image.size, dtype=torch.float32))
        row[0].imshow(image)
        row[0].set_title(names[index], fontsize=9)
        for (_, box), colour, label in zip(made, COLOURS, ("view 1", "view 2"), strict=False):
            x0, x1 = sorted((float(box[0]) * image.width, float(box[2]) * image.width))
            y0, y1 = float(box[1]) * image.height, float(box[3]) * image.height
            row[0].add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=2))
            row[0].text(x0 + 2, y0 + 2, label, color="white", fontsize=8, va="top", backgroundcolor=colour)
        for axes, (pixels, box), label in zip(row[1:], made, ("view 1", "view 2"), strict=True):
            axes.imshow(pixels.transpose(1, 2, 0))
            mirrored = ", mirrored" if box[0] > box[2] else ""
            axes.set_title(f"{label}{mirrored}: {grid[0]} x {grid[1]} cells", fontsize=9)
            for line in range(1, grid[0]):
                axes.axhline(line * numbers.global_size / grid[0], color="white", linewidth=0.4)
                axes.axvline(line * numbers.global_size / grid[1], color="white", linewidth=0.4)
        _join(figure, row[1], row[2], positives, grid, numbers.global_size)
        for axes in row:
            axes.set_axis_off()
    with atomic_path(path) as sibling:
        figure.savefig(sibling, dpi=110)


def _grid(numbers: Numbers) -> tuple[int, int]:
    with torch.device("meta"):
        maps = Encoder(numbers.architecture, numbers.last_stage_stride)(
            torch.empty(1, 3, numbers.global_size, numbers.global_size))
    return maps.shape[2], maps.shape[3]


def _join(figure: Figure, first: object, second: object, positives: torch.Tensor, grid: tuple[int, int],
          side: int, lines: int = 12) -> None:
    """Coloured lines between some positive cells; the rest would hide the picture."""
    pairs = positives.nonzero().tolist()
    for number, (a, b) in enumerate(pairs[::max(len(pairs) // lines, 1)][:lines]):
        points = [((cell % grid[1] + 0.5) * side / grid[1], (cell // grid[1] + 0.5) * side / grid[0])
                  for cell in (a, b)]
        colour = COLOURS[number % len(COLOURS)]
        figure.add_artist(ConnectionPatch(points[0], points[1], "data", "data", axesA=first, axesB=second,
                                          color=colour, linewidth=1, alpha=0.9))
        for axes, (x, y) in ((first, points[0]), (second, points[1])):
            axes.plot(x, y, "o", color=colour, markersize=4)
