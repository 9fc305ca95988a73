"""Colour jitter and grey of a view in one compiled pass (numba, optional): what `augment` does with OpenCV, faster.

OpenCV goes through the pixels once an operation, and several times more for a hue. Here a row's three channels stay in
the processor's nearest memory as float32 while every operation is applied, each rounded to whole levels as OpenCV
rounds; the whole numbers below all fit into float32 exactly. Brightness, contrast, saturation and grey are equal to
OpenCV's; a turned hue differs by one level for about five colours in a million
(tests/pretrain/test_fused_jitter.py goes through them).
"""

import numpy as np
from numba import njit

from pretrain import augment

F = np.float32
ZERO, ONE, FOUR, SIX, WHITE, LEVELS = F(0), F(1), F(4), F(6), F(255), F(256)
CUT_OFF = F(augment.CUT_OFF)
RED, GREEN, BLUE, HALF, SCALE = F(9798), F(19235), F(3735), F(16384), F(1 / 32768)  # luminance in 15 bits
# OpenCV's way to HSV divides by a table of 12-bit reciprocals.
SHARE_BITS, HUE_BITS, HALF_BIT, BIT = F(255 << 12), F(256 << 12), F(1 << 11), F(1 / (1 << 12))
TO_SECTOR, TO_SHARE = F(6 / 255), F(1 / 255)
# OpenCV multiplies and adds in one rounding, too: "contract". error_model: no check of each division.
compiled = njit(cache=True, fastmath={"contract", "nnan", "ninf", "nsz"}, error_model="numpy")


@compiled
def _level(value):
    return min(max(np.rint(value), ZERO), WHITE)


@compiled
def _grey(red, green, blue):
    return np.floor((red * RED + green * GREEN + blue * BLUE + HALF) * SCALE)


@compiled
def _scale(row, factor, offset):
    for x in range(row.size):
        row[x] = _level(row[x] * factor + offset)


@compiled
def _saturate(red, green, blue, factor):
    rest = ONE - factor
    for x in range(red.size):
        grey = _grey(red[x], green[x], blue[x]) * rest + CUT_OFF
        red[x] = _level(red[x] * factor + grey)
        green[x] = _level(green[x] * factor + grey)
        blue[x] = _level(blue[x] * factor + grey)


@compiled
def _channel(sector, value, chroma):
    """One channel round the circle of six sectors: full for two, a ramp down, without the chroma for two, a ramp up."""
    sector = sector - SIX if sector >= SIX else sector
    return _level(value - chroma * max(ZERO, min(min(sector, FOUR - sector), ONE)))


@compiled
def _turn(red, green, blue, steps):
    """To 8-bit hue and saturation, the hue turned by `steps` of 256, and back."""
    for x in range(red.size):
        r, g, b = red[x], green[x], blue[x]
        value = max(r, max(g, b))
        span = value - min(r, min(g, b))
        twice = span + span
        hue = g - b if value == r else (b - r + twice if value == g else r - g + twice + twice)
        hue = np.floor((hue * np.rint(HUE_BITS / (SIX * max(span, ONE))) + HALF_BIT) * BIT)
        hue = min(hue + LEVELS if hue < ZERO else hue, WHITE)
        hue = max(hue - ONE, ZERO) + steps  # augment.HUE_255
        sector = (hue - LEVELS if hue >= LEVELS else hue) * TO_SECTOR
        share = np.floor((span * np.rint(SHARE_BITS / max(value, ONE)) + HALF_BIT) * BIT) * TO_SHARE
        chroma = value * share
        red[x] = _channel(sector + FOUR + ONE, value, chroma)
        green[x] = _channel(sector + FOUR - ONE, value, chroma)
        blue[x] = _channel(sector + ONE, value, chroma)


@compiled
def _read(row, levels):
    for x in range(row.size):
        row[x] = levels[x]


@compiled
def _write(row, levels):
    for x in range(row.size):
        levels[x] = np.uint8(np.int32(row[x]))


@njit(cache=True, fastmath={"contract", "reassoc"})  # whole numbers: their sum is the same in any order
def _to_grey(red, green, blue, grey):
    total = ZERO
    for x in range(red.size):
        grey[x] = _grey(red[x], green[x], blue[x])
        total += grey[x]
    return total


@compiled
def _rows(source, target, order, brightness, contrast, offset, saturation, steps, to_grey):
    """Apply the operations of `order` to every row of (3, H, W) uint8; returns the sum of the result's greys."""
    height, width = source.shape[1:]
    red, green, blue, grey = np.empty(width, F), np.empty(width, F), np.empty(width, F), np.empty(width, F)
    total = 0.0
    for y in range(height):
        _read(red, source[0, y])
        _read(green, source[1, y])
        _read(blue, source[2, y])
        for operation in order:
            if operation == augment.BRIGHTNESS:
                _scale(red, brightness, CUT_OFF)
                _scale(green, brightness, CUT_OFF)
                _scale(blue, brightness, CUT_OFF)
            elif operation == augment.CONTRAST:
                _scale(red, contrast, offset)
                _scale(green, contrast, offset)
                _scale(blue, contrast, offset)
            elif operation == augment.SATURATION:
                _saturate(red, green, blue, saturation)
            else:
                _turn(red, green, blue, steps)
        total += _to_grey(red, green, blue, grey)
        _write(grey if to_grey else red, target[0, y])
        _write(grey if to_grey else green, target[1, y])
        _write(grey if to_grey else blue, target[2, y])
    return total


def jitter(view: np.ndarray, colour: "augment.Colour", target: np.ndarray) -> None:
    """Jitter and grey of `colour` on (3, H, W) uint8, written to `target`, which may be the view itself."""
    contrast = F(colour.contrast)
    numbers = F(colour.brightness), contrast, F(colour.saturation), F(int(colour.hue * 255) % 256)
    if augment.CONTRAST not in colour.order:
        _rows(view, target, np.array(colour.order, np.int64), numbers[0], contrast, ZERO, *numbers[2:], colour.grey)
        return
    at = colour.order.index(augment.CONTRAST)  # needs the mean of what came before it
    greys = _rows(view, target, np.array(colour.order[:at], np.int64), numbers[0], contrast, ZERO, *numbers[2:], False)
    mean = int(greys / view[0].size + 0.5)
    offset = F((1 - colour.contrast) * mean + augment.CUT_OFF)
    _rows(target, target, np.array(colour.order[at:], np.int64), numbers[0], contrast, offset, *numbers[2:],
          colour.grey)
