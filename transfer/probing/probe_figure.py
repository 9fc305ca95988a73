"""The figure of a probe: validation images, their labels, and what the linear classifiers make of them."""

import itertools
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
    """Write a PNG: a row for each image, with image, labels, and the prediction of each source of
    features."""
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
    """{class: (3,) 0 to 1} for the classes of the examples, largest first so that those get the
    most distinct colours; none for the background."""
    shown = [labels for _, labels in examples.images]
    for maps in examples.predictions.values():
        shown += maps
    numbers, counts = np.unique(np.concatenate(shown, axis=None), return_counts=True)
    order = numbers[np.argsort(-counts, kind="stable")]
    order = order[order >= examples.data.background]  # neither IGNORE, which is below 0, nor the background
    table = matplotlib.colormaps["tab20"].colors
    # The strong colours first; then the pale ones, then again.
    colours = itertools.cycle(np.array([*table[::2], *table[1::2]]))
    return dict(zip(order.tolist(), colours, strict=False))


def coloured(grey: np.ndarray, classes: np.ndarray, colours: dict[int, np.ndarray]) -> np.ndarray:
    """(H, W, 3): classes in their colours over a grey image (H, W, 3); classes without a colour
    stay grey, pixels without a label become white."""
    shown = grey.copy()
    shown[classes == IGNORE] = 1
    for number, colour in colours.items():
        where = classes == number
        shown[where] = 0.35 * shown[where] + 0.65 * colour
    return shown


def _legend(axes: matplotlib.axes.Axes, maps: list[np.ndarray], classes: tuple[str, ...],
            colours: dict[int, np.ndarray]) -> None:
    ranks = []
    for number, colour in colours.items():
        shares = [(one == number).mean() for one in maps]
        if max(shares) >= VISIBLE:
            patch = Patch(color=colour, label=shorten(classes[number], 16))
            ranks.append((shares[0] == 0, -max(shares), number, patch))  # those of the labels first
    ranks.sort()
    axes.legend(handles=[patch for *_, patch in ranks[:NAMED]],
                loc="lower left", fontsize=7, framealpha=0.85, ncols=2, handlelength=1, columnspacing=0.8)
