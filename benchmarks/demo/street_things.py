"""The eight moving things of a street, each a list of parts from back to front, seen from the side.

Lengths are picture pixels at scale 1. `draw` places what belongs together (a rider sits on what
they ride).
"""

import numpy as np

from benchmarks.demo import painting
from benchmarks.demo.painting import Outline, Texture, dimmed, ellipse, limb, plain, rectangle, shifted

Part = tuple[Outline, Texture]

WIDTHS = {"person": 18, "car": 44, "truck": 54, "bus": 60, "train": 84, "motorcycle": 36, "bicycle": 36}
HEIGHTS = {"person": 40, "car": 20, "truck": 31, "bus": 31, "train": 29, "motorcycle": 40, "bicycle": 40}

RUBBER, STEEL, GLASS = plain((28, 28, 32)), plain((150, 152, 158)), plain((150, 190, 215))
SKINS = [(240, 200, 168), (205, 150, 112), (150, 100, 70), (105, 70, 50)]


def draw(
    rng: np.random.Generator, unit: tuple[str, ...], x: float, bottom: float, scale: float
) -> list[tuple[str, list[Part]]]:
    """(label, parts) of each thing in `unit`, its middle at `x` and its lowest point at `bottom`,
    in picture pixels."""
    mirror = -1 if rng.random() < 0.5 else 1

    def move(outline: Outline) -> Outline:
        return shifted(outline * np.array([mirror * scale, scale]), x, bottom)

    makers = {"person": _person, "car": _car, "truck": _truck, "bus": _bus, "train": _train, "motorcycle": _motorcycle,
              "bicycle": _bicycle}
    things = [(unit[0], makers[unit[0]](rng))]
    if len(unit) > 1:
        things.append((unit[1], _rider(rng, unit[0])))
    placed = []
    for label, parts in things:
        placed.append((label, [(move(outline), texture) for outline, texture in parts]))
    return placed


def _wheel(x: float, radius: float) -> list[Part]:
    return [(ellipse(x, -radius, radius), RUBBER), (ellipse(x, -radius, 0.5 * radius), STEEL)]


def _car(rng: np.random.Generator) -> list[Part]:
    paint = painting.hue(rng, rng.choice((0, 210, 220, 45)), 12, 0.75, 0.75)
    body = np.array(
        [(-22, -4), (-22, -9), (-19, -11), (-13, -12), (-8, -19), (7, -19), (14, -12), (21, -10), (22, -4)], float)
    window = np.array([(-11, -12), (-7, -17.5), (6, -17.5), (11, -12)], float)
    return [
        (body, plain(paint)), (window, GLASS), (rectangle(-1, -17.5, 0.5, -12), plain(paint)),
        (rectangle(19, -9.5, 22, -7), plain((255, 240, 170))), *_wheel(-13, 5), *_wheel(13, 5),
    ]


def _truck(rng: np.random.Generator) -> list[Part]:
    load = painting.hue(rng, 40, 20, 0.15, 0.9)
    stripes = painting.striped(load, dimmed(load, 0.85), 5, 0)
    cab = painting.hue(rng, rng.choice((25, 140, 350)), 10, 0.8, 0.75)
    cabin = np.array([(12, -4), (12, -24), (20, -24), (26, -14), (27, -4)], float)
    window = np.array([(15, -14), (15, -22), (19.5, -22), (23.5, -14)], float)
    return [
        (rectangle(-27, -7, 13, -4), plain((60, 60, 64))), (rectangle(-27, -31, 11, -7), stripes), (cabin, plain(cab)),
        (window, GLASS), *_wheel(-19, 5.5), *_wheel(-7, 5.5), *_wheel(19, 5.5),
    ]


def _bus(rng: np.random.Generator) -> list[Part]:
    paint = painting.hue(rng, rng.choice((48, 0)), 6, 0.85, 0.9)
    parts = [(rectangle(-30, -30, 30, -4), plain(paint)), (rectangle(-30, -10, 30, -8), plain((245, 245, 245)))]
    parts += [(rectangle(left, -26, left + 8, -15), plain((70, 95, 115))) for left in (-28, -18, -8, 2)]
    parts += [(rectangle(14, -26, 19, -5), plain((90, 110, 125))), (rectangle(24, -26, 30, -13), GLASS)]
    return [*parts, *_wheel(-18, 5), *_wheel(10, 5)]


def _train(rng: np.random.Generator) -> list[Part]:
    paint = painting.hue(rng, rng.choice((150, 165)), 8, 0.6, 0.55)
    front = np.array([(-42, -2), (-42, -26), (34, -26), (39, -20), (42, -11), (42, -2)], float)
    parts = [(front, plain(paint)), (rectangle(-42, -10, 42, -7), plain((240, 240, 235)))]
    parts += [(rectangle(left, -22, left + 9, -14), plain((45, 60, 75))) for left in (-38, -26, -14, -2, 10)]
    nose = np.array([(30, -13), (30, -22), (34, -22), (38.5, -13)], float)
    parts += [(nose, GLASS), (rectangle(-8, -29, 6, -26), plain((70, 70, 75)))]
    return [*parts, (rectangle(-40, -4, 41, 0), plain((50, 50, 55)))]


