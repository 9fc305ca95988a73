"""Datasets by folder: found by their layout, checked before anything runs, registered with detectron2 for one run.

Four layouts. COCO's own (train2017/, val2017/, annotations/instances_*2017.json or person_keypoints_*2017.json), also
as images/ beside annotations/*train*.json and *val*.json; the classes come from the annotation file. Cityscapes' own
(leftImg8bit/{train,val}/CITY, gtFine/{train,val}/CITY) with its eight classes. Pascal VOC's own (VOC2007/, VOC2012/)
with its twenty. LVIS v1's files beside COCO's images, with the classes of the files.
"""

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pretrain.atomic import sha256_file
from pretrain.errors import UserError
from transfer import coco_json, lvis_json
from transfer.image_check import check_image, missing, probed

# What the annotations of each task look like.
KINDS = {"coco": "coco", "coco-c4": "coco", "keypoints": "keypoints", "cityscapes": "cityscapes", "voc": "voc",
         "lvis": "lvis"}
TASKS = tuple(KINDS)
SPLITS = ("train", "val")
PREFIX = {"coco": "instances", "keypoints": "person_keypoints"}
OTHER_PREFIXES = ("instances", "person_keypoints", "captions", "image_info", "stuff", "panoptic")

# One line each: they stand at the end of error messages.
COCO_LAYOUT = (
    "DIR/annotations/{prefix}_train*.json and {prefix}_val*.json (or any *train*.json and *val*.json) with the images "
    "in DIR/images/, or DIR/images/train/ and DIR/images/val/, or DIR/train2017/ and DIR/val2017/"
)
CITYSCAPES_LAYOUT = (
    "DIR/leftImg8bit/{train,val}/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png and DIR/gtFine/{train,val}/CITY/"
    "CITY_SEQUENCE_FRAME_gtFine_{instanceIds.png,labelIds.png,polygons.json}"
)
VOC_LAYOUT = (
    "DIR/VOC2007/ and DIR/VOC2012/ (VOCdevkit's), each with JPEGImages/ID.jpg, Annotations/ID.xml and the lists "
    "ImageSets/Main/trainval.txt, in VOC2007 test.txt too"
)
LVIS_LAYOUT = (
    "DIR/lvis_v1_train.json and DIR/lvis_v1_val.json (or in DIR/annotations/) with COCO's train2017/ and val2017/ in "
    "DIR/, DIR/images/ or DIR/../coco/"
)


@dataclass(frozen=True)
class Split:
    """One half of a dataset: where its images and annotations lie."""

    images: int
    annotations: Path  # the COCO or LVIS file, the folder gtFine/train, or VOC's DIR
    image_root: Path  # what the names of the images are relative to
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
    own = {"cityscapes": _find_cityscapes, "voc": _find_voc, "lvis": _find_lvis}
    return own[task](folder) if task in own else _find_coco(folder, task)


def layout(task: str) -> str:
    """The folder layout that `task` expects, for messages."""
    own = {"cityscapes": CITYSCAPES_LAYOUT, "voc": VOC_LAYOUT, "lvis": LVIS_LAYOUT}
    return own[task] if task in own else COCO_LAYOUT.format(prefix=PREFIX[KINDS[task]])


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
    files = {split: coco_json.read(_annotation_file(folder, task, split), kind, split == "val") for split in SPLITS}
    train, val = files["train"], files["val"]
    _check_categories(folder, train, val)
    if train.keypoint_names != val.keypoint_names:
        raise UserError(f"the keypoints of {train.path.name} and {val.path.name} in {folder} differ: "
                        f"{', '.join(train.keypoint_names)} against {', '.join(val.keypoint_names)}")
    splits = {name: Split(len(file.file_names), file.path, _image_root(folder, name, file), sha256_file(file.path))
              for name, file in files.items()}
    return Dataset(task, splits["train"], splits["val"], tuple(name for _, name in train.categories),
                   train.keypoint_names, train.skeleton, train.has_rle)


def _check_categories(folder: Path, train: coco_json.CocoFile | lvis_json.LvisFile,
                      val: coco_json.CocoFile | lvis_json.LvisFile) -> None:
    if train.categories != val.categories:
        only = [f"{name} has {', '.join(f'{number} {label}' for number, label in sorted(extra))}"
                for name, extra in (("only train", set(train.categories) - set(val.categories)),
                                    ("only val", set(val.categories) - set(train.categories))) if extra]
        raise UserError(f"the categories of {train.path.name} and {val.path.name} in {folder} differ: "
                        f"{'; '.join(only)}; expected the same ids and names in both")


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
    """The folder that holds all images of `file`, see `_first_whole`."""
    names = (f"{split}2017", f"images/{split}2017", f"images/{split}", split, "images", ".")
    return _first_whole([folder / name for name in names if (folder / name).is_dir()], split, file)


