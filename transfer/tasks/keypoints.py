"""Task keypoints: Keypoint R-CNN R50-FPN on COCO's persons.

MoCo's appendix A.2 says "keypoint version of Mask R-CNN, 2x"; the values are those of mmselfsup's
and DetCo's keypoint_rcnn_R_50_FPN_2x_moco. No config of CLoVE, PixPro, SlotCon or SetSim was
released: 2x is a reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transfer.annotations import keypoint_names
from transfer.data.dataset import Dataset
from transfer.tasks import coco
from transfer.tasks.task import Column, Schedule, Table, Task, Where

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.evaluation import DatasetEvaluator


def find(where: Where) -> Dataset:
    """Boxes and keypoints; the names of these stand in the file."""
    from transfer.data import coco_layout

    return coco_layout.find(where, TASK, keypoints=True)


def configure(cfg: CfgNode, dataset: Dataset) -> None:
    """As many points as the data has, the tolerance of each, and no flips where a mirror has no
    partner for one."""
    names = dataset.keypoint_names
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = len(names)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = keypoint_names.sigmas(names)
    if keypoint_names.without_partner(names):
        cfg.INPUT.RANDOM_FLIP = "none"


def evaluator(dataset: Dataset, cfg: CfgNode) -> DatasetEvaluator:
    """pycocotools, with the sigmas that the config holds."""
    from detectron2.evaluation import COCOEvaluator

    return COCOEvaluator(dataset.name("val"), tasks=("bbox", "keypoints"), use_fast_impl=False,
                         kpt_oks_sigmas=tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS))


TASK = Task(
    name="keypoints", place=2, title="keypoints of COCO's persons",
    table=Table("coco_keypoints", "Keypoint detection on COCO (R50-FPN)", data="COCO train2017 / val2017", classes=1,
                train_images=50_000, val_images=5000, batch=16, in_poster=True),
    columns=(Column("AP_kp", "keypoints/AP"), Column("AP50_kp", "keypoints/AP50"),
             Column("AP75_kp", "keypoints/AP75")),
    folders=("keypoints", "coco"), layout=coco.LAYOUT.format(prefix="person_keypoints"),
    config="keypoints.yaml",
    heads=("2fc", "4conv1fc"),  # the keypoint head itself has no norm option in detectron2
    schedules={"2x": Schedule(180_000, (120_000, 160_000)), "1x": Schedule(90_000, (60_000, 80_000))},
    seconds=0.315, memory_gb=5.0, official="pycocotools", demo_layout="keypoints",
    find=find, load=coco.load, configure=configure, evaluator=evaluator, excerpt=coco.excerpt, named_files=True,
)
