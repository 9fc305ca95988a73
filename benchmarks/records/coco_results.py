"""COCO result files (lists of detections), checked and evaluated by pycocotools against an annotation file."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks.records.results import Check
from pretrain.common.errors import UserError, refuse
from pretrain.common.fields import is_number
from transfer.tasks import TASKS, Task

OFFICIAL = "pycocotools"  # the evaluator of the tasks whose detections a COCO result file can hold
DETECTION: dict[str, Check] = {
    "image_id": ("a number or a text", lambda v: isinstance(v, str) or is_number(v)),
    "category_id": ("a number or a text", lambda v: isinstance(v, str) or is_number(v)),
    "score": ("a finite number", lambda v: is_number(v)),
    "bbox": ("four finite numbers", lambda v: _all_finite(v, 4)),
    "segmentation": ("run lengths or polygons of finite numbers", lambda v: _is_mask(v)),
    "keypoints": ("finite numbers, three a point", lambda v: _all_finite(v) and v != [] and len(v) % 3 == 0),
}


def tasks() -> dict[str, Task]:
    """The tasks whose detections a COCO result file can hold, by name."""
    return {name: task for name, task in TASKS.items() if task.official == OFFICIAL}


def iou_types(task: Task) -> tuple[str, ...]:
    """What of a task pycocotools evaluates (bbox, segm, keypoints): the groups of its columns."""
    return tuple(dict.fromkeys(column.group for column in task.columns))


def held_as(iou_type: str) -> str:
    """The key of a detection that pycocotools evaluates for an IoU type."""
    return "segmentation" if iou_type == "segm" else iou_type


def evaluate(
    path: Path, annotations: Path, task: Task, crowds_as_objects: bool = False
) -> dict[str, float | None]:
    """All metrics of a COCO result file by pycocotools, in percent; UserError when the two files do
    not fit. `crowds_as_objects`: as in `Where`.

    Boxes or masks that the file does not hold have none: pycocotools would make up the one from the
    other.
    """
    from transfer.annotations.plain_coco import evaluation_of, read_truth

    refuse((task.official != OFFICIAL,
            f"a COCO result file cannot be evaluated for task {task.name}: expected one of "
            f"{', '.join(tasks())}"))
    detections = json.loads(path.read_bytes())
    wanted = [held_as(iou_type) for iou_type in iou_types(task)]
    held = [key for key in wanted if detections and isinstance(detections[0], dict) and key in detections[0]]
    if problem := _problem(detections, wanted, held):
        raise UserError(f"{path}: {problem}")
    metrics: dict[str, float | None] = {}
    with redirect_stdout(io.StringIO()):
        try:
            truth, detections = read_truth(annotations, detections, crowds_as_objects)
            detected = truth.loadRes(detections)
            for iou_type in iou_types(task):
                if held_as(iou_type) not in held:
                    continue
                evaluation = evaluation_of(truth, detected, iou_type)
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
                # APs, APm, APl; first is all.
                sizes = [f"AP{size[0]}" for size in evaluation.params.areaRngLbl[1:]]
                for name, value in zip(["AP", "AP50", "AP75", *sizes], evaluation.stats, strict=False):
                    # -1: not defined.
                    metrics[f"{iou_type}/{name}"] = 100 * float(value) if value >= 0 else None
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
            raise UserError(f"{path} does not fit {annotations} ({type(error).__name__}: {error}): expected detections "
                            "of its images, each with image_id, category_id, score and bbox, segmentation or "
                            "keypoints") from None
    return metrics


def _problem(detections: list, wanted: list[str], held: list[str]) -> str:
    """What is wrong with the detections, of which the first holds `held` of `wanted`; empty:
    nothing."""
    keys = " or ".join(wanted)
    if not detections:
        return f"expected a list with image_id, category_id, score and {keys} of each detection, found none"
    if not held:
        return f"detection 0 has no {keys}: expected the same of all detections"
    for number, found in enumerate(detections):
        if wrong := _wrong(found, wanted, held):
            image = ""
            if isinstance(found, dict) and "image_id" in found:
                image = f" of image {found['image_id']}"
            return f"detection {number}{image}: {wrong}; fix or remove it"
    return ""


def _wrong(found: Any, wanted: list[str], held: list[str]) -> str:
    if not isinstance(found, dict):
        return f"expected a mapping, found {found!r:.60}"
    for key in wanted:
        if (key in found) != (key in held):
            return f"it has {'' if key in found else 'no '}{key}, the first has {', '.join(held)} alone"
    for key, (expected, holds) in DETECTION.items():
        if key in found and not holds(found[key]):
            return f"expected {expected} as {key}, found {found[key]!r:.60}"
    missing = [key for key in ("image_id", "category_id", "score") if key not in found]
    if missing:
        return f"expected {', '.join(missing)}, found none"
    return ""


def _all_finite(value: Any, length: int | None = None) -> bool:
    return isinstance(value, list) and length in (None, len(value)) and all(map(is_number, value))


def _is_mask(value: Any) -> bool:
    if isinstance(value, dict):
        return (_all_finite(value.get("size"), 2) and all(isinstance(side, int) and side > 0 for side in value["size"])
                and (isinstance(value.get("counts"), str) or _all_finite(value.get("counts"))))
    return isinstance(value, list) and value != [] and all(_all_finite(polygon) for polygon in value)
