"""A task of another shape in one file: boxes in CSV files, measured by the share of them that is found.

    CLOVE_TASKS=tests/transfer/tasks/another_task.py clove finetune --task boxes-csv --data DIR ...

DIR/train/ and DIR/val/ hold images and boxes.csv, a line for each object: image,label,x0,y0,x1,y1 in pixels from 0,
the end outside. Images that boxes.csv does not name have no object.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import heapq
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.tasks import Column, Reader, Schedule, Table, Task, Where

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.evaluation import DatasetEvaluator

    from transfer.data.dataset import Dataset, Split

LAYOUT = "DIR/train/ and DIR/val/, each with images (*.png) and boxes.csv with the columns image,label,x0,y0,x1,y1"
CLASSES = ("disc", "plank")


def find(where: Where) -> Dataset:
    """Both halves; every image that boxes.csv names is there, with a label that is known."""
    from pretrain.common.errors import UserError
    from transfer.data.dataset import SPLITS, Dataset, Split
    from transfer.data.image_check import check_image

    splits = {}
    for half in SPLITS:
        folder = where.folder / half
        if not (folder / "boxes.csv").is_file():
            raise UserError(f"{folder / 'boxes.csv'} is missing: expected {LAYOUT}")
        for row in rows(folder):
            if row["label"] not in CLASSES:
                raise UserError(f"{folder / 'boxes.csv'} has the label {row['label']}: expected {', '.join(CLASSES)}")
            check_image(folder / row["image"], None)
        digest = hashlib.sha256((folder / "boxes.csv").read_bytes()).hexdigest()
        splits[half] = Split(len(list(folder.glob("*.png"))), folder / "boxes.csv", folder, digest)
    return Dataset(TASK.name, splits["train"], splits["val"], CLASSES, ("boxes",))


def rows(folder: Path) -> list[dict[str, str]]:
    """The lines of a boxes.csv."""
    with open(folder / "boxes.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def load(dataset: Dataset, half: str) -> tuple[Reader, dict[str, Any]]:
    """What reads a half; its evaluator wants to know nothing more of it."""
    return functools.partial(records, dataset.half(half)), {}


def records(split: Split) -> list[dict[str, Any]]:
    """All images of a half in detectron2's form."""
    from detectron2.structures import BoxMode
    from PIL import Image

    found = {}
    for number, path in enumerate(sorted(split.image_root.glob("*.png"))):
        with Image.open(path) as image:
            width, height = image.size
        found[path.name] = {"file_name": str(path), "image_id": number, "width": width, "height": height,
                            "annotations": []}
    for row in rows(split.image_root):
        box = [float(row[side]) for side in ("x0", "y0", "x1", "y1")]
        found[row["image"]]["annotations"].append(
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": CLASSES.index(row["label"])})
    return list(found.values())


def evaluator(dataset: Dataset, cfg: CfgNode) -> DatasetEvaluator:
    """The share of the boxes with a prediction of their class that overlaps them by half: R50, in percent."""
    import torch
    from detectron2.data import DatasetCatalog
    from detectron2.evaluation import DatasetEvaluator
    from detectron2.structures import Boxes, pairwise_iou
    from detectron2.utils import comm

    class Recall(DatasetEvaluator):
        def reset(self) -> None:
            self.found: list[tuple[int, bool]] = []  # (class, whether it was found) of every box

        def process(self, inputs: list[dict], outputs: list[dict]) -> None:
            for record, output in zip(inputs, outputs, strict=True):
                predicted = output["instances"].to("cpu")
                for row in truth[record["image_id"]]:
                    alike = predicted.pred_boxes[predicted.pred_classes == row["category_id"]]
                    overlaps = pairwise_iou(Boxes(torch.tensor([row["bbox"]])), alike)
                    self.found.append((row["category_id"], bool((overlaps >= 0.5).any())))

        def evaluate(self) -> dict | None:
            shares = comm.gather(self.found, dst=0)
            if not comm.is_main_process():
                return None
            found = [one for share in shares for one in share]
            result = {"R50": percentage([hit for _, hit in found])}
            for number, name in enumerate(CLASSES):
                result[f"R50-{name}"] = percentage([hit for label, hit in found if label == number])
            return {"recall": result}

    def percentage(hits: list[bool]) -> float:
        return 100 * sum(hits) / len(hits) if hits else float("nan")  # NaN: no such object, null in the result

    truth = {record["image_id"]: record["annotations"] for record in DatasetCatalog.get(dataset.name("val"))}
    return Recall()


def excerpt(dataset: Dataset, folder: Path, train: int, val: int) -> None:
    """The images with most boxes, as links, and their lines of boxes.csv."""
    for half, count in (("train", train), ("val", val)):
        split, target = dataset.half(half), folder / half
        lines = rows(split.image_root)
        names = [path.name for path in sorted(split.image_root.glob("*.png"))]
        kept = heapq.nlargest(count, names, lambda name, lines=lines: sum(row["image"] == name for row in lines))
        target.mkdir(parents=True)
        for name in kept:
            (target / name).symlink_to((split.image_root / name).absolute())
        with open(target / "boxes.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["image", "label", "x0", "y0", "x1", "y1"])
            writer.writeheader()
            writer.writerows(row for row in lines if row["image"] in kept)


TASK = Task(
    name="boxes-csv", title="boxes in CSV files",
    table=Table("boxes_csv", "Discs and planks found (R50-FPN)", data="drawn", classes=2, train_images=100,
                val_images=10, batch=4),
    columns=(Column("R50", "recall/R50"),), folders=("boxes-csv",), layout=LAYOUT,
    config={"_BASE_": "base.yaml", "MODEL": {"MASK_ON": False}, "SOLVER": {"IMS_PER_BATCH": 4, "BASE_LR": 0.005}},
    heads=("2fc",), schedules={"3k": Schedule(3000, (2000,))},
    seconds=0.1, official="its own", find=find, load=load, evaluator=evaluator, excerpt=excerpt,
)
