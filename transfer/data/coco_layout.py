"""COCO's folder layout: which annotation files are meant and where their images lie.

COCO's own (train2017/, val2017/, annotations/PREFIX_*2017.json), also as images/ beside
annotations/*train*.json and *val*.json, and as tools export it: train/_annotations.coco.json among
the images (Roboflow), train/labels.json beside train/data/ (FiftyOne), images/Train/ beside
annotations/instances_Train.json (CVAT), train/annotations/ beside train/img/ (Supervisely). The
classes come from the annotation file; so does what every object has.
"""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.common.errors import refuse
from transfer.annotations import coco_json, keypoint_names, plain_coco
from transfer.data.dataset import Dataset, Split, Where
from transfer.data.image_check import first_whole

if TYPE_CHECKING:
    from transfer.tasks import Task

# What COCO's file names start with.
OBJECTS, PERSONS = "instances", "person_keypoints"
PREFIXES = (OBJECTS, PERSONS, "captions", "image_info", "stuff", "panoptic")


def find(where: Where, task: Task, keypoints: bool = False) -> Dataset:
    """The dataset of `task`, checked: boxes with masks where there are some, or `keypoints`.

    Raises `UserError` saying what is wrong and what is expected.
    """
    prefix = PERSONS if keypoints else OBJECTS
    folder, inner = where.folder, task.folders[-1]
    if folder and not (folder / "annotations").is_dir() and (folder / inner / "annotations").is_dir():
        folder = folder / inner
    train_file = where.train_annotations or _annotation_file(folder, task, prefix, "train")
    val_file = where.val_annotations or _annotation_file(folder, task, prefix, "val")
    train = coco_json.read(train_file, keypoints, evaluated=False, crowds_as_objects=where.crowds_as_objects)
    val = coco_json.read(val_file, keypoints, crowds_as_objects=where.crowds_as_objects)
    coco_json.raise_unless_alike(train, val)
    images = where.images or folder
    parts, notes = ("boxes",), [*train.notes, *val.notes]
    if keypoints:
        parts = ("boxes", "keypoints")
        alone = keypoint_names.without_partner(train.keypoint_names)
        if alone:
            notes.append(f"warning: {train.path}: keypoints {', '.join(alone)} have no partner on "
                         "the other side by their names: images are not flipped in training")
    elif train.has_masks:
        parts = ("boxes", "masks")
    else:
        empty = ", ".join(column.name for column in task.columns if column.group == "segm")
        notes.append(f"{train.path} has boxes and no masks: Faster R-CNN by the same protocol, no "
                     f"mask head; {empty} stay empty")
    classes = tuple(name for _, name in train.categories)
    splits = split(train, "train", _places(images, "train")), split(val, "val", _places(images, "val"))
    notes += images_in_both(splits, (train, val), where.same_images)
    return Dataset(task.name, *splits, classes, parts, train.keypoint_names, train.skeleton, train.has_rle,
                   notes=tuple(notes))


def images_in_both(splits: tuple[Split, Split], files: tuple[coco_json.CocoFile, coco_json.CocoFile],
                   same_images: bool) -> list[str]:
    """A note on the images that are trained on and evaluated; all of them raise, unless
    `same_images` allows it."""
    train, val = files
    trained = {splits[0].image_root / name for name in train.images}
    evaluated = {splits[1].image_root / name for name in val.images}
    of_name = {path.name: path for path in trained}
    both = []
    for path in sorted(evaluated):
        other = of_name.get(path.name)
        if path in trained or (other is not None and filecmp.cmp(path, other, shallow=False)):  # or a copy of one
            both.append(path.name)
    refuse((len(both) == len(evaluated) and not same_images,
            f"{val.path}: all of its {len(both)} images are in {train.path} too: expected other "
            "images, or metrics show how well a model remembers; --same-images allows it"))
    if not both:
        return []
    return [f"warning: {len(both)} of the {len(evaluated)} images that are evaluated are training "
            f"images ({', '.join(both[:3])}): metrics show how well a model remembers them"]


def split(file: coco_json.CocoFile, half: str, places: list[Path]) -> Split:
    """The `half` ("train" or "val") that `file` lists, its images in the first of `places` that has
    all of them."""
    root, opened = first_whole(places, half, file)
    return Split(len(file.images), file.path, root, plain_coco.sha256(file.path, file.crowds_as_objects), opened,
                 file.plain)


def _annotation_file(folder: Path, task: Task, prefix: str, half: str) -> Path:
    """The one file that is meant; COCO's own name wins, doubt is an error that names them."""
    own = folder / "annotations" / f"{prefix}_{half}2017.json"
    if own.is_file():
        return own
    mine, others, usual = [], [], []
    for path in _annotation_files(folder, half):
        if path.name.startswith(prefix):
            mine.append(path)
        elif not path.name.startswith(PREFIXES):
            others.append(path)
        elif path.name.startswith(OBJECTS):  # a person's file may have this name, with the keypoints in it
            usual.append(path)
    candidates = mine or others or usual
    found = ", ".join(str(path.relative_to(folder)) for path in candidates) or "none"
    refuse((len(candidates) != 1,
            f"{folder}: expected one annotation file for {half}, as in {task.layout}; found "
            f"{found}; keep the one that is meant, or name it with --{half}-annotations"))
    return candidates[0]


def _annotation_files(folder: Path, half: str) -> list[Path]:
    """The JSON files of a half, by their name or by the folder of the half that they are in."""
    named = []
    for path in sorted([*folder.glob("annotations/*.json"), *folder.glob("*.json")]):
        if half in path.name.lower() and not (half == "val" and "trainval" in path.name.lower()):
            named.append(path)
    if not named:
        for own in _half_folders(folder, half):
            named += sorted([*own.glob("*.json"), *own.glob("annotations/*.json")])
    return named


def _half_folders(folder: Path, half: str) -> list[Path]:
    """The sub-folders called as a half is: train, Train, valid, validation, val2017, ..."""
    return sorted(path for path in folder.glob("*/") if path.name.lower().startswith(half))


def _places(folder: Path, half: str) -> list[Path]:
    """Folders that may hold the images of a half, the likely ones first."""
    places = []
    for own in [*_half_folders(folder, half), *_half_folders(folder / "images", half)]:
        places += [own, own / "data", own / "images", own / "img"]
    places += [folder / "images", folder]
    return [place for place in places if place.is_dir()]
