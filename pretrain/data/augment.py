"""The pixel operations of a view, by OpenCV, torch and tables: as PIL and torchvision, but faster.

Pixels: (H, W, 3) uint8 RGB; a view: (3, S, S). On the same parameters brightness, contrast and
solarize are equal to PIL's but for a level here and there, the others differ by a fraction of a
level on average, resizing by far less (tests/pretrain/data/test_augment.py has the bounds).
"""

import itertools
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = list(itertools.permutations(range(4)))  # the jitter's operations in every order
SOLARIZE_THRESHOLD = 128
BLUR_SIGMA = (0.1, 2.0)  # pixels
LONGEST_BLUR = 6  # pixels to each side: three of the largest sigma
CUT_OFF = -0.4999  # OpenCV rounds what it adds this to, PIL cuts fractions off
LEVELS = np.arange(256, dtype=np.float32)
# OpenCV's full circle has 256 steps on the way to HSV and 255 on the way back; PIL's has 255.
HUE_255 = (LEVELS * (255 / 256)).astype(np.uint8)
SOLARIZED = np.where(LEVELS < SOLARIZE_THRESHOLD, LEVELS, 255 - LEVELS).astype(np.uint8)

# The processes are the parallelism, and a thread pool of OpenCV would not survive the fork that
# starts one.
cv2.setNumThreads(0)


class Colour(NamedTuple):
    """What was drawn for one view, applied in this order: jitter, grey, blur, solarize.

    order: the four jitter operations as they follow each other, empty without jitter. brightness,
    contrast, saturation: factors. hue: share of a full circle. sigma: of the blur in pixels, 0
    without blur.
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
        """11 numbers: order (4), brightness, contrast, saturation, hue, grey, sigma, solarize; an
        order without jitter is four times -1."""
        return (*(self.order or (-1, -1, -1, -1)), self.brightness, self.contrast, self.saturation, self.hue,
                self.grey, self.sigma, self.solarize)


NOTHING = Colour()


def cut(image: np.ndarray, crop: tuple[int, ...], size: int, mirrored: bool) -> np.ndarray:
    """The crop (left, top, right, bottom in pixels) of an image resized to (3, size, size):
    bicubic, antialiased."""
    left, top, right, bottom = crop
    part = np.ascontiguousarray(image[top:bottom, left:right])  # torch would resize a part with gaps half as fast
    part = torch.from_numpy(part).permute(2, 0, 1)[None]
    view = F.interpolate(part, (size, size), mode="bicubic", antialias=True).reshape(3 * size, size).numpy()
    if mirrored:
        view = cv2.flip(view, 1)
    return view.reshape(3, size, size)


def adjust_brightness(pixels: np.ndarray, factor: float, out: np.ndarray | None = None) -> np.ndarray:
    """Every level times `factor`. Here and below `out` is the array that the result is written to,
    new ones cost more than the arithmetic; it may be the input."""
    return cv2.addWeighted(pixels, factor, pixels, 0, CUT_OFF, dst=out)


def adjust_contrast(pixels: np.ndarray, factor: float, out: np.ndarray | None = None) -> np.ndarray:
    """Distances from the mean grey times `factor`."""
    mean = int(cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return cv2.addWeighted(pixels, factor, pixels, 0, (1 - factor) * mean + CUT_OFF, dst=out)


def adjust_saturation(pixels: np.ndarray, factor: float, out: np.ndarray | None = None) -> np.ndarray:
    """Distances from the pixel's own grey times `factor`."""
    return cv2.addWeighted(pixels, factor, to_grey(pixels), 1 - factor, CUT_OFF, dst=out)


def adjust_hue(pixels: np.ndarray, shift: float, out: np.ndarray | None = None) -> np.ndarray:
    """Turn the hue by `shift` of a full circle (-0.5..0.5)."""
    turned = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    hue = cv2.LUT(cv2.extractChannel(turned, 0), HUE_255 + np.uint8(int(shift * 255) % 256))  # uint8 wraps round
    cv2.insertChannel(hue, turned, 0)
    return cv2.cvtColor(turned, cv2.COLOR_HSV2RGB_FULL, dst=out)


def to_grey(pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Luminance in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, dst=out)


def blur(pixels: np.ndarray, sigma: float, out: np.ndarray | None = None) -> np.ndarray:
    """A Gaussian of `sigma` pixels, cut off at three sigmas; beyond the border its pixels go on."""
    kernel = cv2.getGaussianKernel(2 * round(3 * sigma) + 1, sigma)
    return cv2.sepFilter2D(pixels, -1, kernel, kernel, dst=out, borderType=cv2.BORDER_REPLICATE)


def solarize(pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The bright half of the levels inverted."""
    return cv2.LUT(pixels, SOLARIZED, dst=out)


def apply(view: np.ndarray, colour: Colour) -> np.ndarray:
    """(3, S, S) uint8 -> the same with everything that was drawn for it."""
    if colour == NOTHING:
        return view
    pixels = cv2.merge(list(view))
    jitter(pixels, colour)
    if colour.sigma:
        pixels = blur(pixels, colour.sigma)
    if colour.solarize:
        solarize(pixels, pixels)
    planes = np.empty_like(view)
    cv2.split(pixels, list(planes))
    return planes


def jitter(pixels: np.ndarray, colour: Colour) -> None:
    """The jitter's operations in their order, then grey, in place."""
    for operation in colour.order:
        if operation == BRIGHTNESS:
            adjust_brightness(pixels, colour.brightness, pixels)
        elif operation == CONTRAST:
            adjust_contrast(pixels, colour.contrast, pixels)
        elif operation == SATURATION:
            adjust_saturation(pixels, colour.saturation, pixels)
        else:
            adjust_hue(pixels, colour.hue, pixels)
    if colour.grey:
        to_grey(pixels, pixels)
