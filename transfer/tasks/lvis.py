"""Task lvis: Mask R-CNN R50-FPN on LVIS v1.

1x is the default, a reading: SoCo evaluates 90k, and CLoVE's README has SoCo's supervised row
within noise.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.common.errors import refuse
from transfer.data.dataset import SPLITS, Dataset
from transfer.data.excerpt import fullest_of_file
from transfer.tasks import coco
from transfer.tasks.task import Reader, Schedule, Table, Task, Where

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.evaluation import DatasetEvaluator

LAYOUT = (
    "DIR/lvis_v1_train.json and DIR/lvis_v1_val.json (or in DIR/annotations/) with COCO's "
    "train2017/ and val2017/ in DIR/, DIR/images/ or DIR/../coco/"
)


def find(where: Where) -> Dataset:
    """LVIS' two files and COCO's images; the package lvis is there."""
    from transfer.annotations import coco_json, lvis_json
    from transfer.data import coco_layout

    lvis_json.require()
    folder = where.folder
    if folder and not (folder / "lvis_v1_val.json").is_file() and (folder / TASK.name).is_dir():
        folder = folder / TASK.name
    paths = {"train": where.train_annotations, "val": where.val_annotations}
    for half in SPLITS:
        name = f"lvis_v1_{half}.json"
        if paths[half] is None:
            paths[half] = folder / name
            if not paths[half].is_file():
                paths[half] = folder / "annotations" / name
        refuse((not paths[half].is_file(), f"no {name} in {folder}: expected for task {TASK.name} "
                                           f"{LAYOUT}"))
    train, val = lvis_json.read(paths["train"], evaluated=False), lvis_json.read(paths["val"])
    coco_json.raise_unless_alike(train, val)
    images = where.images or folder
    beside = images.absolute().parent / coco.TASK.name
    places = [place for place in (images, images / "images", beside) if place.is_dir()]
    classes = tuple(name for _, name in train.categories)
    splits = coco_layout.split(train, "train", places), coco_layout.split(val, "val", places)
    notes = (*train.notes, *val.notes, *coco_layout.images_in_both(splits, (train, val), where.same_images))
    return Dataset(TASK.name, *splits, classes, ("boxes", "masks"), notes=notes)


def load(dataset: Dataset, half: str) -> tuple[Reader, dict[str, Any]]:
    """detectron2's own reader, which takes 1 from the ids of the file; kept predictions have those
    of the file."""
    from transfer.annotations import lvis_json

    lvis_json.require()
    from detectron2.data.datasets.lvis import load_lvis_json

    split = dataset.half(half)
    known = {"json_file": str(split.annotations), "image_root": str(split.image_root),
             "category_ids": list(range(1, len(dataset.classes) + 1))}
    return partial(load_lvis_json, str(split.annotations), f"{split.image_root}/"), known


def evaluator(dataset: Dataset, cfg: CfgNode) -> DatasetEvaluator:
    from transfer.evaluators.per_class import LvisClassEvaluator

    return LvisClassEvaluator(dataset.name("val"), tasks=("bbox", "segm"))


def excerpt(dataset: Dataset, folder: Path, train: int, val: int) -> None:
    """Two new annotation files and one link to the images: their names hold train2017/ and
    val2017/."""
    for half, count in (("train", train), ("val", val)):
        fullest_of_file(dataset.half(half).annotations, folder / "annotations" / f"lvis_v1_{half}.json", count)
    (folder / "images").symlink_to(dataset.train.image_root.absolute())


TASK = Task(
    name="lvis", place=4, title="boxes and masks on LVIS v1",
    table=Table("lvis_detection_segmentation", "Object detection and segmentation on LVIS "
                                               "(R50-FPN)",
                data="LVIS v1 train / val", classes=1203, train_images=99_000, val_images=19_809, batch=16),
    columns=coco.COLUMNS, folders=("lvis",), layout=LAYOUT,
    config="lvis.yaml", heads=("4conv1fc", "2fc"),
    schedules={"1x": Schedule(90_000, (60_000, 80_000)),  # SoCo
               "2x": Schedule(180_000, (120_000, 160_000))},  # detectron2's own file for v1, where it is called 1x
    seconds=0.292, memory_gb=7.1,  # LVIS v0.5, which has about as many classes as v1
    official="lvis", demo_layout="lvis",
    find=find, load=load, evaluator=evaluator, excerpt=excerpt, named_files=True,
)
