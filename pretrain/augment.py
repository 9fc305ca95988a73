"""The pixel operations of a view, by OpenCV, torch and tables: what PIL and torchvision give, several times faster.

Pixels: (H, W, 3) uint8 RGB; a view: (3, S, S). Every function leaves its input as it is. On the same parameters
brightness, contrast and solarize are equal to PIL's, the others differ by a fraction of a level on average
(tests/pretrain/test_augment.py has the bounds).
"""

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = list(itertools.permutations(range(4)))  # the jitter's operations in every order
SOLARIZE_THRESHOLD = 128
BLUR_SIGMA = (0.1, 2.0)  # pixels
LONGEST_BLUR = 6  # pixels to each side: three of the largest sigma
COLUMNS = 11  # of Colour.row: order (4), brightness, contrast, saturation, hue, grey, sigma, solarize
LEVELS = np.arange(256, dtype=np.float32)
# OpenCV's full circle has 256 steps on the way to HSV and 255 on the way back; PIL's has 255.
HUE_255 = (LEVELS * (255 / 256)).astype(np.uint8)
SOLARIZED = np.where(LEVELS < SOLARIZE_THRESHOLD, LEVELS, 255 - LEVELS).astype(np.uint8)

# The processes are the parallelism, and a thread pool of OpenCV would not survive the fork that starts one.
cv2.setNumThreads(0)


@dataclass(frozen=True)
class Colour:
    """What was drawn for one view, applied in this order: jitter, grey, blur, solarize.

    order: the four jitter operations as they follow each other, empty without jitter. brightness, contrast, saturation:
    factors. hue: share of a full circle. sigma: of the blur in pixels, 0 without blur.
    """

    order: tuple[int, ...] = ()
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    grey: bool = False
    sigma: float = 0.0
    solarize: bool = False

    def row(self) -> tuple[float, ...]:
        """The same as `COLUMNS` numbers; an order without jitter is four times -1."""
        return (*(self.order or (-1, -1, -1, -1)), self.brightness, self.contrast, self.saturation, self.hue,
                self.grey, self.sigma, self.solarize)


def cut(image: np.ndarray, crop: tuple[int, ...], size: int, mirrored: bool) -> np.ndarray:
    """The crop (left, top, right, bottom in pixels) of an image resized to (3, size, size): bicubic, antialiased."""
    left, top, right, bottom = crop
    part = torch.from_numpy(image[top:bottom, left:right]).permute(2, 0, 1)[None]
    view = F.interpolate(part, (size, size), mode="bicubic", antialias=True).reshape(3 * size, size).numpy()
    if mirrored:
        view = cv2.flip(view, 1)
    return view.reshape(3, size, size)


def adjust_brightness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Every level times `factor`."""
    return cv2.LUT(pixels, blend_table(factor, 0.0))


def adjust_contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Distances from the mean grey times `factor`."""
    mean = math.floor(cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return cv2.LUT(pixels, blend_table(factor, mean))


def adjust_saturation(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Distances from the pixel's own grey times `factor`."""
    # PIL cuts fractions off, OpenCV rounds.
    return cv2.addWeighted(pixels, factor, to_grey(pixels), 1 - factor, -0.499)


def adjust_hue(pixels: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by `shift` of a full circle (-0.5..0.5)."""
    turned = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    hue = cv2.LUT(cv2.extractChannel(turned, 0), HUE_255 + np.uint8(int(shift * 255) % 256))  # uint8 wraps round
    cv2.insertChannel(hue, turned, 0)
    return cv2.cvtColor(turned, cv2.COLOR_HSV2RGB_FULL)


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Luminance in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian of `sigma` pixels; beyond the border its pixels go on."""
    kernel = cv2.getGaussianKernel(2 * blur_radius(sigma) + 1, sigma)
    return cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def solarize(pixels: np.ndarray) -> np.ndarray:
    """The bright half of the levels inverted."""
    return cv2.LUT(pixels, SOLARIZED)


def blend_table(factor: float, base: float) -> np.ndarray:
    """(256,) uint8: each level's distance from `base` times `factor`; fractions are cut off, as PIL does."""
    return (base + np.float32(factor) * (LEVELS - np.float32(base))).clip(0, 255).astype(np.uint8)


def blur_radius(sigma: float) -> int:
    """Pixels to each side that a blur takes in: three sigmas."""
    return round(3 * sigma)


def apply(view: np.ndarray, colour: Colour) -> np.ndarray:
    """(3, S, S) uint8 -> the same with everything that was drawn for it."""
    if colour == Colour():
        return view
    pixels = cv2.merge(list(view))
    for operation in colour.order:
        if operation == BRIGHTNESS:
            pixels = adjust_brightness(pixels, colour.brightness)
        elif operation == CONTRAST:
            pixels = adjust_contrast(pixels, colour.contrast)
        elif operation == SATURATION:
            pixels = adjust_saturation(pixels, colour.saturation)
        else:
            pixels = adjust_hue(pixels, colour.hue)
    if colour.grey:
        pixels = to_grey(pixels)
    if colour.sigma:
        pixels = blur(pixels, colour.sigma)
    if colour.solarize:
        pixels = solarize(pixels)
    planes = np.empty_like(view)
    cv2.split(pixels, list(planes))
    return planes
