"""Task coco: Mask R-CNN R50-FPN on COCO, boxes and masks.

PixPro's files, which CLoVE's repository copies.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.annotations import plain_coco
from transfer.data.dataset import Dataset
from transfer.data.excerpt import fullest_of_file
from transfer.tasks.task import Column, Reader, Schedule, Table, Task, Where

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.evaluation import DatasetEvaluator

    from transfer.data.pixel_labels import DenseData

COLUMNS = (Column("AP_bb", "bbox/AP"), Column("AP50_bb", "bbox/AP50"), Column("AP75_bb", "bbox/AP75"),
           Column("AP_mb", "segm/AP"), Column("AP50_mb", "segm/AP50"), Column("AP75_mb", "segm/AP75"))

LAYOUT = (
    "DIR/annotations/{prefix}_train*.json and {prefix}_val*.json (or any *train*.json and *val*.json) with the images "
    "in DIR/images/, or DIR/images/train/ and DIR/images/val/, or DIR/train2017/ and DIR/val2017/"
)


def find(where: Where) -> Dataset:
    """Boxes and masks, or boxes alone where no object has a mask."""
    return find_for(TASK, where)


def find_for(task: Task, where: Where) -> Dataset:
    from transfer.data import coco_layout

    return coco_layout.find(where, task)


def load(dataset: Dataset, half: str) -> tuple[Reader, dict[str, Any]]:
    """detectron2's own reader; kept predictions have the ids of the file."""
    from detectron2.data.datasets.coco import load_coco_json

    split = dataset.half(half)
    file, images = str(split.readable), str(split.image_root)
    known = {"json_file": file, "image_root": images}
    if split.plain:
        known |= plain_coco.own_ids(split.plain)
    return partial(load_coco_json, file, images, dataset.name(half)), known


def configure(cfg: CfgNode, dataset: Dataset) -> None:
    """Faster R-CNN where there are no masks."""
    cfg.MODEL.MASK_ON = "masks" in dataset.parts
    if dataset.has_rle:
        cfg.INPUT.MASK_FORMAT = "bitmask"  # the polygon reader refuses run lengths; bitmaps read both


def evaluator(dataset: Dataset, cfg: CfgNode) -> DatasetEvaluator:
    """pycocotools, never detectron2's faster re-implementation."""
    from detectron2.evaluation import COCOEvaluator

    groups = ("bbox", "segm") if "masks" in dataset.parts else ("bbox",)
    return COCOEvaluator(dataset.name("val"), tasks=groups, use_fast_impl=False)


def excerpt(dataset: Dataset, folder: Path, train: int, val: int) -> None:
    """Two new annotation files and links to the image folders."""
    for half, count in (("train", train), ("val", val)):
        split = dataset.half(half)
        fullest_of_file(split.readable, folder / "annotations" / f"{half}.json", count)
        (folder / f"{half}2017").symlink_to(split.image_root.absolute())


def pixel_labels(dataset: Dataset) -> DenseData:
    """The class of the instance that covers a pixel, 0 for background."""
    from transfer.data import pixel_labels

    return pixel_labels.of_instances(dataset)


TASK = Task(
    name="coco", place=0, title="boxes and masks on COCO",
    table=Table("coco_detection_segmentation", "Object detection and segmentation on COCO "
                                               "(R50-FPN)",
                data="COCO train2017 / val2017", classes=80, train_images=117_000, val_images=5000, batch=16,
                in_poster=True,
                note="Two head families are in use. The paper's Supervised row equals the "
                     "published figures of 2fc heads; in its Rand init row the box figure is that "
                     "of 4conv1fc heads and the mask figure that of 2fc heads. Every measured row "
                     "names its heads."),
    columns=COLUMNS, folders=("coco",), layout=LAYOUT.format(prefix="instances"),
    config="coco.yaml", heads=("4conv1fc", "2fc"),
    schedules={"1x": Schedule(90_000, (60_000, 80_000)),  # PixPro, SlotCon, DenseCL, SoCo, CLoVE's repository
               "2x": Schedule(180_000, (120_000, 160_000))},  # ReSim's headline; MoCo and SetSim print both
    solvers={  # VICReg's appendix for Mask R-CNN R50-FPN (1x, 16 images). VICRegL has 35.5 box AP without it (its
               # issue 20).
        "vicreg": {"SOLVER": {"BASE_LR": 0.04, "WARMUP_ITERS": 50}}},
    seconds=0.261, memory_gb=5.5,  # detectron2's model zoo, as all of these; memory with synchronised batch norm
    official="pycocotools", demo_layout="coco",
    find=find, load=load, configure=configure, evaluator=evaluator, excerpt=excerpt, pixel_labels=pixel_labels,
    named_files=True,
)
