"""A canvas three times finer than the image, what is painted on it, and the masks it leaves.

Coordinates are picture pixels, x to the right and y down; pixel (i, j) covers [i, i+1) x [j, j+1).
Painting happens on the fine canvas, so that the reduced picture has smooth edges; a mask takes the
fine pixel in the middle of each pixel, so that it is exact: every pixel belongs to the one thing
seen at its centre.
"""

import colorsys
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

FINE = 3  # fine pixels per picture pixel and side; odd, so that one lies in the middle

Outline = np.ndarray  # (N, 2) float, corners in picture pixels
Texture = Callable[[np.ndarray, np.ndarray], np.ndarray]  # x, y -> (..., 3) colours 0..255
Colour = tuple[float, float, float]


class Canvas:
    """A picture in the making: `pixels` (FINE*H, FINE*W, 3), 0..255, and `owners`, who is seen
    there (0: nobody)."""

    def __init__(self, width: int, height: int, background: Texture) -> None:
        self.width, self.height = width, height
        x, y = _centres(0, 0, FINE * width, FINE * height)
        self.pixels = np.clip(background(x, y), 0, 255)
        self.owners = np.zeros((FINE * height, FINE * width), np.int32)

    def paint(self, outline: Outline, texture: Texture, owner: int | None = None) -> None:
        """Fill `outline`; `owner` None leaves the owners as they are (markings on a thing,
        shadows)."""
        found = _raster(outline, self.width, self.height)
        if found is None:
            return
        (left, top), inside = found
        rows, columns = slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1])
        x, y = _centres(left, top, inside.shape[1], inside.shape[0])
        self.pixels[rows, columns][inside] = texture(x[inside], y[inside])
        if owner is not None:
            self.owners[rows, columns][inside] = owner

    def owner_map(self) -> np.ndarray:
        """(H, W) int32: the owner at the centre of each picture pixel."""
        return self.owners[FINE // 2 :: FINE, FINE // 2 :: FINE].copy()

    def picture(self, rng: np.random.Generator, grain: float = 3.0) -> Image.Image:
        """The finished picture: reduced, unevenly lit, with a little grain."""
        fine = self.pixels.reshape(self.height, FINE, self.width, FINE, 3)
        picture = fine.mean(axis=(1, 3))
        across = np.linspace(-1, 1, self.width)[None, :, None] * rng.uniform(-0.1, 0.1)
        down = np.linspace(-1, 1, self.height)[:, None, None] * rng.uniform(-0.1, 0.1)
        picture = picture * (1 + across + down) + rng.normal(0, grain, picture.shape)
        return Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))


