"""Figures made elsewhere: rows of their own, always marked, never averaged with ours.

Sources: the metrics.json that detectron2's trainer writes, and COCO result files, which pycocotools evaluates here
against an annotation file. Each becomes one file in results/imported/, with the hash of what it was read from.
"""

import hashlib
import io
import json
import math
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.paper_tables import TABLES
from benchmarks.results import (
    EPOCHS,
    MAPPING,
    MOMENT,
    PERCENT,
    SHA256,
    TEXT,
    Check,
    canonical,
    check_fields,
    digest,
    parse_sealed,
    read_sealed,
)
from pretrain import __version__
from pretrain.atomic import sha256_file, write_text
from pretrain.errors import UserError

SCHEMA = 1
# Task -> its table and, for each column, where detectron2's metrics.json has it.
SOURCES: dict[str, tuple[str, dict[str, str]]] = {
    "coco": ("coco_detection_segmentation", {
        f"{metric}_{short}": f"{group}/{metric}" for group, short in (("bbox", "bb"), ("segm", "mb"))
        for metric in ("AP", "AP50", "AP75")}),
    "keypoints": ("coco_keypoints", {f"{metric}_kp": f"keypoints/{metric}" for metric in ("AP", "AP50", "AP75")}),
    "cityscapes": ("cityscapes_instance_segmentation", {"AP": "segm/AP", "AP50": "segm/AP50"}),
}
TASK = {table: task for task, (table, _) in SOURCES.items()}
FIELDS: dict[str, Check] = {
    "schema": (f"{SCHEMA}", lambda v: v == SCHEMA and not isinstance(v, bool)),
    "kind": ("imported", lambda v: v == "imported"),
    "table": ("one of " + ", ".join(TASK), lambda v: isinstance(v, str) and v in TASK),
    "method": TEXT,
    "epochs": EPOCHS,
    "metrics": MAPPING,
    "source": MAPPING,
    "source.file": TEXT,
    "source.sha256": SHA256,
    "annotations_sha256": ("64 hexadecimal digits or null", lambda v: v is None or SHA256[1](v)),
    "imported": MOMENT,
}
IOU_TYPES = {"bb": "bbox", "mb": "segm", "kp": "keypoints"}

HELD_AS = {"bb": "bbox", "mb": "segmentation", "kp": "keypoints"}  # what a detection must have for a column
DETECTION: dict[str, Check] = {
    "image_id": ("a number or a text", lambda v: isinstance(v, str) or _is_finite(v)),
    "category_id": ("an integer", lambda v: isinstance(v, int) and not isinstance(v, bool)),
    "score": ("a finite number", lambda v: _is_finite(v)),
    "bbox": ("four finite numbers", lambda v: _all_finite(v, 4)),
    "segmentation": ("run lengths or polygons of finite numbers", lambda v: _is_mask(v)),
    "keypoints": ("finite numbers, three a point", lambda v: _all_finite(v) and v != [] and len(v) % 3 == 0),
}


@dataclass(frozen=True)
class Imported:
    """One imported row; metrics in percent."""

    table: str
    method: str
    epochs: int | None
    metrics: dict[str, float | None]
    source: str


def from_metrics_json(path: Path, task: str) -> dict[str, float | None]:
    """The last evaluation in a metrics.json of detectron2; UserError when it has none of `task`."""
    columns = SOURCES[task][1]
    found: dict[str, Any] | None = None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue  # cut off by a kill
        if isinstance(entry, dict) and all(key in entry for key in columns.values()):
            found = {name: entry[key] for name, key in columns.items()}
    if found is None:
        raise UserError(f"expected a line with {', '.join(columns.values())} in {path}, found none in {len(lines)} "
                        f"lines: is it the metrics.json of a finished run of task {task}?")
    for name, value in found.items():
        if value is None or not (PERCENT[1](value) or _is_nan(value)):
            raise UserError(f"{path}: expected a number from 0 to 100 as {columns[name]} of its last evaluation, found "
                            f"{json.dumps(value):.60}; is it the metrics.json that detectron2 wrote?")
    return {name: None if _is_nan(value) else float(value) for name, value in found.items()}


def _is_nan(value: Any) -> bool:
    """What detectron2 writes for a figure that is not defined."""
    return isinstance(value, float) and math.isnan(value)


