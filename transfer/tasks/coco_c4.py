"""Task coco-c4: Mask R-CNN R50-C4 on COCO, the backbone's res5 as the head. MoCo's, PixPro's and SoCo's table.

1x is the default, a reading: the Supervised (38.2 / 33.3) and Rand rows of the C4 table in CLoVE's
README equal MoCo's and SoCo's 1x rows digit for digit.
"""

from transfer.data.dataset import Dataset
from transfer.tasks import coco
from transfer.tasks.task import Schedule, Table, Task, Where


def find(where: Where) -> Dataset:
    return coco.find_for(TASK, where)


TASK = Task(
    name="coco-c4", place=3, title="boxes and masks on COCO with a C4 backbone",
    table=Table("coco_detection_segmentation_c4", "Object detection and segmentation on COCO "
                                                  "(R50-C4)",
                data="COCO train2017 / val2017", classes=80, train_images=117_000, val_images=5000, batch=16),
    columns=coco.COLUMNS, folders=("coco",), layout=coco.TASK.layout,
    config="coco-c4.yaml", heads=("c4",),
    schedules={"1x": Schedule(90_000, (60_000, 80_000)),  # PixPro, CLoVE's repository
               "2x": Schedule(180_000, (120_000, 160_000))},  # MoCo's repository, SetSim
    seconds=0.584, memory_gb=5.2, official="pycocotools", demo_layout="coco",
    find=find, load=coco.load, configure=coco.configure, evaluator=coco.evaluator, excerpt=coco.excerpt,
    named_files=True,
)
