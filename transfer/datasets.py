"""Datasets by folder: found by their layout, checked before anything runs, registered with detectron2 for one run.

Two layouts. COCO's own (train2017/, val2017/, annotations/instances_*2017.json or person_keypoints_*2017.json), also
as images/ beside annotations/*train*.json and *val*.json; the classes come from the annotation file. Cityscapes' own
(leftImg8bit/{train,val}/CITY, gtFine/{train,val}/CITY) with its eight classes.
"""

import functools
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pretrain.atomic import sha256_file
from pretrain.errors import UserError
from transfer import coco_json

# What the annotations of each task look like.
KINDS = {"coco": "coco", "coco-c4": "coco", "keypoints": "keypoints", "cityscapes": "cityscapes", "voc": "voc",
         "lvis": "lvis"}
TASKS = tuple(KINDS)
SPLITS = ("train", "val")
PREFIX = {"coco": "instances", "keypoints": "person_keypoints"}
OTHER_PREFIXES = ("instances", "person_keypoints", "captions", "image_info", "stuff", "panoptic")
# Opened to see that they are images of the stated size: all that are evaluated, and this many of the others, where
# the training replaces the few that cannot be read.
PROBED_IMAGES = 50

# One line each: they stand at the end of error messages.
COCO_LAYOUT = (
    "DIR/annotations/{prefix}_train*.json and {prefix}_val*.json (or any *train*.json and *val*.json) with the images "
    "in DIR/images/, or DIR/images/train/ and DIR/images/val/, or DIR/train2017/ and DIR/val2017/"
)
CITYSCAPES_LAYOUT = (
    "DIR/leftImg8bit/{train,val}/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png and DIR/gtFine/{train,val}/CITY/"
    "CITY_SEQUENCE_FRAME_gtFine_{instanceIds.png,labelIds.png,polygons.json}"
)


@dataclass(frozen=True)
class Split:
    """One half of a dataset: where its images and annotations lie."""

    images: int
    annotations: Path  # the COCO file, or the folder gtFine/train
    image_root: Path
    annotations_sha256: str


@dataclass(frozen=True)
class Dataset:
    """A checked dataset: all that registering and configuring need."""

    task: str
    train: Split
    val: Split
    classes: tuple[str, ...]
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    has_rle: bool = False  # masks as run lengths: detectron2 must then keep masks as bitmaps

    @property
    def kind(self) -> str:
        """What the annotations look like, see KINDS."""
        return KINDS[self.task]

    @property
    def names(self) -> tuple[str, str]:
        """The names of train and val in detectron2's catalog."""
        return f"{self.kind}_train", f"{self.kind}_val"


def find(data: str | Path, task: str) -> Dataset:
    """The dataset of `task` in folder `data`, checked; raises `UserError` saying what is wrong and what is expected."""
    if task not in TASKS:
        raise UserError(f"unknown task '{task}': expected one of {', '.join(TASKS)}")
    folder = Path(data)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: expected the data of task {task}, laid out as {layout(task)}")
    return _find_cityscapes(folder) if task == "cityscapes" else _find_coco(folder, task)


def layout(task: str) -> str:
    """The folder layout that `task` expects, for messages."""
    return CITYSCAPES_LAYOUT if task == "cityscapes" else COCO_LAYOUT.format(prefix=PREFIX[KINDS[task]])


def describe(data: str | Path | Dataset, task: str | None = None) -> dict:
    """Image counts, annotation hashes and classes, as they stand in result.json."""
    dataset = data if isinstance(data, Dataset) else find(data, task)
    splits = {name: {"images": split.images, "annotations_sha256": split.annotations_sha256}
              for name, split in (("train", dataset.train), ("val", dataset.val))}
    return {**splits, "classes": list(dataset.classes)}


def _find_coco(folder: Path, task: str) -> Dataset:
    kind = KINDS[task]
    if not (folder / "annotations").is_dir() and (folder / "coco" / "annotations").is_dir():
        folder = folder / "coco"
    files = {split: coco_json.read(_annotation_file(folder, task, split), kind) for split in SPLITS}
    train, val = files["train"], files["val"]
    if train.categories != val.categories:
        only = [f"{name} has {', '.join(f'{number} {label}' for number, label in sorted(extra))}"
                for name, extra in (("only train", set(train.categories) - set(val.categories)),
                                    ("only val", set(val.categories) - set(train.categories))) if extra]
        raise UserError(f"the categories of {train.path.name} and {val.path.name} in {folder} differ: "
                        f"{'; '.join(only)}; expected the same ids and names in both")
    if train.keypoint_names != val.keypoint_names:
        raise UserError(f"the keypoints of {train.path.name} and {val.path.name} in {folder} differ: "
                        f"{', '.join(train.keypoint_names)} against {', '.join(val.keypoint_names)}")
    splits = {name: Split(len(file.file_names), file.path, _image_root(folder, name, file), sha256_file(file.path))
              for name, file in files.items()}
    return Dataset(task, splits["train"], splits["val"], tuple(name for _, name in train.categories),
                   train.keypoint_names, train.skeleton, train.has_rle)


