"""What the tests of results and tables share: a valid result to vary, and a reader of markdown tables."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.formats import all_tables
from benchmarks.records.results import RANDOM
from tests.benchmarks.table_files import COCO, REPORTED
from transfer.records.code_hash import finetuning_sha256

METRICS = {
    "coco_detection_segmentation": ("bbox/AP", "bbox/AP50", "bbox/AP75", "segm/AP", "segm/AP50", "segm/AP75"),
    "coco_keypoints": ("keypoints/AP", "keypoints/AP50", "keypoints/AP75"),
    "cityscapes_instance_segmentation": ("segm/AP", "segm/AP50"),
}
NEAR_THE_PAPER = {  # within what is expected of CLoVE 200
    "coco_detection_segmentation": [40.5, 60.0, 45.0, 36.5, 57.0, 39.0],
    "coco_keypoints": [66.5, 87.0, 73.0],
    "cityscapes_instance_segmentation": [35.5, 64.0],
}
FULL = {  # task, train and val images, classes, iterations, batch, learning rate
    "coco_detection_segmentation": ("coco", 118287, 5000, 80, 90000, 16, 0.02),
    "coco_keypoints": ("keypoints", 118287, 5000, 1, 180000, 16, 0.02),
    "cityscapes_instance_segmentation": ("cityscapes", 2975, 500, 8, 24000, 8, 0.01),
}


@pytest.fixture
def make_result() -> Callable[..., dict]:
    """`make_result(table, values, **{"dotted__key": value})`: a valid CLoVE 200 result at full scale, varied.

    `values` are those of the table's columns.
    """

    def make(table: str = "coco_detection_segmentation", values: list | None = None, **changes) -> dict:
        task, train, val, classes, iterations, batch, rate = FULL[table]
        values = values or NEAR_THE_PAPER[table]
        result = {
            "schema": 2, "method": "CLoVE", "epochs": 200, "demo": False,
            "stage": {"name": f"finetune-{task}", "key": "ab" * 32}, "task": task,
            "metrics": dict(zip(METRICS[table], values, strict=True)) | {"bbox/APs": 20.5},
            "trial": 0, "seed": 1, "heads": "4conv1fc", "scale": "full",
            "weights": {"method": "CLoVE", "epochs": 200, "branch": "student", "architecture": "resnet50",
                        "standard": True, "pkl_sha256": "cd" * 32, "conversion": {"consumed": 265}},
            "dataset": {"train": {"images": train, "annotations_sha256": "12" * 32},
                        "val": {"images": val, "annotations_sha256": "34" * 32},
                        "classes": [f"class {number}" for number in range(classes)]},
            "iterations": iterations,
            "config": {"SEED": 1, "OUTPUT_DIR": "run", "SOLVER": {"IMS_PER_BATCH": batch, "BASE_LR": rate},
                       "MODEL": {"WEIGHTS": "detectron2.pkl", "MASK_ON": True}},
            "config_sha256": "56" * 32, "versions": {"python": "3.11.0", "cuda": None},
            "hardware": {"name": "8 GPUs"}, "code": {"git_sha": "78" * 20, "dirty": False,
                                                 "transfer_sha256": finetuning_sha256()},
            "wall_seconds": 12.5, "peak_memory_mb": None,
            "started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T01:00:00+00:00",
        }
        if changes.get("method") in RANDOM:
            result["weights"] |= {"method": changes["method"], "epochs": None, "pkl_sha256": None, "conversion": None}
        for name, value in changes.items():
            *parents, key = name.split("__")
            place = result
            for parent in parents:
                place = place[parent]
            place[key] = copy.deepcopy(value)
        return result

    return make


@pytest.fixture
def tables_of(markdown_tables) -> Callable[..., tuple[list[list[list[str]]], str, list[str]]]:
    """`tables_of(results, name)`: tables in the file of `name`, its text, and the problems."""

    def make(results: Path, name: str = COCO, **options) -> tuple[list[list[list[str]]], str, list[str]]:
        found = all_tables.read_tables(results, REPORTED, **options)
        all_tables.write_tables(found.tables, results / "tables")
        text = (results / "tables" / f"{name}.md").read_text(encoding="utf-8")
        return markdown_tables(text), text, found.problems

    return make


@pytest.fixture
def markdown_tables() -> Callable[[str], list[list[list[str]]]]:
    """`markdown_tables(text)`: every table in it as rows of cells without their looks, header first."""

    def parse(text: str) -> list[list[list[str]]]:
        """All markdown tables in `text`: rows of cells, header first, without the line of dashes."""
        tables, inside = [], False
        for line in text.splitlines():
            if line.startswith("|") and not inside:
                tables.append([])
            inside = line.startswith("|")
            if inside and not line.startswith("|:"):
                cells = [cell.strip() for cell in line.strip("|").split(" |")]
                tables[-1].append([re.sub(r"(?<!\\)\*|</?u>", "", cell) for cell in cells])
        return tables

    return parse
