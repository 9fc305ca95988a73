"""Task lvis: Mask R-CNN R50-FPN on LVIS v1.

1x is the default, a reading: SoCo evaluates 90k, and CLoVE's README has SoCo's supervised row within noise.
"""

from transfer.tasks import coco
from transfer.tasks.task import Schedule, Table, Task

LAYOUT = (
    "DIR/lvis_v1_train.json and DIR/lvis_v1_val.json (or in DIR/annotations/) with COCO's train2017/ and val2017/ in "
    "DIR/, DIR/images/ or DIR/../coco/"
)

TASK = Task(
    name="lvis", place=4, title="boxes and masks on LVIS v1",
    table=Table("lvis_detection_segmentation", "Object detection and segmentation on LVIS (R50-FPN)",
                data="LVIS v1 train / val", classes=1203, train_images=99_000, val_images=19_809, batch=16),
    columns=coco.COLUMNS, folders=("lvis",), layout=LAYOUT,
    config="lvis.yaml", heads=("4conv1fc", "2fc"),
    schedules={"1x": Schedule(90_000, (60_000, 80_000)),  # SoCo
               "2x": Schedule(180_000, (120_000, 160_000))},  # detectron2's own file for v1, where it is called 1x
    seconds=0.292,  # LVIS v0.5, which has about as many classes as v1
    official="lvis", demo_layout="lvis",
)
