"""Figures made elsewhere: rows of their own, always marked, never averaged with ours.

Sources: the metrics.json that detectron2's trainer writes, and COCO result files, which pycocotools evaluates here
against an annotation file. Each becomes one file in results/imported/, with the hash of what it was read from.
"""

import hashlib
import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.paper_tables import TABLES
from benchmarks.results import canonical, digest
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
IOU_TYPES = {"bb": "bbox", "mb": "segm", "kp": "keypoints"}


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
    found: dict[str, float | None] | None = None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # cut off by a kill
        if isinstance(entry, dict) and all(key in entry for key in columns.values()):
            found = {name: float(entry[key]) for name, key in columns.items()}
    if found is None:
        raise UserError(f"expected a line with {', '.join(columns.values())} in {path}, found none in {len(lines)} "
                        f"lines: is it the metrics.json of a finished run of task {task}?")
    return {name: None if value != value or value < 0 else value for name, value in found.items()}


def from_coco_results(path: Path, annotations: Path, task: str) -> dict[str, float | None]:
    """The figures of a COCO result file (a list of detections) by pycocotools; UserError when the two do not fit."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if task not in ("coco", "keypoints"):
        raise UserError(f"a COCO result file cannot be evaluated for task {task}: expected coco or keypoints")
    metrics: dict[str, float | None] = {}
    with redirect_stdout(io.StringIO()):
        try:
            truth = COCO(str(annotations))
            detected = truth.loadRes(str(path))
            for short in dict.fromkeys(name.rpartition("_")[2] for name in SOURCES[task][1]):
                evaluation = COCOeval(truth, detected, IOU_TYPES[short])
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
                for metric, value in zip(("AP", "AP50", "AP75"), evaluation.stats, strict=False):
                    metrics[f"{metric}_{short}"] = None if value < 0 else 100 * float(value)
        except (AssertionError, KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"{path} does not fit {annotations} ({type(error).__name__}: {error}): expected detections "
                            "of its images, each with image_id, category_id, score and bbox, segmentation or "
                            "keypoints") from None
    return metrics


def write_imported(folder: Path, source: Path, task: str, method: str, epochs: int | None,
                   metrics: dict[str, float | None], annotations: Path | None = None) -> Path:
    """One file in `folder`; the same source, method and epochs give the same name."""
    record: dict[str, Any] = {
        "schema": SCHEMA, "kind": "imported", "table": SOURCES[task][0], "method": method, "epochs": epochs,
        "metrics": metrics, "source": {"file": source.name, "sha256": sha256_file(source)},
        "annotations_sha256": sha256_file(annotations) if annotations else None,
        "imported": datetime.now(UTC).isoformat(timespec="seconds"), "tool_version": __version__}
    record["digest"] = digest(record)
    name = hashlib.sha256(canonical([method, epochs, task, record["source"]["sha256"]]).encode()).hexdigest()[:16]
    path = folder / f"{task}-{name}.json"
    write_text(path, json.dumps(record, indent=1, sort_keys=True) + "\n")
    return path


def read_imported(folder: Path) -> tuple[list[Imported], list[str]]:
    """All good imported rows of `folder`, and one line for each file that is not."""
    rows, problems = [], []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            record = json.loads(path.read_bytes())
            if record["digest"] != digest(record):
                problems.append(f"{path.name}: changed after it was written (its digest does not match); import again")
                continue
            if set(record["metrics"]) != set(TABLES[record["table"]].metrics) or record["schema"] != SCHEMA:
                raise ValueError("its metrics are not those of its table")
            told = f"imported from {record['source']['file']}, sha256 {record['source']['sha256'][:8]}"
            rows.append(Imported(record["table"], record["method"], record["epochs"], record["metrics"], told))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{path.name}: no imported figures ({error}); import them again")
    return rows, problems
