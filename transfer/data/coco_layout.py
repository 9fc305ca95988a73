"""COCO's folder layout: which annotation files are meant and where their images lie.

COCO's own (train2017/, val2017/, annotations/PREFIX_*2017.json), also as images/ beside annotations/*train*.json and
*val*.json. The classes come from the annotation file; so does what every object has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.common.atomic import sha256_file
from pretrain.common.errors import UserError
from transfer.data import coco_json
from transfer.data.dataset import SPLITS, Dataset, Split, Where
from transfer.data.image_check import first_whole

if TYPE_CHECKING:
    from transfer.tasks import Task

OTHER_PREFIXES = ("instances", "person_keypoints", "captions", "image_info", "stuff", "panoptic")
USUAL = "instances"  # a person's file may have only this one, with the keypoints in it


@dataclass(frozen=True)
class Kind:
    """Which of COCO's annotations a task takes."""

    prefix: str  # of the file names
    keypoints: bool  # else boxes, with masks where there are some


def find(where: Where, task: Task, kind: Kind) -> Dataset:
    """The dataset of `task`, checked; raises `UserError` saying what is wrong and what is expected."""
    folder, inner = where.folder, task.folders[-1]
    if folder and not (folder / "annotations").is_dir() and (folder / inner / "annotations").is_dir():
        folder = folder / inner
    named = {"train": where.train_annotations, "val": where.val_annotations}
    files = {}
    for half in SPLITS:
        path = named[half] or _annotation_file(folder, task, kind, half)
        files[half] = coco_json.read(path, kind.keypoints, half == "val")
    train, val = files["train"], files["val"]
    _check_alike(train, val)
    splits = {}
    for half, file in files.items():
        places = _places(where.images or folder, half)
        root, opened = first_whole(places, half, file.path, file.file_names, file.sizes)
        splits[half] = Split(len(file.file_names), file.path, root, sha256_file(file.path), opened)
    parts, notes = ("boxes", "keypoints") if kind.keypoints else ("boxes", "masks"), ()
    if not kind.keypoints and not train.has_masks:
        parts, notes = ("boxes",), (_without_masks(task, train),)
    return Dataset(task.name, splits["train"], splits["val"], tuple(name for _, name in train.categories), parts,
                   train.keypoint_names, train.skeleton, train.has_rle, notes=notes)


def _check_alike(train: coco_json.CocoFile, val: coco_json.CocoFile) -> None:
    coco_json.check_same_categories(train.path, train.categories, val.path, val.categories)
    if train.keypoint_names != val.keypoint_names:
        raise UserError(f"the keypoints of {train.path} and {val.path} differ: "
                        f"{', '.join(train.keypoint_names)} against {', '.join(val.keypoint_names)}")
    if train.has_masks != val.has_masks:
        has, has_none = (train, val) if train.has_masks else (val, train)
        raise UserError(f"the objects of {has.path} have masks, those of {has_none.path} have none: expected masks in "
                        "both, or boxes alone in both")


def _without_masks(task: Task, train: coco_json.CocoFile) -> str:
    empty = ", ".join(column.name for column in task.columns if column.group == "segm")
    return (f"{train.path} has boxes and no masks: Faster R-CNN by the same protocol, no mask head; {empty} stay empty")


def _annotation_file(folder: Path, task: Task, kind: Kind, half: str) -> Path:
    """The one file in `folder`/annotations that is meant; COCO's own name wins, doubt is an error that names them."""
    own = folder / "annotations" / f"{kind.prefix}_{half}2017.json"
    if own.is_file():
        return own
    found = sorted(path for path in folder.glob("annotations/*.json") if half in path.name.lower()
                   and not (half == "val" and "trainval" in path.name.lower()))
    mine = [path for path in found if path.name.startswith(kind.prefix)]
    candidates = mine or [path for path in found if not path.name.startswith(OTHER_PREFIXES)] or \
        [path for path in found if path.name.startswith(USUAL)]
    if not candidates:
        raise UserError(f"no annotation file for {half} in {folder}: expected for task {task.name} {task.layout}")
    if len(candidates) > 1:
        raise UserError(f"several annotation files for {half} in {folder / 'annotations'}: "
                        f"{', '.join(path.name for path in candidates)}; keep the one that is meant, or name it with "
                        f"--{half}-annotations")
    return candidates[0]


def _places(folder: Path, half: str) -> list[Path]:
    names = (f"{half}2017", f"images/{half}2017", f"images/{half}", half, "images", ".")
    return [folder / name for name in names if (folder / name).is_dir()]
