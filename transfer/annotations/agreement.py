"""Whether boxes, masks, keypoints and images of one annotation file agree with each other.

Annotation tools write boxes as shares of the image, masks of another image, run lengths row by row.
Nothing fails then: ground truth evaluated against itself does not reach 100 AP, and the training
learns the wrong place. Boxes are (x, y, width, height), extents (x0, y0, x1, y1), both in pixels of
the image; so are keypoints.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pycocotools import mask as run_lengths

from pretrain.common.errors import refuse
from transfer.annotations.plain_coco import own_id

APART = 2.0  # pixels that rounding explains
AREAS_APART = 0.25  # of the mask's area: polygons are filled in more than one way
FAR = 1_000_000  # pixels: pycocotools fills all the way to a point, and memory with it
NAMED = 3

# What can be wrong, and what it does to AP. The order is that of the checks.
EFFECTS = {
    "a box below one pixel": "it is left out of the training, and nobody can find it: AP cannot "
                             "reach 100",
    "a mask outside of its image": "what lies outside is cut off, in training and evaluation",
    "a box that is not the extent of its mask": "box AP and mask AP are of different places",
    "an 'area' that is not that of its mask": "it counts as small, medium or large by the wrong "
                                              "size; AP is the same",
    "a labelled keypoint outside of its image": "it is learned and evaluated there",
    "all of several labelled keypoints in the first pixel": "they are learned and evaluated there",
}
TINY, OUTSIDE, NOT_ITS_BOX, NOT_ITS_AREA, POINT_OUTSIDE, POINTS_AT_ZERO = EFFECTS
HARMLESS = NOT_ITS_AREA  # even in all objects: many tools write the area of the box


@dataclass
class Agreement:
    """Of the objects that are not crowds: how many there are, and the ids of those that disagree,
    by what is wrong."""

    objects: int = 0
    wrong: dict[str, list] = field(default_factory=dict)
    shares: int = 0  # objects whose coordinates all lie from 0 to 1
    transposed: int = 0  # masks that fit their boxes when their run lengths are read row by row
    broken: str | None = None  # the first mask that cannot be read at all

    def check(self, path: Path) -> None:
        """Raise where the file cannot be used: a mask that cannot be read, or most objects wrong in
        the same way."""
        likely = ""
        if 2 * self.shares > self.objects:
            likely = ". They look like shares of width and height, from 0 to 1: multiply them"
        elif 2 * self.transposed > self.objects:
            likely = (". The run lengths look row-major: COCO's go down the columns "
                      "(np.asfortranarray before encoding)")
        refuse((self.broken, f"{path}: {self.broken}"))
        for what, ids in self.wrong.items():
            refuse((what != HARMLESS and 2 * len(ids) > self.objects,
                    f"{path}: {len(ids)} of {self.objects} objects have {what} (the first is "
                    f"annotation {ids[0]}): expected boxes, masks and keypoints in pixels of the "
                    f"image{likely}"))

    def notes(self) -> list[str]:
        """One line for each thing that is wrong with a few objects."""
        lines = []
        for what, ids in self.wrong.items():
            named = ", ".join(map(str, ids[:NAMED])) + (", ..." if len(ids) > NAMED else "")
            lines.append(f"{len(ids)} of {self.objects} objects have {what} (annotation {named}): "
                         f"{EFFECTS[what]}")
        return lines


def compare(rows: Iterable[dict], images: dict[int, dict], decode: bool, keypoints: bool = False) -> Agreement:
    """Compare the annotations `rows` with their own parts and with `images` (by id: width and
    height).

    decode: fill every mask, as the evaluator does; else only the extents of polygons are computed.
    """
    found = Agreement()
    for row in rows:
        if row.get("iscrowd") and not decode and _stays_closed(row.get("segmentation")):
            continue
        image = images[row["image_id"]]
        try:
            mask = read_mask(row.get("segmentation"), image, decode)
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            found.broken = found.broken or f"annotation {own_id(row)} has a mask that cannot be read ({error})"
            continue
        if row.get("iscrowd"):
            continue
        found.objects += 1
        wrong = list(_disagreements(row, image, mask, keypoints))
        for what in wrong:
            found.wrong.setdefault(what, []).append(own_id(row))
        x, y, width, height = row["bbox"]
        tiny_mask = mask is not None and 0 < max(mask.extent) <= 1
        found.shares += POINTS_AT_ZERO in wrong or tiny_mask or max(x + width, y + height) <= 1
        found.transposed += NOT_ITS_BOX in wrong and mask.rle is not None and _fits_transposed(mask.rle, row["bbox"])
    return found


def _stays_closed(mask: object) -> bool:
    """Whether a training never reads this mask of a crowd: of these detectron2 opens run lengths
    that are lists."""
    if isinstance(mask, dict):
        return isinstance(mask.get("counts"), str)
    return not mask or (isinstance(mask, list) and all(isinstance(part, list) for part in mask))


def _disagreements(row: dict, image: dict, mask: "Mask | None", keypoints: bool) -> Iterator[str]:
    if min(row["bbox"][2:]) < 1:
        yield TINY
    if mask:
        x0, y0, x1, y1 = mask.extent
        if min(x0, y0) < -APART or x1 > image["width"] + APART or y1 > image["height"] + APART:
            yield OUTSIDE
        if not _alike(mask.extent, row["bbox"]):
            yield NOT_ITS_BOX
        if mask.area is not None and abs(mask.area - row["area"]) > AREAS_APART * max(mask.area, row["area"]) + APART:
            yield NOT_ITS_AREA
    if keypoints:
        points = np.reshape(row["keypoints"], (-1, 3))
        labelled = points[points[:, 2] > 0, :2]
        if (labelled < -APART).any() or (labelled > (image["width"] + APART, image["height"] + APART)).any():
            yield POINT_OUTSIDE
        if len(labelled) > 1 and labelled.max() <= 1:
            yield POINTS_AT_ZERO


def _alike(extent: tuple[float, float, float, float], box: list[float]) -> bool:
    x, y, width, height = box
    return all(abs(a - b) <= APART for a, b in zip(extent, (x, y, x + width, y + height), strict=True))


@dataclass(frozen=True)
class Mask:
    """One object's mask: its extent, its area in pixels if it was filled, its compressed run
    lengths if it has some."""

    extent: tuple[float, float, float, float]
    area: float | None = None
    rle: dict | None = None


def read_mask(mask: list | dict | None, image: dict, decode: bool) -> Mask | None:
    """Raises `ValueError`, `TypeError`, `LookupError` or `OverflowError` for one that the evaluator
    could not read."""
    height, width = image["height"], image["width"]
    if not mask:
        return None
    if isinstance(mask, list):
        points = [number for part in mask if len(part) >= 6 and len(part) % 2 == 0 for number in part]
        farthest = max(points, key=abs)
        refuse((not abs(farthest) <= FAR or not math.isfinite(sum(points)),
                f"it reaches to {farthest:g}, in an image of {width} x {height} pixels"))
        area = None
        if decode:
            area = float(run_lengths.area(run_lengths.merge(run_lengths.frPyObjects(mask, height, width))))
        xs, ys = points[::2], points[1::2]
        return Mask((min(xs), min(ys), max(xs), max(ys)), area)
    refuse((mask["size"] != [height, width],
            f"its size is {mask['size']!r:.40}: expected that of its image, [{height}, {width}]"))
    runs = mask["counts"] if isinstance(mask["counts"], list) else runs_of(mask["counts"])
    refuse((sum(runs) != height * width,
            f"its run lengths add up to {sum(runs)}: expected {height * width}, height times width"))
    rle = run_lengths.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    x, y, w, h = run_lengths.toBbox(rle)
    return Mask((x, y, x + w, y + h), float(run_lengths.area(rle)), rle)


def runs_of(text: str) -> list[int]:
    """The runs in COCO's compressed text: five bits and a flag a letter, from the third on
    differences to the run before the last (pycocotools' maskApi.c, which reads any text without a
    check)."""
    runs: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{letter!r} is not a letter of compressed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    refuse((shift or min(runs, default=0) < 0, "compressed run lengths that are cut off or "
                                               "negative"))
    return runs


def _fits_transposed(rle: dict, box: list[float]) -> bool:
    """Whether the run lengths, read row by row instead of column by column, have `box` as their
    extent."""
    height, width = rle["size"]
    y, x, h, w = run_lengths.toBbox({"size": [width, height], "counts": rle["counts"]})
    return _alike((x, y, x + w, y + h), box)
