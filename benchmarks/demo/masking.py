"""Masks as COCO writes them: polygons along the pixel edges, run lengths, boxes and areas.

`polygons` is exact: pycocotools draws its result as the very mask it came from. COCO polygons
cannot have holes, so a region with a hole is cut in two through the hole.
"""

import cv2
import numpy as np
import shapely
from pycocotools import mask as coco_mask


def polygons(mask: np.ndarray, smallest: int = 1) -> list[list[float]]:
    """Flat [x, y, x, y, ...] outlines of the regions of `mask` (H, W) that have at least
    `smallest` pixels: along the pixel edges, with the region on the right."""
    outlines = []
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    for label in range(1, count):
        region = labels == label
        if region.sum() < smallest:
            continue
        rows, columns = np.nonzero(region)
        shape = shapely.coverage_union_all(shapely.box(columns, rows, columns + 1, rows + 1))
        if shape.interiors:
            left, _, right, _ = shape.interiors[0].bounds
            beside = np.arange(region.shape[1]) < (left + right) // 2
            outlines += polygons(region & beside) + polygons(region & ~beside)
        else:
            corners = shapely.get_coordinates(shapely.normalize(shapely.simplify(shape, 0)))
            outlines.append(corners[:0:-1].ravel().tolist())
    return outlines


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