def _first_whole(places: list[Path], split: str, file: coco_json.CocoFile | lvis_json.LvisFile) -> Path:
    """The first place that holds all images of `file`; raises with the count and the first names of those missing."""
    absent = {place: missing(place, file.file_names) for place in places}
    best = min(absent, key=lambda place: len(absent[place]))
    if absent[best]:
        first = ", ".join(absent[best][:3])
        raise UserError(f"{len(absent[best])} of the {len(file.file_names)} images that {file.path} lists are not in "
                        f"{best}: {first}{', ...' if len(absent[best]) > 3 else ''}")
    for name, size in probed(split, list(zip(file.file_names, file.sizes, strict=True))):
        check_image(best / name, size)
    return best


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
        for image, *_ in probed(name, files):
            check_image(Path(image), None)
        splits[name] = Split(len(files), annotations, images, _digest(annotations))
    return Dataset("cityscapes", splits["train"], splits["val"], cityscapes.class_names())


def _find_voc(folder: Path) -> Dataset:
    from transfer import voc  # imports detectron2, which the suite's plan does not need

    places = [place for place in (folder, folder / "VOCdevkit", folder / "voc") if (place / "VOC2007").is_dir()]
    if not places:
        raise UserError(f"{folder} is not laid out as Pascal VOC: {folder / 'VOC2007'} is missing; expected "
                        f"{layout('voc')}")
    splits = {}
    for name in SPLITS:
        records = voc.load(places[0], name)
        for record in probed(name, records):
            check_image(Path(record["file_name"]), (record["width"], record["height"]))
        splits[name] = Split(len(records), places[0], places[0], voc.digest(places[0], name))
    return Dataset("voc", splits["train"], splits["val"], tuple(voc.CLASS_NAMES))


def _find_lvis(folder: Path) -> Dataset:
    if not (folder / "lvis_v1_val.json").is_file() and (folder / "lvis").is_dir():
        folder = folder / "lvis"
    lvis_json.require()
    files = {}
    for name in SPLITS:
        paths = [folder / f"lvis_v1_{name}.json", folder / "annotations" / f"lvis_v1_{name}.json"]
        found = [path for path in paths if path.is_file()]
        if not found:
            raise UserError(f"no {paths[0].name} in {folder}: expected for task lvis {layout('lvis')}")
        files[name] = lvis_json.read(found[0])
    train, val = files["train"], files["val"]
    _check_categories(folder, train, val)
    places = [place for place in (folder, folder / "images", folder.absolute().parent / "coco") if place.is_dir()]
    splits = {name: Split(len(file.file_names), file.path, _first_whole(places, name, file), sha256_file(file.path))
              for name, file in files.items()}
    return Dataset("lvis", splits["train"], splits["val"], tuple(name for _, name in train.categories))


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
        load, words = _loader(dataset.kind, name, split)
        meta.set(thing_classes=list(dataset.classes), **words)
        if dataset.keypoint_names:
            points = dataset.keypoint_names
            meta.set(keypoint_names=list(points), keypoint_flip_map=flip_pairs(points),
                     keypoint_connection_rules=[(points[a - 1], points[b - 1], (255, 160, 0))
                                                for a, b in dataset.skeleton])
        # The training, precise batch norm and the picture each ask for the list: it is read once.
        DatasetCatalog.register(name, functools.cache(load))
    return dataset.names


def _loader(kind: str, name: str, split: Split) -> tuple[Callable[[], list[dict]], dict]:
    """What reads a split, and what its evaluator wants to know of it."""
    if kind == "cityscapes":
        from transfer import cityscapes

        return functools.partial(cityscapes.load, split.image_root, split.annotations), {
            "gt_dir": str(split.annotations)}
    if kind == "voc":
        from transfer import voc

        half = name.removeprefix("voc_")
        year, listed = voc.PARTS[half][0]
        return functools.partial(voc.load, split.annotations, half), {
            "dirname": str(split.annotations / year), "split": listed, "year": voc.YEAR}
    words = {"json_file": str(split.annotations), "image_root": str(split.image_root)}
    if kind == "lvis":
        lvis_json.require()
        from detectron2.data.datasets.lvis import load_lvis_json

        return functools.partial(load_lvis_json, str(split.annotations), f"{split.image_root}/"), words
    from detectron2.data.datasets.coco import load_coco_json

    return functools.partial(load_coco_json, str(split.annotations), str(split.image_root), name), words


def flip_pairs(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """The keypoints that change places when an image is mirrored: names that differ in left and right alone."""
    pairs = []
    for name in names:
        other = re.sub(r"(^|_)left(_|$)", r"\1right\2", name)
        other = re.sub(r"(^|_)l(_|$)", r"\1r\2", name) if other == name else other
        if other != name and other in names:
            pairs.append((name, other))
    return pairs


