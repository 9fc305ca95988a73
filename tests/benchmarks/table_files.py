"""Results that a test writes, and the tables that are made of them."""

import csv
import hashlib
from pathlib import Path

from benchmarks.records.results import write_result
from pretrain import PRINTED

REPORTED = PRINTED / "reported"
COCO, CITYSCAPES, KEYPOINTS = (
    "coco_detection_segmentation", "cityscapes_instance_segmentation", "coco_keypoints")

OWN = {"dataset__label": "nuclei", "dataset__classes": ["cell"], "scale": "mini"}


def write_all(results: Path, *found: dict) -> None:
    for result in found:
        write_result(results / "runs", result)


def csv_lines(results: Path, **fields: str) -> list[dict[str, str]]:
    """The lines of tables.csv that have these fields."""
    with open(results / "tables" / "tables.csv", newline="", encoding="utf-8") as file:
        return [line for line in csv.DictReader(file) if all(line[name] == text for name, text in fields.items())]


def trained(make_result, method: str, values: list[float], **changes) -> list[dict]:
    """One fine-tuning of each pretraining: that of seed s is trial s. A start that is random has trials alone."""
    found = []
    for seed, value in enumerate(values):
        start = {}
        if not method.startswith("Rand"):
            start = {"weights__pkl_sha256": hashlib.sha256(f"{method} {seed}".encode()).hexdigest(),
                     "weights__pretraining": {"objective": "clove", "seed": seed, "images_sha256": "b2" * 32,
                                              "recipe_sha256": hashlib.sha256(method.encode()).hexdigest()}}
        key = hashlib.sha256(repr((method, seed, sorted(changes.items()))).encode()).hexdigest()
        found.append(make_result(method=method, epochs=None, values=[value, value, 1.0, value / 2, 1.0, 1.0],
                                 trial=seed, seed=seed, stage__key=key, **OWN | start | changes))
    return found