def _bicycle(rng: np.random.Generator) -> list[Part]:
    frame = plain(painting.hue(rng, rng.uniform(0, 360), 0, 0.8, 0.7))
    pale = plain((165, 165, 160))
    parts: list[Part] = []
    for x in (-10.5, 10.5):
        parts += [(ellipse(x, -7.5, 7.5), RUBBER), (ellipse(x, -7.5, 5.7), pale), (ellipse(x, -7.5, 1.5), STEEL)]
    pedal, saddle, bar = np.array([-1.0, -7.5]), np.array([-4.0, -17.0]), np.array([7.5, -18.0])
    back, front = np.array([-10.5, -7.5]), np.array([10.5, -7.5])
    top, neck = shifted(saddle, 0, 2), shifted(bar, 0, 2)
    tubes = (back, pedal), (pedal, saddle), (back, top), (top, neck), (pedal, bar), (bar, front)
    parts += [(limb(start, end, 1.1, 1.1), frame) for start, end in tubes]
    parts.append((limb(shifted(saddle, -2.5, 0), shifted(saddle, 2, 0), 1.4, 1.2), RUBBER))
    return [*parts, (limb(bar, shifted(bar, 3, -1), 1.2, 1.2), RUBBER)]


def _motorcycle(rng: np.random.Generator) -> list[Part]:
    paint = plain(painting.hue(rng, rng.choice((0, 25, 260)), 12, 0.85, 0.7))
    tank = np.array([(-14, -15), (-4, -13), (1, -17), (8, -17), (10, -12), (6, -7), (-6, -6), (-9, -11)], float)
    parts = [*_wheel(-11.5, 6.5), *_wheel(11.5, 6.5)]
    parts += [(limb(np.array([7.0, -17.0]), np.array([11.5, -6.5]), 1.4, 1.2), STEEL), (tank, paint)]
    parts += [(limb(np.array([-13.0, -15.5]), np.array([-3.0, -14.5]), 1.7, 1.7), RUBBER)]
    parts += [(ellipse(0, -6.5, 4.5), plain((95, 95, 100))), (ellipse(10, -16, 2.2), plain((255, 240, 170)))]
    return [*parts, (limb(np.array([7.0, -17.0]), np.array([5.0, -20.5]), 1.2, 1.2), STEEL)]


def _clothes(rng: np.random.Generator) -> tuple[Texture, Texture, Texture, Texture]:
    """Skin, hair, top and trousers."""
    skin = SKINS[int(rng.integers(4))]
    shirt = painting.hue(rng, rng.uniform(0, 360), 0, 0.75, 0.8)
    return plain(skin), plain(dimmed(skin, 0.4)), plain(shirt), plain(painting.hue(rng, 225, 30, 0.4, 0.3))


def _person(rng: np.random.Generator) -> list[Part]:
    skin, hair, top, trousers = _clothes(rng)
    step, swing = rng.uniform(2, 6), rng.uniform(2, 5)
    hip, neck = np.array([0.0, -19.0]), np.array([0.0, -31.0])
    parts = [(limb(neck, np.array([-swing - 1, -19.0]), 2.0, 1.7), top)]
    parts += [
        (limb(shifted(hip, side, 0), np.array([side * (1 + step / 2), -1.8]), 2.9, 1.9), trousers)
        for side in (-1, 1)
    ]
    parts += [(limb(neck, hip, 4.3, 3.9), top), (limb(neck, np.array([swing + 1, -20.0]), 2.0, 1.7), top)]
    return [*parts, (ellipse(0, -36, 4), skin), (ellipse(-0.6, -38, 3.6, 2.3), hair)]


def _rider(rng: np.random.Generator, vehicle: str) -> list[Part]:
    skin, hair, top, trousers = _clothes(rng)
    if vehicle == "motorcycle":
        hair = plain(painting.hue(rng, rng.uniform(0, 360), 0, 0.8, 0.9))  # a helmet
    seat = np.array([-4.0, -18.5]) if vehicle == "bicycle" else np.array([-5.0, -17.5])
    knee, foot, hand = np.array([4.0, -14.5]), np.array([0.5, -6.0]), np.array([8.0, -20.5])
    neck = shifted(seat, 4.5, -11.5)
    head = shifted(neck, 1.5, -6.0)
    parts = [(limb(seat, knee, 3.3, 2.5), trousers), (limb(knee, foot, 2.4, 1.9), trousers)]
    parts += [(limb(shifted(seat, 0, -1), neck, 3.8, 4.0), top), (limb(neck, hand, 2.0, 1.7), top)]
    return [*parts, (ellipse(*head, 3.9), skin), (ellipse(head[0] - 0.4, head[1] - 1.4, 4.2, 3.2), hair)]
