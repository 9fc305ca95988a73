"""Unlabelled pictures: leaves of many sizes fallen on each other, over a soft ground.

Shapes of many sizes that hide each other give edges and textures at every scale, as photographs
have them; no two places of a picture look alike, so that matching them can be learnt.
"""

import numpy as np
from PIL import Image

from benchmarks.demo import painting
from benchmarks.demo.painting import Canvas, Outline, Texture

SIZES = [(160, 120), (120, 160)]  # width, height


def photo(rng: np.random.Generator, index: int) -> Image.Image:
    """A picture of 160 x 120 (even index) or 120 x 160."""
    width, height = SIZES[index % 2]
    base = rng.uniform(0, 360)
    hues = [base, base + rng.uniform(25, 60), base + rng.uniform(90, 180), base + rng.uniform(200, 320)]
    ground = [painting.hue(rng, base, 20, 0.35, value) for value in (0.35, 0.6, 0.85)]
    canvas = Canvas(width, height, painting.clouded(rng, width, height, ground))
    # Mostly large first: what falls last stays whole, and small structure must stay.
    large, medium, small = rng.uniform(22, 44, 12), rng.uniform(10, 22, 24), rng.uniform(4, 10, 26)
    radii = np.concatenate([large, rng.permutation(np.concatenate([medium, small]))])
    for radius in radii.tolist():
        outline = _leaf(rng, rng.uniform(0, width), rng.uniform(0, height), radius)
        canvas.paint(outline, _texture(rng, hues, radius, width, height))
    return canvas.picture(rng, grain=4.0)


def _leaf(rng: np.random.Generator, x: float, y: float, radius: float) -> Outline:
    angle = rng.uniform(0, 2 * np.pi)
    kind = int(rng.integers(5))
    if kind == 0:
        return painting.disc(x, y, radius)
    if kind == 1:
        return painting.plank(x, y, 2.4 * radius, rng.uniform(0.5, 1.4) * radius, angle)
    if kind == 2:
        return painting.star((x, y), 1.2 * radius, angle, int(rng.integers(4, 8)), rng.uniform(0.4, 0.7))
    if kind == 3:
        return painting.disc(x, y, radius, angle, int(rng.integers(3, 7)))
    # A pebble: a closed wave around a circle.
    around = np.arange(36) * (2 * np.pi / 36)
    wave = sum(rng.uniform(0.04, 0.18) * np.cos(n * around + rng.uniform(0, 6.3)) for n in (2, 3, 5))
    return np.stack([x + radius * (1 + wave) * np.cos(around), y + radius * (1 + wave) * np.sin(around)], axis=1)


def _texture(rng: np.random.Generator, hues: list[float], radius: float, width: int, height: int) -> Texture:
    degrees = hues[int(rng.integers(len(hues)))]
    first = painting.hue(rng, degrees, 15, rng.uniform(0.3, 0.8), rng.uniform(0.3, 0.95))
    second = painting.hue(rng, degrees, 25, rng.uniform(0.2, 0.7), rng.uniform(0.2, 0.95))
    period, angle = rng.uniform(4, 6 + 0.4 * radius), rng.uniform(0, np.pi)
    kind = int(rng.integers(6))
    if radius < 7 or kind == 0:
        return painting.plain(first)
    if kind in (1, 2) and radius > 10:
        return painting.clouded(rng, width, height, [first, second], roughness=0.8)
    makers = (painting.striped, painting.checked, painting.dotted)
    return makers[kind % 3](first, second, period, angle)
