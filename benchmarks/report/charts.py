"""Curves as the templates draw them: scaled to pixels, thinned, with round ticks. Nothing here knows SVG."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

Points = list[tuple[float, float]]
WIDTH, HEIGHT = 480, 290  # of a chart, in pixels
LEFT, RIGHT, TOP, BOTTOM = 52, 470, 12, 250  # the ends of its axes
MOST_POINTS = 200  # of a curve: each is then the mean of several
# Okabe and Ito's, which colour-blind people tell apart, and dashes, which printers keep: 28 pairs.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("", "7 4", "2 3", "9 3 2 3")


def looks(groups: Iterable[str], order: Sequence[str]) -> dict[str, dict]:
    """How the curves of each group of runs are drawn in all charts of a section; `order`: all
    groups of the page, so that one has the same look everywhere."""
    found = {}
    for group, count in Counter(groups).items():
        number = order.index(group)
        found[group] = {"name": group, "colour": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)],
                        "runs": count}
    return found


@dataclass(frozen=True)
class Scale:
    """An axis: its ends in values and in pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self, about: int = 6) -> list[float]:
        """Round values between the ends: multiples of 1, 2 or 5 times a power of ten."""
        length = self.high - self.low
        power = 10 ** math.floor(math.log10(length / about))
        step = next(power * factor for factor in (1, 2, 5, 10) if length / (power * factor) <= about)
        first = math.ceil(self.low / step)
        return [round(number * step, 12) for number in range(first, math.floor(self.high / step) + 1)]


def scale(values: Sequence[float], start: float, end: float) -> Scale:
    """The axis that shows these values, with a little room around."""
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or abs(high) * 0.04 or 1.0
    return Scale(low - room, high + room, start, end)


@dataclass
class Chart:
    """Curves of one quantity over steps: each a run with its label, its group and its points in
    values."""

    title: str
    across: str
    curves: list[dict] = field(default_factory=list)

    @property
    def x(self) -> Scale:
        return scale([x for curve in self.curves for x, _ in curve["points"]], LEFT, RIGHT)

    @property
    def y(self) -> Scale:
        return scale([y for curve in self.curves for _, y in curve["points"]], BOTTOM, TOP)


def thinned(points: Points) -> Points:
    """The points, or means of as many neighbours each as leave MOST_POINTS of them."""
    size = math.ceil(len(points) / MOST_POINTS)
    if size < 2:
        return points
    found = []
    for start in range(0, len(points), size):
        xs, ys = zip(*points[start:start + size], strict=True)
        found.append((fmean(xs), fmean(ys)))
    return found
