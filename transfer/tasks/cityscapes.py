"""Task cityscapes: Mask R-CNN R50-FPN on Cityscapes' eight things. Values of mmselfsup's and DetCo's files."""

from transfer.tasks.task import Column, Schedule, Table, Task

LAYOUT = (
    "DIR/leftImg8bit/{train,val}/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png and DIR/gtFine/{train,val}/CITY/"
    "CITY_SEQUENCE_FRAME_gtFine_{instanceIds.png,labelIds.png,polygons.json}"
)

TASK = Task(
    name="cityscapes", place=1, title="masks of Cityscapes' eight things",
    table=Table("cityscapes_instance_segmentation", "Instance segmentation on Cityscapes (R50-FPN)",
                data="Cityscapes fine train / val", classes=8, train_images=2975, val_images=500, batch=8,
                in_poster=True),
    columns=(Column("AP", "segm/AP"), Column("AP50", "segm/AP50")), folders=("cityscapes",), layout=LAYOUT,
    config="cityscapes.yaml", heads=("2fc", "4conv1fc"), schedules={"24k": Schedule(24_000, (18_000,))},
    seconds=0.240, official="cityscapesscripts", demo_layout="cityscapes",
)
