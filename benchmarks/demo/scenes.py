"""Scenes of four kinds of textured shapes that hide parts of each other, as COCO objects.

Kind, colour and texture go together loosely (the hue is jittered, the texture scale varies), the
shape tells for sure.
"""

import numpy as np
from PIL import Image

from benchmarks.demo import masking, painting
from benchmarks.demo.painting import Canvas, Outline, Texture

# Ids with gaps, as in COCO itself.
CATEGORIES = [
    {"supercategory": "shape", "id": 2, "name": "disc"},
    {"supercategory": "shape", "id": 5, "name": "plank"},
    {"supercategory": "shape", "id": 17, "name": "triangle"},
    {"supercategory": "shape", "id": 44, "name": "star"},
]
DISC, PLANK, TRIANGLE, STAR = range(4)
CROWD = 99  # owner number of a crowd
SIZES = [(160, 120), (120, 160), (160, 112), (144, 144)]  # width, height
VISIBLE = 0.5  # what stays visible of each object, at least


def scene(rng: np.random.Generator, index: int) -> tuple[Image.Image, list[dict]]:
    """A scene and its COCO annotations without ids.

    The index in the split decides the size and the special cases: 0 of each 8 has a crowd, 1 an
    object split in two by another one, 3 no object at all.
    """
    width, height = SIZES[index % len(SIZES)]
    ground = [painting.hue(rng, rng.uniform(0, 360), 0, 0.22, value) for value in (0.45, 0.65, 0.85)]
    canvas = Canvas(width, height, painting.clouded(rng, width, height, ground))
    if index % 8 == 3:
        return canvas.picture(rng), []
    layout = Layout(width, height)
    if index % 8 == 0:
        layout.masks.append(_crowd(rng, canvas))
    if index % 8 == 1:
        _split(rng, layout)
    wanted = 2 if index % 8 == 0 else int(rng.integers(3, 6))
    for _ in range(60):
        if len(layout.objects) == wanted:
            break
        kind = int(rng.integers(4))
        layout.place(kind, _outline(rng, kind, rng.uniform(18, width - 18), rng.uniform(18, height - 18)))
    for number, (kind, outline) in enumerate(layout.objects, 1):
        canvas.paint(painting.shifted(outline, 1.5, 2.0), _shadow(canvas))
        canvas.paint(outline, _texture(rng, kind), owner=number)
    owners = canvas.owner_map()
    annotations = []
    for number, (kind, _) in enumerate(layout.objects, 1):
        annotations.append({"category_id": CATEGORIES[kind]["id"], **masking.annotation(owners == number)})
    if (owners == CROWD).any():
        crowd = masking.annotation(owners == CROWD, crowd=True)
        annotations.append({"category_id": CATEGORIES[DISC]["id"], **crowd})
    return canvas.picture(rng), annotations


class Layout:
    """Objects (kind, outline) from back to front, and the whole mask (H, W) of each; a crowd's
    mask comes first."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.objects: list[tuple[int, Outline]] = []
        self.masks: list[np.ndarray] = []

    def place(self, kind: int, outline: Outline) -> None:
        """Put an object in front of the others, unless it would hide one of them too much or hang
        out too far."""
        mask = painting.covered([outline], self.width, self.height)
        hangs_out = (outline < -8).any() or (outline > (self.width + 8, self.height + 8)).any()
        if not hangs_out and painting.in_sight(mask, self.masks, VISIBLE):
            self.objects.append((kind, outline))
            self.masks.append(mask)


def _outline(rng: np.random.Generator, kind: int, x: float, y: float) -> Outline:
    angle = rng.uniform(0, 2 * np.pi)
    if kind == DISC:
        return painting.disc(x, y, rng.uniform(16, 28))
    if kind == PLANK:
        return painting.plank(x, y, rng.uniform(46, 76), rng.uniform(15, 21), angle)
    if kind == TRIANGLE:
        return painting.disc(x, y, rng.uniform(22, 34), angle, 3)
    return painting.star((x, y), rng.uniform(22, 36), angle)


def _texture(rng: np.random.Generator, kind: int) -> Texture:
    angle, bright = rng.uniform(0, np.pi), rng.uniform(0.75, 0.95)
    if kind == DISC:
        first, second = painting.hue(rng, 5, value=bright), painting.hue(rng, 40, saturation=0.3, value=0.95)
        return painting.dotted(first, second, rng.uniform(7, 11), angle)
    if kind == PLANK:
        first, second = painting.hue(rng, 215, value=bright), painting.hue(rng, 225, value=bright - 0.4)
        return painting.striped(first, second, rng.uniform(8, 13), angle)
    if kind == TRIANGLE:
        first, second = painting.hue(rng, 130, value=bright), painting.hue(rng, 110, value=bright - 0.4)
        return painting.checked(first, second, rng.uniform(8, 13), angle)
    first, second = painting.hue(rng, 52, value=bright), painting.hue(rng, 285, saturation=0.5, value=bright)
    return painting.striped(first, second, rng.uniform(14, 20), angle)


def _shadow(canvas: Canvas) -> Texture:
    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        columns, rows = np.floor(np.stack([x, y]) * painting.FINE).astype(int)
        return canvas.pixels[rows, columns] * 0.6
    return texture


def _split(rng: np.random.Generator, layout: Layout) -> None:
    """A long plank with a disc across its middle: one object, two visible pieces."""
    x, y = layout.width / 2 + rng.uniform(-15, 15), layout.height / 2 + rng.uniform(-15, 15)
    layout.place(PLANK, painting.plank(x, y, 78, 17, rng.uniform(0, np.pi)))
    layout.place(DISC, painting.disc(x + rng.uniform(-4, 4), y + rng.uniform(-4, 4), 16))


def _crowd(rng: np.random.Generator, canvas: Canvas) -> np.ndarray:
    """Many small discs in one heap, owned by CROWD; returns where they are (H, W)."""
    x, y = rng.uniform(40, canvas.width - 40), rng.uniform(30, canvas.height - 30)
    for _ in range(26):
        place_x, place_y = x + rng.uniform(-30, 30), y + rng.uniform(-16, 16)
        disc = painting.disc(place_x, place_y, rng.uniform(4, 7))
        canvas.paint(painting.shifted(disc, 0.8, 1.0), _shadow(canvas))
        canvas.paint(disc, _texture(rng, DISC), owner=CROWD)
    return canvas.owner_map() == CROWD
