"""Masks as COCO writes them: polygons along the pixel edges, run lengths, boxes and areas.

`polygons` is exact: pycocotools draws its result as the very mask it came from. COCO polygons
cannot have holes, so a region with a hole is cut in two through the hole.
"""

import cv2
import numpy as np
from pycocotools import mask as coco_mask


def polygons(mask: np.ndarray, smallest: int = 1) -> list[list[float]]:
    """Flat [x, y, x, y, ...] outlines of the regions of `mask` (H, W) that have at least
    `smallest` pixels."""
    outlines = []
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    for label in range(1, count):
        region = labels == label
        if region.sum() < smallest:
            continue
        hole = _hole_column(region)
        if hole is None:
            outlines.append(_outline(region))
            continue
        left, right = region.copy(), region.copy()
        left[:, hole:] = False
        right[:, :hole] = False
        outlines += polygons(left) + polygons(right)
    return outlines


def _hole_column(region: np.ndarray) -> int | None:
    """A column through the middle of one hole of the region, None when it has no hole."""
    outside = np.pad(~region, 1, constant_values=True).astype(np.uint8)
    count, labels = cv2.connectedComponents(outside, connectivity=4)
    labels = labels[1:-1, 1:-1]
    for label in range(2, count):  # 1 holds the corner, which is always outside
        columns = np.nonzero((labels == label).any(axis=0))[0]
        return int(columns[len(columns) // 2])
    return None


def _outline(region: np.ndarray) -> list[float]:
    """The corners of a region without holes, walked along the pixel edges with the region on the
    right."""
    padded = np.pad(region, 1)
    right, down = (1, 0), (0, 1)
    left, up = (-1, 0), (0, -1)
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for direction, (dy, dx), (oy, ox) in (
        (right, (-1, 0), (0, 0)), (down, (0, 1), (0, 1)), (left, (1, 0), (1, 1)), (up, (0, -1), (1, 0)),
    ):
        neighbour = np.roll(padded, (-dy, -dx), axis=(0, 1))
        for y, x in zip(*np.nonzero(padded & ~neighbour), strict=True):
            steps.setdefault((int(x) - 1 + ox, int(y) - 1 + oy), []).append(direction)
    start = min(steps)
    corners, place, heading = [], start, (0, 0)
    while steps[place]:
        choices = steps[place]
        # Where two pixels touch by a corner, turn right: that stays with the same pixel.
        turned_right = (-heading[1], heading[0])
        direction = turned_right if len(choices) > 1 and turned_right in choices else choices[0]
        choices.remove(direction)
        if direction != heading:
            corners += [float(place[0]), float(place[1])]
        place, heading = (place[0] + direction[0], place[1] + direction[1]), direction
    return corners


def run_lengths(mask: np.ndarray) -> dict:
    """Uncompressed COCO run lengths of `mask` (H, W): column by column, the first run is
    background."""
    flat = np.asarray(mask, bool).ravel(order="F")
    edges = np.nonzero(np.diff(flat))[0] + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    if flat[0]:
        runs.insert(0, 0)
    return {"counts": runs, "size": [int(mask.shape[0]), int(mask.shape[1])]}


def annotation(mask: np.ndarray, crowd: bool = False, smallest: int = 8) -> dict:
    """The COCO fields that follow from a mask (H, W): segmentation, bbox (x, y, width, height),
    area, iscrowd.

    Box and area are those of the segmentation itself; fragments under `smallest` pixels are left
    out of it.
    """
    height, width = mask.shape
    segmentation = run_lengths(mask) if crowd else polygons(mask, smallest)
    coded = coco_mask.frPyObjects(segmentation, height, width)
    if not crowd:
        coded = coco_mask.merge(coded)
    return {
        "segmentation": segmentation,
        "bbox": coco_mask.toBbox(coded).tolist(),
        "area": float(coco_mask.area(coded)),
        "iscrowd": int(crowd),
    }
