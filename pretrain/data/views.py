"""Multi-crop views of an image that carry their boxes.

Augmentation as in table C.2 of the released recipe (BYOL's policy): crop and resize (bicubic,
antialiased), flip, colour jitter, grey, blur, solarize. Every draw of a view depends on (seed,
epoch, image, view) alone, so that any number of loader processes, and a resumed run, give the same
views.

Frame: a box is (x0, y0, x1, y1) as fractions of the source image; a mirrored view has x0 > x1.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pretrain.data import augment
from pretrain.data.augment import BLUR_SIGMA, Colour
from pretrain.options.shared_options import Train

ASPECT_RATIO = (3 / 4, 4 / 3)
FLIP = 0.5
JITTER = 0.8
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1
GREY = 0.2
CROP_ATTEMPTS = 10
DRAWS = 4 * CROP_ATTEMPTS + 11  # the most that one view can use


@dataclass(frozen=True)
class ViewKind:
    """How one view is drawn: side in pixels, area as a share of the image, probabilities."""

    size: int
    scale: tuple[float, float]
    blur: float
    solarize: float


class Draws:
    """The random draws of one view, made at once: a call to numpy for each would take longer than
    some operations."""

    def __init__(self, values: Iterable[float]) -> None:
        self._next = iter(values).__next__

    @classmethod
    def of(cls, rng: np.random.Generator) -> "Draws":
        return cls(rng.random(DRAWS).tolist())

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._next()

    def below(self, count: int) -> int:
        return int(count * self._next())

    def chance(self, probability: float) -> bool:
        return self._next() < probability


def view_kinds(train: Train) -> list[ViewKind]:
    """The global views first, then the local ones. Global views take turns between BYOL's two
    policies."""
    first = ViewKind(train.global_size, train.global_scale, blur=1.0, solarize=0.0)
    second = ViewKind(train.global_size, train.global_scale, blur=0.1, solarize=0.2)
    local = ViewKind(train.local_size, train.local_scale, blur=0.5, solarize=0.0)
    return [(first, second)[i % 2] for i in range(train.global_views)] + [local] * train.local_views


def random_crop(draws: Draws, width: int, height: int, scale: tuple[float, float]) -> tuple[int, ...]:
    """Left, top, right, bottom in whole source pixels: Inception-style, area and aspect ratio
    drawn ten times, then the largest centre crop of an allowed ratio (the rule of torchvision's
    RandomResizedCrop)."""
    area = width * height
    low, high = math.log(ASPECT_RATIO[0]), math.log(ASPECT_RATIO[1])
    for _ in range(CROP_ATTEMPTS):
        target = area * draws.uniform(*scale)
        ratio = math.exp(draws.uniform(low, high))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = draws.below(width - w + 1), draws.below(height - h + 1)
            return left, top, left + w, top + h
    w, h = min(width, round(height * ASPECT_RATIO[1])), min(height, round(width / ASPECT_RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def crop_box(crop: tuple[int, ...], width: int, height: int, mirrored: bool, frame: str) -> np.ndarray:
    """(4,) float32 box of a crop given in whole source pixels.

    frame "edges": crop edges over the image's side, so that 0 and 1 are the image's borders.
    "pixel_centres" (released code): first and last pixel index over (side - 1).
    """
    left, top, right, bottom = crop
    if frame == "edges":
        box = [left / width, top / height, right / width, bottom / height]
    else:
        w, h = max(width - 1, 1), max(height - 1, 1)
        box = [left / w, top / h, (right - 1) / w, (bottom - 1) / h]
    if mirrored:
        box[0], box[2] = box[2], box[0]
    return np.array(box, dtype=np.float32)


def random_colour(draws: Draws, kind: ViewKind) -> Colour:
    """Jitter by random factors in random order, grey, blur and solarize, each with its
    probability."""
    order, brightness, contrast, saturation, hue = (), 1.0, 1.0, 1.0, 0.0
    if draws.chance(JITTER):
        brightness = draws.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS)
        contrast = draws.uniform(1 - CONTRAST, 1 + CONTRAST)
        saturation = draws.uniform(1 - SATURATION, 1 + SATURATION)
        hue = draws.uniform(-HUE, HUE)
        order = augment.ORDERS[draws.below(len(augment.ORDERS))]
    grey = draws.chance(GREY)
    sigma = draws.uniform(*BLUR_SIGMA) if draws.chance(kind.blur) else 0.0
    return Colour(order, brightness, contrast, saturation, hue, grey, sigma, draws.chance(kind.solarize))


def cut_view(
    image: np.ndarray, kind: ViewKind, draws: Draws, frame: str = "edges"
) -> tuple[np.ndarray, np.ndarray, Colour]:
    """The geometry of one view of an image (H, W, 3) uint8: pixels (3, S, S) uint8, box (4,)
    float32, and the colour operations that were drawn but not applied."""
    height, width = image.shape[:2]
    crop = random_crop(draws, width, height, kind.scale)
    mirrored = draws.chance(FLIP)
    colour = random_colour(draws, kind)
    return augment.cut(image, crop, kind.size, mirrored), crop_box(crop, width, height, mirrored, frame), colour


def make_view(
    image: np.ndarray | Image.Image, kind: ViewKind, rng: np.random.Generator, frame: str = "edges"
) -> tuple[np.ndarray, np.ndarray]:
    """One view of an RGB image, (H, W, 3) uint8 or PIL's: (3, S, S) uint8 and its box (4,)
    float32."""
    view, box, colour = cut_view(_array(image), kind, Draws.of(rng), frame)
    return augment.apply(view, colour), box


def make_views(
    image: np.ndarray | Image.Image, train: Train, epoch: int, index: int
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """All views of image number `index` in `epoch`: a list of (3, S, S) uint8, the boxes (V, 4)
    float32, and what was drawn for their colours, (V, 11) float32 (`Colour.row`).

    With `colour_on` "loader" the views are finished; with "device" only cut, and `augment_batch`
    applies the rest.
    """
    image, kinds = _array(image), view_kinds(train)
    # Row v depends on the view's number alone, not on how many there are: one generator for each
    # view costs more.
    drawn = np.random.default_rng([train.seed, epoch, index]).random((len(kinds), DRAWS)).tolist()
    views, boxes, colours = [], [], []
    for kind, row in zip(kinds, drawn, strict=True):
        view, box, colour = cut_view(image, kind, Draws(row), train.box_frame)
        views.append(view if train.colour_on == "device" else augment.apply(view, colour))
        boxes.append(box)
        colours.append(colour.row())
    return views, np.stack(boxes), np.array(colours, dtype=np.float32)


def _array(image: np.ndarray | Image.Image) -> np.ndarray:
    return image if isinstance(image, np.ndarray) else np.array(image)  # a copy: torch writes to it