def _annotation_file(folder: Path, task: str, split: str) -> Path:
    """The one file in `folder`/annotations that is meant; COCO's own name wins, doubt is an error that names them."""
    own = folder / "annotations" / f"{PREFIX[KINDS[task]]}_{split}2017.json"
    if own.is_file():
        return own
    found = sorted(path for path in folder.glob("annotations/*.json") if split in path.name.lower()
                   and not (split == "val" and "trainval" in path.name.lower()))
    mine = [path for path in found if path.name.startswith(PREFIX[KINDS[task]])]
    candidates = mine or [path for path in found if not path.name.startswith(OTHER_PREFIXES)] or \
        [path for path in found if path.name.startswith("instances")]
    if not candidates:
        raise UserError(f"no annotation file for {split} in {folder}: expected for task {task} {layout(task)}")
    if len(candidates) > 1:
        raise UserError(f"several annotation files for {split} in {folder / 'annotations'}: "
                        f"{', '.join(path.name for path in candidates)}; keep the one that is meant")
    return candidates[0]


def _image_root(folder: Path, split: str, file: coco_json.CocoFile) -> Path:
    """The folder that holds all images of `file`; raises with the count and the first names of those missing."""
    names = (f"{split}2017", f"images/{split}2017", f"images/{split}", split, "images", ".")
    places = [folder / name for name in names if (folder / name).is_dir()]
    missing = {place: _missing(place, file.file_names) for place in places}
    best = min(missing, key=lambda place: len(missing[place]))
    if missing[best]:
        first = ", ".join(missing[best][:3])
        raise UserError(f"{len(missing[best])} of the {len(file.file_names)} images that {file.path} lists are not in "
                        f"{best}: {first}{', ...' if len(missing[best]) > 3 else ''}")
    for name, size in _probed(split, list(zip(file.file_names, file.sizes, strict=True))):
        _check_image(best / name, size)
    return best


def _probed(split: str, rows: list[tuple]) -> list[tuple]:
    return rows if split == "val" else rows[::max(1, len(rows) // PROBED_IMAGES)][:PROBED_IMAGES]


def _missing(place: Path, names: tuple[str, ...]) -> list[str]:
    # One listing per folder: asking for each of 118,000 files takes minutes on a network disk.
    listed = {parent: _listing(place / parent) for parent in {os.path.dirname(name) for name in names}}
    return [name for name in names if os.path.basename(name) not in listed[os.path.dirname(name)]]


def _listing(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _check_image(path: Path, size: tuple[int, int] | None) -> None:
    try:
        with Image.open(path) as image:
            found = image.size
    except OSError as error:
        raise UserError(f"{path} cannot be read as an image ({error}): replace it or take it out") from None
    if size is not None and found != tuple(size):
        raise UserError(f"{path} is {found[0]} x {found[1]} pixels but the annotations say {size[0]} x {size[1]}: "
                        "expected the images that were annotated, at their size")


def _find_cityscapes(folder: Path) -> Dataset:
    if not (folder / "leftImg8bit").is_dir() and (folder / "cityscapes" / "leftImg8bit").is_dir():
        folder = folder / "cityscapes"
    from transfer import cityscapes  # needs cityscapesscripts, which the other tasks do not

    splits = {}
    for name in SPLITS:
        images, annotations = folder / "leftImg8bit" / name, folder / "gtFine" / name
        if not images.is_dir() or not annotations.is_dir():
            raise UserError(f"{folder} is not laid out as Cityscapes: {images if not images.is_dir() else annotations} "
                            f"is missing; expected {layout('cityscapes')}")
        files = cityscapes.list_files(images, annotations)
        if not files:
            raise UserError(f"no images in {images}: expected {layout('cityscapes')}")
        for image, *_ in _probed(name, files):
            _check_image(Path(image), None)
        splits[name] = Split(len(files), annotations, images, _digest(annotations))
    return Dataset("cityscapes", splits["train"], splits["val"], cityscapes.class_names())


def _digest(folder: Path) -> str:
    """One SHA-256 over the names and contents of all annotation files in `folder`."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*/*")):
        if path.name.endswith(("_instanceIds.png", "_labelIds.png", "_polygons.json")):
            total.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return total.hexdigest()


def register(dataset: Dataset) -> tuple[str, str]:
    """Make `dataset` known to detectron2 in this process; returns the names of train and val.

    Registering another dataset of the same task replaces the first: the names are part of the recorded config and
    stay the same wherever the data lies.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    for name, split in zip(dataset.names, (dataset.train, dataset.val), strict=True):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        meta = MetadataCatalog.get(name)
        if dataset.kind == "cityscapes":
            from transfer import cityscapes

            load = functools.partial(cityscapes.load, split.image_root, split.annotations)
            meta.set(gt_dir=str(split.annotations), thing_classes=list(dataset.classes))
        else:
            load = functools.partial(_load_coco, split, name)
            meta.set(json_file=str(split.annotations), image_root=str(split.image_root),
                     thing_classes=list(dataset.classes))
        if dataset.keypoint_names:
            points = dataset.keypoint_names
            meta.set(keypoint_names=list(points), keypoint_flip_map=flip_pairs(points),
                     keypoint_connection_rules=[(points[a - 1], points[b - 1], (255, 160, 0))
                                                for a, b in dataset.skeleton])
        # The training, precise batch norm and the picture each ask for the list: it is read once.
        DatasetCatalog.register(name, functools.cache(load))
    return dataset.names


def _load_coco(split: Split, name: str) -> list[dict]:
    from detectron2.data.datasets.coco import load_coco_json

    return load_coco_json(str(split.annotations), str(split.image_root), name)


def flip_pairs(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """The keypoints that change places when an image is mirrored: names that differ in left and right alone."""
    pairs = []
    for name in names:
        other = re.sub(r"(^|_)left(_|$)", r"\1right\2", name)
        other = re.sub(r"(^|_)l(_|$)", r"\1r\2", name) if other == name else other
        if other != name and other in names:
            pairs.append((name, other))
    return pairs


