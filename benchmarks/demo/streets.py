"""Street scenes as Cityscapes stores them: polygons painted one over the other, from back to front.

The polygons have whole-pixel corners and define everything: instance and label images are these
polygons painted in order, as the Cityscapes tools do it, and the picture is made of them too.
"""

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.demo import painting
from benchmarks.demo.painting import Canvas, Outline, Texture

WIDTH, HEIGHT = 160, 80
# Cityscapes' own numbers; labels that are counted one by one have the class times 1000 plus a
# count.
LABELS = {"unlabeled": 0, "road": 7, "sidewalk": 8, "building": 11, "vegetation": 21, "sky": 23}
THINGS = {"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33}
# What is placed together: a rider needs something to ride.
UNITS = [
    ("bus",), ("person",), ("motorcycle", "rider"), ("car",),
    ("truck",), ("bicycle", "rider"), ("train",), ("bicycle",),
]
# The corners of each thing, seen from the side: pixels right of its middle and above the ground.
SHAPES = {
    "person": [(-6, 0), (-7, 20), (-5, 31), (-3, 31), (-4, 38), (4, 38), (3, 31), (5, 31), (7, 20), (6, 0), (0, 16)],
    "rider": [(-6, 17), (-3, 32), (-1, 32), (-2, 40), (6, 40), (5, 32), (10, 22), (2, 22), (5, 10), (0, 10)],
    "car": [(-20, 0), (-20, 8), (-12, 11), (-8, 19), (7, 19), (13, 11), (20, 9), (20, 0)],
    "truck": [(-20, 0), (-20, 28), (8, 28), (8, 20), (16, 20), (20, 10), (20, 0)],
    "bus": [(-20, 0), (-20, 26), (20, 26), (20, 0)],
    "train": [(-20, 0), (-20, 20), (12, 20), (20, 8), (20, 0)],
    "motorcycle": [(-17, 0), (-17, 10), (-8, 17), (6, 17), (9, 20), (17, 8), (15, 0), (7, 4), (-7, 4)],
    "bicycle": [(-18, 5), (-13, 14), (-5, 14), (-5, 17), (-2, 17), (-2, 14), (8, 18), (12, 13), (18, 5), (12, 0),
                (6, 4), (0, 9), (-6, 4), (-12, 0)]}
HUES = {"person": 285, "rider": 330, "car": 0, "truck": 30, "bus": 55, "train": 150, "motorcycle": 255, "bicycle": 195}
WIDEST, LARGEST = 40, 1.2  # pixels at scale 1; the largest scale
Objects = list[tuple[str, list[tuple[int, int]]]]


def street(rng: np.random.Generator, index: int, count: int) -> tuple[Image.Image, Objects]:
    """Picture `index` of `count` and its objects (label, polygon) from back to front.

    The units are dealt to the `count` pictures in turn, so that every split has all eight things
    (from two pictures on all can be seen well); they stand side by side. Every third picture has a
    group of cars in the distance.
    """
    in_each = max(2, -(-len(UNITS) // count))
    wanted = [UNITS[(index * in_each + offset) % len(UNITS)] for offset in range(in_each)]
    horizon = int(rng.integers(30, 36))
    painted = _stuff(rng, horizon)
    if index % 3 == 0:
        left = rng.uniform(10, WIDTH - 60)
        cars = painting.rectangle(left, horizon + 2, left + 50, horizon + 9)
        painted.append(("cargroup", cars, painting.checked((170, 40, 40), (60, 60, 90), 12, 0.6)))
    slot = WIDTH / in_each
    for place, unit in enumerate(wanted):
        scale = min((slot - 4) / WIDEST, LARGEST)
        turn = scale * rng.choice((-1, 1))
        ground = np.array([slot * (place + 0.5), rng.uniform(max(horizon + 8, 41 * scale), HEIGHT - 3)])
        ground[0] += rng.uniform(-1, 1) * (slot - WIDEST * scale) / 2
        for label in unit:
            colour = painting.hue(rng, HUES[label], 15, 0.75, 0.75)
            texture = painting.striped(colour, painting.dimmed(colour, 0.6), 8, rng.uniform(0, 0.6))
            painted.append((label, ground + np.array(SHAPES[label]) * (turn, -scale), texture))
    canvas = Canvas(WIDTH, HEIGHT, painting.plain((0, 0, 0)))
    objects: Objects = []
    for label, outline, texture in painted:
        corners = np.clip(np.rint(outline), 0, (WIDTH - 1, HEIGHT - 1)).astype(int)
        canvas.paint(outline, texture)
        objects.append((label, list(map(tuple, corners.tolist()))))
    return canvas.picture(rng), objects


def paint_ids(objects: Objects, instances: bool) -> np.ndarray:
    """(HEIGHT, WIDTH) uint16 of class numbers, or with `instances` of class*1000 + count for
    single things."""
    image = Image.new("I", (WIDTH, HEIGHT), LABELS["unlabeled"])
    draw = ImageDraw.Draw(image)
    seen = dict.fromkeys(THINGS, 0)
    for label, corners in objects:
        number = THINGS.get(label.removesuffix("group"), LABELS.get(label))
        if label in THINGS and instances:
            number, seen[label] = number * 1000 + seen[label], seen[label] + 1
        draw.polygon(corners, fill=number)
    return np.asarray(image).astype(np.uint16)


def _stuff(rng: np.random.Generator, horizon: int) -> list[tuple[str, Outline, Texture]]:
    """Sky, houses, trees, pavement and road, as (label, outline, texture)."""
    found = [("sky", painting.rectangle(0, 0, WIDTH, HEIGHT), painting.plain(painting.hue(rng, 210, 10, 0.3, 0.9)))]
    for left in range(0, WIDTH, 40):
        house = painting.rectangle(left, rng.integers(2, horizon - 12), left + rng.integers(22, 40), horizon + 3)
        wall = painting.hue(rng, rng.choice((15, 30, 45, 200)), 10, 0.3, 0.65)
        found.append(("building", house, painting.checked(wall, painting.dimmed(wall, 0.6), 14, 0)))
    green = [painting.hue(rng, 105, 15, 0.5, value) for value in (0.25, 0.4, 0.6)]
    crown = painting.disc(rng.uniform(5, WIDTH - 5), horizon - 4, rng.uniform(7, 12))
    found.append(("vegetation", crown, painting.clouded(rng, WIDTH, HEIGHT, green, 0.9)))
    paving, asphalt = painting.hue(rng, 40, 20, 0.08, 0.68), painting.hue(rng, 240, 30, 0.06, 0.42)
    stones = painting.checked(paving, painting.dimmed(paving, 0.92), 7, 0)
    rough = painting.clouded(rng, WIDTH, HEIGHT, [painting.dimmed(asphalt, 0.75), asphalt], 0.9)
    return [*found, ("sidewalk", painting.rectangle(0, horizon, WIDTH, horizon + 9), stones),
            ("road", painting.rectangle(0, horizon + 7, WIDTH, HEIGHT), rough)]
