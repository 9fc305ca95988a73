"""Results that a test writes, and the tables that are made of them."""

from pathlib import Path

from benchmarks import make_tables
from benchmarks.results import write_result

REPORTED = make_tables.ROOT / "results" / "reported"
COCO, CITYSCAPES, KEYPOINTS = (
    "coco_detection_segmentation", "cityscapes_instance_segmentation", "coco_keypoints")


def write_all(results: Path, *found: dict) -> None:
    for result in found:
        write_result(results / "runs", result)
