"""Task voc: Faster R-CNN R50-C4 on Pascal VOC, 2007 + 2012 trainval -> 2007 test.

MoCo, PixPro, DenseCL, SetSim: 24k iterations, the mean of five trials. detectron2's own file has 18k (12k, 16k): not
the protocol of any of them.
"""

from transfer.tasks.task import Column, Schedule, Table, Task

LAYOUT = (
    "DIR/VOC2007/ and DIR/VOC2012/ (VOCdevkit's), each with JPEGImages/ID.jpg, Annotations/ID.xml and the lists "
    "ImageSets/Main/trainval.txt, in VOC2007 test.txt too"
)

TASK = Task(
    name="voc", place=5, title="boxes on Pascal VOC",
    table=Table("voc_detection", "Object detection on Pascal VOC (R50-C4)",
                data="VOC 2007+2012 trainval / 2007 test", classes=20, train_images=16_551, val_images=4952, batch=16,
                note="The literature prints the mean of five trials; average precision by the 11 points of VOC 2007."),
    columns=(Column("AP", "bbox/AP"), Column("AP50", "bbox/AP50"), Column("AP75", "bbox/AP75")), folders=("voc",),
    layout=LAYOUT,
    config="voc.yaml", heads=("c4",), schedules={"24k": Schedule(24_000, (18_000, 22_000))},
    solvers={  # VICReg's appendix. VICRegL has 27 AP without it where DenseCL's weights have 58 (its issues 11, 15).
        "vicreg": {"SOLVER": {"BASE_LR": 0.1, "WARMUP_ITERS": 1000, "WARMUP_FACTOR": 0.333},
                   "MODEL": {"RPN": {"LOSS_WEIGHT": 0.2}}}},
    seconds=0.537, official="detectron2", demo_layout="voc",
)
