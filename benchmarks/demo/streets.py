"""Street scenes as Cityscapes stores them: polygons painted one over the other, from back to front.

The polygons have whole-pixel corners and define everything: instance and label images are these
polygons painted in order, as the Cityscapes tools do it. The picture is painted from the same
parts the polygons outline.
"""

import cv2
import numpy as np
from PIL import Image, ImageDraw

from benchmarks.demo import painting, street_things
from benchmarks.demo.painting import Canvas, Texture
from benchmarks.demo.street_things import Part

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
SMALLEST = 120  # visible pixels of a thing, at least; the Cityscapes evaluation ignores those under 100
Objects = list[tuple[str, list[tuple[int, int]]]]


def street(rng: np.random.Generator, index: int, count: int) -> tuple[Image.Image, Objects]:
    """Picture `index` of `count` and its objects (label, polygon) from back to front.

    The units are dealt to the `count` pictures in turn, so that every split has all eight things
    (from two pictures on all can be seen well), and one or two drawn at random are added. Every
    third picture has a group of cars in the distance.
    """
    per_picture = max(2, -(-len(UNITS) // count))
    wanted = [UNITS[(index * per_picture + offset) % len(UNITS)] for offset in range(per_picture)]
    if per_picture < 4:
        wanted += [UNITS[int(choice)] for choice in rng.integers(len(UNITS), size=int(rng.integers(1, 3)))]
    horizon = int(rng.integers(30, 36))
    stuff = _stuff(rng, horizon)
    group = []
    if index % 3 == 0:
        group = [("cargroup", _cars_in_the_distance(rng, horizon))]
    things = _layout(rng, wanted, horizon, group)

    canvas = Canvas(WIDTH, HEIGHT, painting.plain((0, 0, 0)))
    objects: Objects = []
    for label, outline, texture in stuff:
        canvas.paint(outline, texture)
        objects.append((label, _whole(outline)))
    _lanes(canvas, horizon)
    for label, parts in things:
        objects.append((label, silhouette(parts)))
        for outline, texture in parts:
            canvas.paint(outline, texture)
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


def silhouette(parts: list[Part]) -> list[tuple[int, int]]:
    """The outer border (whole pixels) of the largest region that the parts cover inside the
    picture."""
    covered = painting.covered([outline for outline, _ in parts], WIDTH, HEIGHT).astype(np.uint8)
    # People who draw outlines pass over gaps of a pixel or two.
    covered = cv2.morphologyEx(covered, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    borders = cv2.findContours(covered, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[-2]
    if not borders:
        return []
    return list(map(tuple, max(borders, key=cv2.contourArea)[:, 0].tolist()))


def _layout(
    rng: np.random.Generator, wanted: list[tuple[str, ...]], horizon: int, behind: list[tuple[str, list[Part]]]
) -> list[tuple[str, list[Part]]]:
    """`behind`, then the wanted units, far ones first, such that every thing can be seen; the best
    of many throws."""
    best, best_seen = [], -1.0
    for _ in range(120):
        placed = []
        for unit in wanted:
            tallest = street_things.HEIGHTS[unit[0]]
            bottom = rng.uniform(max(horizon + 8, tallest * 0.8), HEIGHT - 3)
            scale = 0.85 + 0.3 * (bottom - horizon) / (HEIGHT - horizon)
            half = street_things.WIDTHS[unit[0]] * scale / 2
            x = rng.uniform(0.75 * half, WIDTH - 0.75 * half)
            placed.append((bottom, street_things.draw(rng, unit, x, bottom, scale)))
        nearest_last = sorted(placed, key=lambda item: item[0])
        things = list(behind)
        for _, unit in nearest_last:
            things += unit
        seen = _least_seen(things)
        if seen > best_seen:
            best, best_seen = things, seen
        if best_seen > 0.6:
            break
    return best


def _least_seen(things: list[tuple[str, list[Part]]]) -> float:
    """The smallest visible share among the things; 0 when one has too few visible pixels for the
    evaluation."""
    whole = []
    image = Image.new("I", (WIDTH, HEIGHT))
    for number, (_, parts) in enumerate(things, 1):
        corners = silhouette(parts)
        if len(corners) < 3:
            return 0.0
        alone = Image.new("1", (WIDTH, HEIGHT))
        ImageDraw.Draw(alone).polygon(corners, fill=1)
        whole.append(np.asarray(alone).sum())
        ImageDraw.Draw(image).polygon(corners, fill=number)
    visible = np.bincount(np.asarray(image).ravel(), minlength=len(things) + 1)[1:]
    return 0.0 if visible.min() < SMALLEST else float((visible / np.array(whole)).min())


def _stuff(rng: np.random.Generator, horizon: int) -> list[tuple[str, np.ndarray, Texture]]:
    """Sky, houses, trees, pavement and road, as (label, outline, texture)."""
    high, low = painting.hue(rng, 210, 10, 0.5, 0.8), painting.hue(rng, 205, 10, 0.15, 0.95)
    found = [("sky", painting.rectangle(0, 0, WIDTH, HEIGHT), painting.faded(high, low, 0, horizon))]
    left = int(-rng.integers(0, 12))
    while left < WIDTH:
        right, top = left + int(rng.integers(22, 44)), int(rng.integers(2, horizon - 12))
        if rng.random() < 0.8:
            wall = painting.hue(rng, rng.choice((15, 30, 45, 200)), 10, 0.3, 0.65)
            outline = painting.rectangle(max(left, 0), top, min(right, WIDTH), horizon + 3)
            found.append(("building", outline, _windows(rng, wall, left, top)))
        left = right + int(rng.integers(0, 6))
    for _ in range(int(rng.integers(1, 4))):
        x, radius = rng.uniform(5, WIDTH - 5), rng.uniform(7, 12)
        green = [painting.hue(rng, 105, 15, 0.5, value) for value in (0.25, 0.4, 0.6)]
        crown = painting.ellipse(x, horizon - radius * 0.4, radius, radius * 1.2, 14)
        found.append(("vegetation", crown, painting.clouded(rng, WIDTH, HEIGHT, green, 0.9)))
    paving, asphalt = painting.hue(rng, 40, 20, 0.08, 0.68), painting.hue(rng, 240, 30, 0.06, 0.42)
    stones = painting.checked(paving, painting.dimmed(paving, 0.92), 7, 0)
    found.append(("sidewalk", painting.rectangle(0, horizon, WIDTH, horizon + 9), stones))
    rough = painting.clouded(rng, WIDTH, HEIGHT, [painting.dimmed(asphalt, 0.75), asphalt], 0.9)
    found.append(("road", painting.rectangle(0, horizon + 7, WIDTH, HEIGHT), rough))
    return found


def _windows(rng: np.random.Generator, wall: tuple, left: int, top: int) -> Texture:
    glass = painting.hue(rng, 210, 10, 0.3, 0.35)
    wide, high = rng.uniform(6, 9), rng.uniform(7, 10)

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        across, down = (x - left) % wide / wide, (y - top) % high / high
        pane = (across > 0.3) & (across < 0.8) & (down > 0.3) & (down < 0.8)
        return np.where(pane[..., None], glass, wall)

    return texture


def _lanes(canvas: Canvas, horizon: int) -> None:
    middle = (horizon + 7 + HEIGHT) / 2
    for left in range(4, WIDTH, 26):
        canvas.paint(painting.rectangle(left, middle, left + 13, middle + 1.6), painting.plain((220, 220, 205)))


def _cars_in_the_distance(rng: np.random.Generator, horizon: int) -> list[Part]:
    """A row of parked cars that overlap so much that nobody could tell them apart."""
    x, parts = rng.uniform(25, WIDTH - 60), []
    for step in range(5):
        [(_, car)] = street_things.draw(rng, ("car",), x + 9 * step, horizon + 9 + rng.uniform(-0.5, 0.5), 0.45)
        parts += car
    return parts


def _whole(outline: np.ndarray) -> list[tuple[int, int]]:
    """Whole-pixel corners inside the picture; the right and lower sides name the last pixel
    inside."""
    corners = np.clip(np.rint(outline - 0.5), 0, (WIDTH - 1, HEIGHT - 1)).astype(int)
    return list(map(tuple, corners.tolist()))
