"""Task voc: Faster R-CNN R50-C4 on Pascal VOC, 2007 + 2012 trainval -> 2007 test.

MoCo, PixPro, DenseCL, SetSim: 24k iterations, the mean of five trials. detectron2's own file has
18k (12k, 16k): not the protocol of any of them.
"""

from __future__ import annotations

import heapq
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.common.errors import refuse
from transfer.data.dataset import SPLITS, Dataset, Split
from transfer.tasks.task import Column, Reader, Schedule, Table, Task, Where

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.evaluation import DatasetEvaluator

LAYOUT = (
    "DIR/VOC2007/ and DIR/VOC2012/ (VOCdevkit's), each with JPEGImages/ID.jpg, Annotations/ID.xml "
    "and the lists ImageSets/Main/trainval.txt, in VOC2007 test.txt too"
)


def find(where: Where) -> Dataset:
    """Both years, every annotation read."""
    from transfer.data import voc
    from transfer.data.image_check import check_images

    folder = where.folder
    places = [place for place in (folder, folder / "VOCdevkit", folder / TASK.name) if (place / "VOC2007").is_dir()]
    refuse((not places,
            f"{folder} is not laid out as Pascal VOC: {folder / 'VOC2007'} is missing; expected "
            f"{LAYOUT}"))
    root, splits, images = places[0], {}, {}
    for half in SPLITS:
        rows, digest = voc.check(root, half)
        splits[half] = Split(len(rows), root, root, digest, check_images(half, rows))
        images[half] = {path for path, _ in rows}
    refuse((images["val"] <= images["train"] and not where.same_images,
            f"{root}: all {len(images['val'])} images of VOC2007's test are training images too: "
            "expected other images, or metrics show how well a model remembers; --same-images "
            "allows it"))
    return Dataset(TASK.name, splits["train"], splits["val"], tuple(voc.CLASS_NAMES), ("boxes",))


def load(dataset: Dataset, half: str) -> tuple[Reader, dict[str, Any]]:
    """The lists of this half; the evaluator reads the annotations of its first one again."""
    from transfer.data import voc

    root = dataset.half(half).annotations
    year, listed = voc.PARTS[half][0]
    return partial(voc.load, root, half), {"dirname": str(root / year), "split": listed, "year": voc.YEAR}


def evaluator(dataset: Dataset, cfg: CfgNode) -> DatasetEvaluator:
    """detectron2's own code, as in the literature."""
    from transfer.evaluators.per_class import VocEvaluator

    return VocEvaluator(dataset.name("val"))


def excerpt(dataset: Dataset, folder: Path, train: int, val: int) -> None:
    """Short lists, and links to the folders of images and annotations."""
    from transfer.data import voc

    for half, count in (("train", train), ("val", val)):
        whole, parts = dataset.half(half).annotations, voc.PARTS[half]
        records = {record["file_name"]: len(record["annotations"]) for record in voc.load(whole, half)}
        for year, listed in parts:
            mine = [path for path in records if Path(path).parent.parent.name == year]
            chosen = heapq.nlargest(max(count // len(parts), 1), mine, records.__getitem__)
            lists = folder / year / "ImageSets" / "Main"
            lists.mkdir(parents=True, exist_ok=True)
            (lists / f"{listed}.txt").write_text("".join(f"{Path(path).stem}\n" for path in chosen), encoding="utf-8")
            for part in ("JPEGImages", "Annotations"):
                if not (folder / year / part).is_symlink():
                    (folder / year / part).symlink_to((whole / year / part).absolute())


TASK = Task(
    name="voc", place=5, title="boxes on Pascal VOC",
    table=Table("voc_detection", "Object detection on Pascal VOC (R50-C4)",
                data="VOC 2007+2012 trainval / 2007 test", classes=20, train_images=16_551, val_images=4952, batch=16,
                note="The literature prints the mean of five trials; average precision by the 11 "
                     "points of VOC 2007."),
    columns=(Column("AP", "bbox/AP"), Column("AP50", "bbox/AP50"), Column("AP75", "bbox/AP75")), folders=("voc",),
    layout=LAYOUT,
    config="voc.yaml", heads=("c4",), schedules={"24k": Schedule(24_000, (18_000, 22_000))},
    solvers={  # VICReg's appendix. VICRegL has 27 AP without it where DenseCL's weights have 58 (its issues 11, 15).
        "vicreg": {"SOLVER": {"BASE_LR": 0.1, "WARMUP_ITERS": 1000, "WARMUP_FACTOR": 0.333},
                   "MODEL": {"RPN": {"LOSS_WEIGHT": 0.2}}}},
    seconds=0.537, memory_gb=4.8, official="detectron2", demo_layout="voc",
    find=find, load=load, evaluator=evaluator, excerpt=excerpt,
)
