"""pycocotools beside hotcoco on generated detections: `clove speed eval`.

Every metric must agree. 5,000 images and 80 classes are the size of COCO's validation set.
"""

import argparse
import contextlib
import io
import statistics
import time

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pretrain.common.errors import UserError
from transfer.evaluators import fast_coco
from transfer.records.provenance import hardware

WIDTH, HEIGHT = 640, 480  # pixels
OBJECTS, DETECTIONS = 7, 60  # an image: mean objects as in COCO, detections as a detector gives


def detections(images: int, iou_type: str, classes: int = 80, seed: int = 0) -> tuple[COCO, COCO]:
    """(ground truth, detections): boxes or masks (ellipses) of all sizes, some crowds, moved and
    mistaken ones."""
    rng = np.random.default_rng(seed)
    rows, found = [], []
    for image in range(images):
        objects = [(_box(rng), int(rng.integers(classes)) + 1) for _ in range(1 + rng.poisson(OBJECTS - 1))]
        for box, category in objects:
            area = float(box[2] * box[3])
            rows.append({"id": len(rows) + 1, "image_id": image, "category_id": category, "area": area,
                         "iscrowd": int(rng.random() < 0.02), "bbox": box.tolist(), **_shape(box, iou_type)})
        for _ in range(DETECTIONS):
            if rng.random() < 0.5:
                box, category = objects[rng.integers(len(objects))]
            else:
                box, category = _box(rng), int(rng.integers(classes)) + 1
            moved = np.clip(box + rng.normal(0, 0.1, 4) * box[[2, 3, 2, 3]], (0, 0, 2, 2), 600)
            found.append({"image_id": image, "category_id": category, "score": round(float(rng.random()), 3),
                          **_shape(moved, iou_type)})
    truth = COCO()
    truth.dataset = {"images": [{"id": image, "width": WIDTH, "height": HEIGHT} for image in range(images)],
                     "annotations": rows, "categories": [{"id": c + 1, "name": str(c)} for c in range(classes)]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        return truth, truth.loadRes(found)


def _box(rng: np.random.Generator) -> np.ndarray:
    """x, y, width, height in pixels."""
    width, height = np.exp(rng.uniform(np.log(8), np.log(300), 2))
    return np.array([rng.uniform(0, WIDTH - width), rng.uniform(0, HEIGHT - height), width, height])


def _shape(box: np.ndarray, iou_type: str) -> dict:
    """COCO's field of a box, or of the mask of the ellipse in it."""
    if iou_type == "bbox":
        return {"bbox": box.tolist()}
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x, y = box[0] + box[2] * (1 + np.cos(angles)) / 2, box[1] + box[3] * (1 + np.sin(angles)) / 2
    runs = mask_util.merge(mask_util.frPyObjects([np.stack([x, y], 1).ravel().tolist()], HEIGHT, WIDTH))
    return {"segmentation": {"size": runs["size"], "counts": runs["counts"].decode()}}


def timed(kind: type[COCOeval], truth: COCO, found: COCO, iou_type: str) -> tuple[float, np.ndarray]:
    """(seconds, metrics) of one evaluation; the check of `CheckedCOCOeval` is not part of it."""
    evaluation = kind(truth, found, iou_type)
    evaluation.check = lambda: None
    with contextlib.redirect_stdout(io.StringIO()):
        started = time.perf_counter()
        evaluation.evaluate()
        evaluation.accumulate()
        seconds = time.perf_counter() - started
        evaluation.summarize()
    return seconds, evaluation.stats


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("clove speed eval", description=__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3,
                        help="timed evaluations of each side, alternated")
    options = parser.parse_args(argv)
    if min(options.images, options.classes, options.rounds) < 1:
        raise UserError("expected --images, --classes and --rounds of at least 1, found less")
    fast_coco.require()
    machine = hardware()
    print(f"{machine['cpu']}, {machine['cores']} cores; {options.images} images, "
          f"{options.images * DETECTIONS} detections, {options.classes} classes")
    for iou_type, word in (("bbox", "boxes"), ("segm", "masks")):
        truth, found = detections(options.images, iou_type, options.classes)
        ratios, plain_seconds, fast_seconds = [], [], []
        for _ in range(options.rounds):
            plain, expected = timed(COCOeval, truth, found, iou_type)
            fast, metrics = timed(fast_coco.CheckedCOCOeval, truth, found, iou_type)
            if np.abs(expected - metrics).max() > fast_coco.TOLERANCE:
                raise UserError(f"hotcoco differs from pycocotools on {word}: {metrics}, expected "
                                f"{expected}")
            plain_seconds.append(plain)
            fast_seconds.append(fast)
            ratios.append(plain / fast)
        print(f"{word}: pycocotools {statistics.median(plain_seconds):.2f} s, hotcoco (with "
              f"handing the data over) {statistics.median(fast_seconds):.2f} s: "
              f"{statistics.median(ratios):.1f} times; all metrics agree")
    return 0

