"""The figure of a probe: validation images, their labels, and what the linear classifiers make of them."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pretrain.common.atomic import atomic_path
from pretrain.figures.training_figures import shorten
from transfer.data.pixel_labels import IGNORE
from transfer.probing.measurement import Examples

matplotlib.use("Agg")
DPI = 100
INCHES = 3.1  # width of a column
TALLEST = 1.3  # height of a row in widths; a taller image becomes narrower than its column
NAMED = 6  # classes of an image that its legend names, largest first
VISIBLE = 0.005  # share of an image below which a predicted class is not named


def draw(examples: Examples, path: str | Path) -> None:
    """Write a PNG: a row for each image, with image, labels, and the prediction of each source of features."""
    names = list(examples.predictions)
    rows, columns = len(examples.images), 2 + len(names)
    if not rows:
        return
    heights = [min(TALLEST, pixels.shape[0] / pixels.shape[1]) for pixels, _ in examples.images]
    figure = Figure(figsize=(INCHES * columns, INCHES * sum(heights) + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    colours = palette(examples)
    for number, ((pixels, labels), axes) in enumerate(zip(examples.images, grid, strict=True)):
        predictions = [examples.predictions[name][number] for name in names]
        axes[0].imshow(pixels)
        grey = pixels.mean(2, keepdims=True).repeat(3, 2) / 255
        for place, classes in zip(axes[1:], [labels, *predictions], strict=True):
            place.imshow(coloured(grey, classes, colours))
        _legend(axes[0], [labels, *predictions], examples.data.classes, colours)
        for place in axes:
            place.set_axis_off()
    for place, title in zip(grid[0], ["image", "labels", *[f"linear: {name}" for name in names]], strict=True):
        place.set_title(shorten(title, 34), fontsize=11)
    with atomic_path(path) as sibling:
        # Without a date or a version in the file, the same predictions give the same bytes.
        figure.savefig(sibling, dpi=DPI, metadata={"Software": None})


def palette(examples: Examples) -> dict[int, np.ndarray]:
    """{class: (3,) 0 to 1} for the classes of the examples, largest first so that those get the most distinct colours;
    none for the background."""
    shown = [labels for _, labels in examples.images] + [one for maps in examples.predictions.values() for one in maps]
    numbers, counts = np.unique(np.concatenate([one.ravel() for one in shown]), return_counts=True)
    order = [int(number) for number in numbers[np.argsort(-counts, kind="stable")]
             if number != IGNORE and (number or not examples.data.background)]
    table = matplotlib.colormaps["tab20"].colors
    table = [*table[::2], *table[1::2]]  # the strong colours first; then the pale ones, then again
    return {number: np.array(table[place % len(table)]) for place, number in enumerate(order)}


def coloured(grey: np.ndarray, classes: np.ndarray, colours: dict[int, np.ndarray]) -> np.ndarray:
    """(H, W, 3): classes in their colours over a grey image (H, W, 3); classes without a colour stay grey, pixels
    without a label become white."""
    shown = grey.copy()
    shown[classes == IGNORE] = 1
    for number, colour in colours.items():
        where = classes == number
        shown[where] = 0.35 * shown[where] + 0.65 * colour
    return shown


def _legend(axes: matplotlib.axes.Axes, maps: list[np.ndarray], classes: tuple[str, ...],
            colours: dict[int, np.ndarray]) -> None:
    shares: dict[int, float] = {}
    for one in maps:
        numbers, counts = np.unique(one, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            if number in colours:
                shares[number] = max(shares.get(number, 0), count / one.size)
    in_truth = set(np.unique(maps[0]).tolist())
    named = sorted((number for number, share in shares.items() if share >= VISIBLE),
                   key=lambda number: (number not in in_truth, -shares[number]))[:NAMED]
    axes.legend(handles=[Patch(color=colours[number], label=shorten(classes[number], 16)) for number in named],
                loc="lower left", fontsize=7, framealpha=0.85, ncols=2, handlelength=1, columnspacing=0.8)
