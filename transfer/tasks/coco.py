"""Task coco: Mask R-CNN R50-FPN on COCO, boxes and masks. PixPro's files, which CLoVE's repository copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transfer.tasks.task import Column, Schedule, Table, Task

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from transfer.datasets import Dataset

COLUMNS = (Column("AP_bb", "bbox/AP"), Column("AP50_bb", "bbox/AP50"), Column("AP75_bb", "bbox/AP75"),
           Column("AP_mb", "segm/AP"), Column("AP50_mb", "segm/AP50"), Column("AP75_mb", "segm/AP75"))

LAYOUT = (
    "DIR/annotations/{prefix}_train*.json and {prefix}_val*.json (or any *train*.json and *val*.json) with the images "
    "in DIR/images/, or DIR/images/train/ and DIR/images/val/, or DIR/train2017/ and DIR/val2017/"
)


def configure(cfg: CfgNode, dataset: Dataset) -> None:
    """The polygon reader refuses run lengths; bitmaps read both."""
    if dataset.has_rle:
        cfg.INPUT.MASK_FORMAT = "bitmask"


TASK = Task(
    name="coco", place=0, title="boxes and masks on COCO",
    table=Table("coco_detection_segmentation", "Object detection and segmentation on COCO (R50-FPN)",
                data="COCO train2017 / val2017", classes=80, train_images=117_000, val_images=5000, batch=16,
                in_poster=True,
                note="Two head families are in use. The paper's Supervised row equals the published figures of 2fc "
                     "heads; in its Rand init row the box figure is that of 4conv1fc heads and the mask figure that "
                     "of 2fc heads. Every measured row names its heads."),
    columns=COLUMNS, folders=("coco",), layout=LAYOUT.format(prefix="instances"),
    config="coco.yaml", heads=("4conv1fc", "2fc"),
    schedules={"1x": Schedule(90_000, (60_000, 80_000)),  # PixPro, SlotCon, DenseCL, SoCo, CLoVE's repository
               "2x": Schedule(180_000, (120_000, 160_000))},  # ReSim's headline; MoCo and SetSim print both
    solvers={  # VICReg's appendix for Mask R-CNN R50-FPN (1x, 16 images). VICRegL has 35.5 box AP without it (its
               # issue 20).
        "vicreg": {"SOLVER": {"BASE_LR": 0.04, "WARMUP_ITERS": 50}}},
    seconds=0.261,  # detectron2's model zoo, as all of these
    official="pycocotools", configure=configure, demo_layout="coco",
)
