"""Results that a test writes, and the tables that are made of them."""

import csv
from pathlib import Path

from benchmarks import make_tables
from benchmarks.results import write_result

REPORTED = make_tables.ROOT / "results" / "reported"
COCO, CITYSCAPES, KEYPOINTS = (
    "coco_detection_segmentation", "cityscapes_instance_segmentation", "coco_keypoints")


def write_all(results: Path, *found: dict) -> None:
    for result in found:
        write_result(results / "runs", result)


def csv_lines(results: Path, **fields: str) -> list[dict[str, str]]:
    """The lines of tables.csv that have these fields."""
    with open(results / "tables" / "tables.csv", newline="", encoding="utf-8") as file:
        return [line for line in csv.DictReader(file) if all(line[name] == text for name, text in fields.items())]