def covered(outlines: list[Outline], width: int, height: int) -> np.ndarray:
    """(H, W) bool: the pixels that the outlines together would own on a canvas."""
    fine = Image.new("L", (FINE * width, FINE * height))
    draw = ImageDraw.Draw(fine)
    for outline in outlines:
        draw.polygon((np.asarray(outline, float) * FINE - 0.5).ravel().tolist(), fill=1)
    return np.asarray(fine)[FINE // 2 :: FINE, FINE // 2 :: FINE].astype(bool)


def in_sight(mask: np.ndarray, behind: list[np.ndarray], share: float) -> bool:
    """Whether at least this share of each mask (H, W) of `behind`, from back to front, is seen with `mask` before
    them."""
    front = mask
    for own in reversed(behind):
        if (own & ~front).sum() < share * own.sum():
            return False
        front = front | own
    return True


def _raster(outline: Outline, width: int, height: int) -> tuple[tuple[int, int], np.ndarray] | None:
    """Fine-grained mask of the outline's bounding box, and the box's corner; None when nothing is
    in the picture."""
    fine = np.asarray(outline, float) * FINE
    low = np.maximum(np.floor(fine.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(fine.max(axis=0)).astype(int) + 1, (FINE * width, FINE * height))
    if (high <= low).any():
        return None
    box = Image.new("L", (int(high[0] - low[0]), int(high[1] - low[1])))
    # Pillow's whole coordinates are pixel centres.
    ImageDraw.Draw(box).polygon((fine - low - 0.5).ravel().tolist(), fill=1)
    return (int(low[0]), int(low[1])), np.asarray(box).astype(bool)


def _centres(left: int, top: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    x = (np.arange(left, left + width) + 0.5) / FINE
    y = (np.arange(top, top + height) + 0.5) / FINE
    return np.broadcast_to(x[None, :], (height, width)), np.broadcast_to(y[:, None], (height, width))


# Outlines


def shifted(points: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """One point (2,) or many (N, 2), moved."""
    return np.asarray(points, float) + np.array([dx, dy])


def disc(x: float, y: float, radius: float, angle: float = 0.0, corners: int = 28) -> Outline:
    """Its first corner lies at `angle`; a regular polygon with few corners."""
    angles = angle + np.arange(corners) * (2 * np.pi / corners)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


def rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def star(centre: tuple[float, float], radius: float, angle: float, points: int = 5, waist: float = 0.5) -> Outline:
    """A star with `points` tips around `centre` (x, y); `waist` is its inner radius over
    `radius`."""
    x, y = centre
    angles = angle + np.arange(2 * points) * (np.pi / points)
    radii = np.where(np.arange(2 * points) % 2 == 0, radius, radius * waist)
    return np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)


def plank(x: float, y: float, length: float, thickness: float, angle: float) -> Outline:
    """A rectangle turned by `angle` (radians) around its middle."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    half = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (length / 2, thickness / 2)
    return shifted(half @ turn, x, y)


def limb(start: np.ndarray, end: np.ndarray, start_radius: float, end_radius: float) -> Outline:
    """A rounded bar from `start` to `end`, as thick as two discs of the given radii."""
    direction = np.arctan2(end[1] - start[1], end[0] - start[0])
    arc = np.linspace(np.pi / 2, 3 * np.pi / 2, 8)
    first = np.stack([np.cos(direction + arc), np.sin(direction + arc)], axis=1) * start_radius + start
    second = np.stack([np.cos(direction + arc + np.pi), np.sin(direction + arc + np.pi)], axis=1) * end_radius + end
    return np.concatenate([first, second])


# Textures


def dimmed(colour: Colour, factor: float) -> Colour:
    red, green, blue = colour
    return factor * red, factor * green, factor * blue


def plain(colour: Colour) -> Texture:
    return lambda x, y: np.broadcast_to(np.asarray(colour, float), (*x.shape, 3))


def _pattern(share: Callable, first: Colour, second: Colour, period: float, angle: float) -> Texture:
    """The share of the second colour follows from the places along `angle` (radians) and across, in periods."""
    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along = (x * np.cos(angle) + y * np.sin(angle)) / period
        across = (y * np.cos(angle) - x * np.sin(angle)) / period
        mixed = np.asarray(share(along, across), float)[..., None]
        return np.asarray(first, float) * (1 - mixed) + np.asarray(second, float) * mixed

    return texture


striped = partial(_pattern, lambda along, _: np.floor(2 * along) % 2)
checked = partial(_pattern, lambda along, across: (np.floor(2 * along) + np.floor(2 * across)) % 2)
dotted = partial(_pattern, lambda along, across: (along % 1 - 0.5)**2 + (across % 1 - 0.5)**2 < 0.09)


def clouded(
    rng: np.random.Generator, width: int, height: int, colours: list[Colour], roughness: float = 0.55
) -> Texture:
    """Soft noise with structure at several scales between `colours` (dark to light), for one size
    of picture."""
    total = np.zeros((height, width))
    for octave in range(5):
        grid = rng.normal(size=(3 * 2**octave, 3 * 2**octave)).astype(np.float32)
        grown = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += roughness**octave * np.asarray(grown, float)
    share = (total - total.min()) / (total.max() - total.min())
    stops = np.linspace(0, 1, len(colours))
    channels = [np.interp(share, stops, levels) for levels in zip(*colours, strict=True)]
    picture = np.stack(channels, axis=2)

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        column = np.clip(np.floor(x).astype(int), 0, width - 1)
        row = np.clip(np.floor(y).astype(int), 0, height - 1)
        return picture[row, column]

    return texture


def hue(
    rng: np.random.Generator, degrees: float, spread: float = 12, saturation: float = 0.7, value: float = 0.85
) -> Colour:
    """A colour near the given hue (0 red, 120 green, 240 blue), a little different each time."""
    turned = (degrees + rng.uniform(-spread, spread)) % 360 / 360
    saturation = float(np.clip(saturation + rng.uniform(-0.1, 0.1), 0, 1))
    value = float(np.clip(value + rng.uniform(-0.1, 0.1), 0, 1))
    return dimmed(colorsys.hsv_to_rgb(turned, saturation, value), 255)