def from_coco_results(path: Path, annotations: Path, task: str) -> dict[str, float | None]:
    """The figures of a COCO result file (a list of detections) by pycocotools; UserError when the two do not fit.

    Null for boxes or masks that the file does not hold: pycocotools would make up the one from the other.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if task not in ("coco", "keypoints"):
        raise UserError(f"a COCO result file cannot be evaluated for task {task}: expected coco or keypoints")
    detections = json.loads(path.read_bytes())
    held = _held(path, detections, ("bbox", "segmentation") if task == "coco" else ("keypoints",))
    metrics: dict[str, float | None] = dict.fromkeys(SOURCES[task][1])
    with redirect_stdout(io.StringIO()):
        try:
            truth = COCO(str(annotations))
            detected = truth.loadRes(detections)
            for short in dict.fromkeys(name.rpartition("_")[2] for name in metrics):
                if HELD_AS[short] not in held:
                    continue
                evaluation = COCOeval(truth, detected, IOU_TYPES[short])
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
                for metric, value in zip(("AP", "AP50", "AP75"), evaluation.stats, strict=False):
                    metrics[f"{metric}_{short}"] = None if value < 0 else 100 * float(value)
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
            raise UserError(f"{path} does not fit {annotations} ({type(error).__name__}: {error}): expected detections "
                            "of its images, each with image_id, category_id, score and bbox, segmentation or "
                            "keypoints") from None
    return metrics


def _held(path: Path, detections: list, wanted: tuple[str, ...]) -> list[str]:
    """Which of `wanted` the detections hold. UserError, naming the detection, for one that is not what it should be."""
    if not detections:
        raise UserError(f"{path} holds no detection: expected a list with image_id, category_id, score and "
                        f"{' or '.join(wanted)} of each")
    first = detections[0]
    held = [key for key in wanted if isinstance(first, dict) and key in first]
    if not held:
        raise UserError(f"{path}: detection 0 has no {' or '.join(wanted)}: expected the same of all detections")
    for number, found in enumerate(detections):
        wrong = _wrong(found, wanted, held)
        if wrong:
            image = f" of image {found['image_id']}" if isinstance(found, dict) and "image_id" in found else ""
            raise UserError(f"{path}: detection {number}{image}: {wrong}; mend or remove it")
    return held


def _wrong(found: Any, wanted: tuple[str, ...], held: list[str]) -> str:
    if not isinstance(found, dict):
        return f"expected a mapping, found {found!r:.60}"
    for key in wanted:
        if (key in found) != (key in held):
            return f"it {'has' if key in found else 'has no'} {key}, the first has {', '.join(held)} alone"
    for key, (expected, holds) in DETECTION.items():
        if key in found and not holds(found[key]):
            return f"expected {expected} as {key}, found {found[key]!r:.60}"
    missing = [key for key in ("image_id", "category_id", "score") if key not in found]
    return f"expected {', '.join(missing)}, found none" if missing else ""


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _all_finite(value: Any, length: int | None = None) -> bool:
    return isinstance(value, list) and length in (None, len(value)) and all(map(_is_finite, value))


def _is_mask(value: Any) -> bool:
    if isinstance(value, dict):
        return (_all_finite(value.get("size"), 2) and all(isinstance(side, int) and side > 0 for side in value["size"])
                and (isinstance(value.get("counts"), str) or _all_finite(value.get("counts"))))
    return isinstance(value, list) and value != [] and all(_all_finite(polygon) for polygon in value)


def write_imported(folder: Path, source: Path, task: str, method: str, epochs: int | None,
                   metrics: dict[str, float | None], annotations: Path | None = None) -> Path:
    """One file in `folder`; the same source, method and epochs give the same name."""
    record: dict[str, Any] = {
        "schema": SCHEMA, "kind": "imported", "table": SOURCES[task][0], "method": method, "epochs": epochs,
        "metrics": metrics, "source": {"file": source.name, "sha256": sha256_file(source)},
        "annotations_sha256": sha256_file(annotations) if annotations else None,
        "imported": datetime.now(UTC).isoformat(timespec="seconds"), "tool_version": __version__}
    if problems := validate(record):
        raise UserError(f"expected valid figures, found: {'; '.join(problems)}; nothing was written")
    record["digest"] = digest(record)
    path = folder / file_name(record)
    write_text(path, json.dumps(record, indent=1, sort_keys=True) + "\n")
    return path


def file_name(record: dict) -> str:
    """The name that the content gives it: the same source, method, epochs and task have the same."""
    task = TASK[record["table"]]
    identity = canonical([record["method"], record["epochs"], task, record["source"]["sha256"]])
    return f"{task}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def validate(record: Any) -> list[str]:
    """What is wrong with imported figures, one sentence a field; empty: nothing. Ignores `digest`."""
    problems = check_fields(record, FIELDS)
    if problems:
        return problems
    wanted, metrics = TABLES[record["table"]].metrics, record["metrics"]
    if set(metrics) != set(wanted):
        return [f"metrics: expected {', '.join(wanted)}, found {', '.join(metrics) or 'none'}"]
    return [f"metrics.{problem}" for problem in check_fields(metrics, dict.fromkeys(wanted, PERCENT))]


def parse_imported(content: bytes) -> dict:
    """The content of a file of imported figures; ValueError says what is wrong with it."""
    return parse_sealed(content, validate)


def read_imported(folder: Path) -> tuple[list[Imported], list[str]]:
    """All good imported rows of `folder`, and one line for each file that is not."""
    records, problems = read_sealed(folder, parse_imported)
    rows = [Imported(record["table"], record["method"], record["epochs"], record["metrics"],
                     f"imported from {record['source']['file']}, sha256 {record['source']['sha256'][:8]}")
            for record in records]
    return rows, [f"{problem}; import them again" for problem in problems]
