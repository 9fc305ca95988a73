"""Task cityscapes: Mask R-CNN R50-FPN on Cityscapes' eight things.

Values of mmselfsup's and DetCo's files.
"""

from __future__ import annotations

import heapq
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.common.errors import refuse
from transfer.data import cityscapes
from transfer.data.dataset import SPLITS, Dataset, Split
from transfer.tasks.task import Column, Reader, Schedule, Table, Task, Where

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.evaluation import DatasetEvaluator

    from transfer.data.pixel_labels import DenseData

LAYOUT = (
    "DIR/leftImg8bit/{train,val}/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png and DIR/gtFine/{train,val}/CITY/"
    "CITY_SEQUENCE_FRAME_gtFine_{instanceIds.png,labelIds.png,polygons.json}"
)


def find(where: Where) -> Dataset:
    """Both halves, every annotation file there; cityscapesscripts, which the other tasks do not
    need, is there too."""
    from transfer.data import cityscapes_check

    folder = where.folder
    if not (folder / "leftImg8bit").is_dir() and (folder / TASK.name / "leftImg8bit").is_dir():
        folder = folder / TASK.name
    splits = {}
    for half in SPLITS:
        images, annotations = folder / "leftImg8bit" / half, folder / "gtFine" / half
        for place in (images, annotations):
            refuse((not place.is_dir(),
                    f"{folder} is not laid out as Cityscapes: {place} is missing; expected {LAYOUT}"))
        files = cityscapes.list_files(images, annotations)
        opened = cityscapes_check.check_files(half, files)
        splits[half] = Split(len(files), annotations, images, cityscapes.digest(annotations), opened)
    names = tuple(label.name for label in cityscapes.instance_labels())
    return Dataset(TASK.name, splits["train"], splits["val"], names, ("boxes", "masks"))


def load(dataset: Dataset, half: str) -> tuple[Reader, dict[str, Any]]:
    """Kept predictions have Cityscapes' label ids."""
    split = dataset.half(half)
    numbers = [label.id for label in cityscapes.instance_labels()]
    known = {"gt_dir": str(split.annotations), "category_ids": numbers}
    return partial(cityscapes.load, split.image_root, split.annotations), known


def evaluator(dataset: Dataset, cfg: CfgNode) -> DatasetEvaluator:
    from transfer.evaluators.per_class import CityscapesEvaluator

    return CityscapesEvaluator(dataset.name("val"))


def excerpt(dataset: Dataset, folder: Path, train: int, val: int) -> None:
    """Links to the files of the images with most objects among the first hundred."""
    def objects(files: tuple[str, ...]) -> int:
        return len(json.loads(Path(files[3]).read_text(encoding="utf-8"))["objects"])

    for half, count in (("train", train), ("val", val)):
        split = dataset.half(half)
        listed = cityscapes.list_files(split.image_root, split.annotations)
        for files in heapq.nlargest(count, listed[:100], objects):
            for file, kind in zip(files, ("leftImg8bit", "gtFine", "gtFine", "gtFine"), strict=True):
                link = folder / kind / half / Path(file).parent.name / Path(file).name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(file).absolute())


def pixel_labels(dataset: Dataset) -> DenseData:
    """Cityscapes' own 19 training labels."""
    from transfer.data import pixel_labels

    return pixel_labels.of_streets(dataset)


TASK = Task(
    name="cityscapes", place=1, title="masks of Cityscapes' eight things",
    table=Table("cityscapes_instance_segmentation", "Instance segmentation on Cityscapes (R50-FPN)",
                data="Cityscapes fine train / val", classes=8, train_images=2975, val_images=500, batch=8,
                in_poster=True),
    columns=(Column("AP", "segm/AP"), Column("AP50", "segm/AP50")), folders=("cityscapes",), layout=LAYOUT,
    config="cityscapes.yaml", heads=("2fc", "4conv1fc"), schedules={"24k": Schedule(24_000, (18_000,))},
    seconds=0.240, memory_gb=4.4, official="cityscapesscripts", demo_layout="cityscapes",
    find=find, load=load, evaluator=evaluator, excerpt=excerpt, pixel_labels=pixel_labels,
)
