"""Where the data is: options first, then environment variables; everything that is missing is told at once."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from pretrain.errors import UserError
from transfer import datasets, tasks

TASKS = tuple(tasks.TASKS)
POSTER_TASKS = ("coco", "keypoints", "cityscapes")  # run when none are named
# Options that name a task's data, the first that was given wins; the last is its folder in DETECTRON2_DATASETS too.
DATA_OPTIONS = {"coco": ("coco",), "coco-c4": ("coco",), "keypoints": ("keypoints", "coco"),
                "cityscapes": ("cityscapes",), "voc": ("voc",), "lvis": ("lvis",)}
IMAGENET_LAYOUT = "IMAGENET_DIR/train/CLASS/*.JPEG (only the images are read, no labels)"


@dataclass(frozen=True)
class Photos:
    """A folder of pretraining images: how many, and the hash of their names and sizes."""

    folder: Path
    images: int
    digest: str


@dataclass(frozen=True)
class TaskData:
    """A task's data folder, image counts, and the hash of what describes it."""

    folder: Path
    train_images: int
    val_images: int
    digest: str


def find_photos(photos: Path | None, imagenet: Path | None) -> Photos:
    """Pretraining images: --photos, else --imagenet, else $IMAGENET_DIR. Raises `UserError`."""
    if photos is not None:
        return read_photos(photos)
    root = imagenet or (Path(os.environ["IMAGENET_DIR"]) if os.environ.get("IMAGENET_DIR") else None)
    if root is None:
        raise UserError(f"pretraining images: give --imagenet DIR (or IMAGENET_DIR) laid out as {IMAGENET_LAYOUT}, "
                        "or --photos DIR for any folder of images")
    if not (root / "train").is_dir():
        raise UserError(f"pretraining images: no folder {root / 'train'}, expected {IMAGENET_LAYOUT}")
    return read_photos(root / "train")


def read_photos(folder: Path) -> Photos:
    """List a folder of images; names and sizes make its hash (contents of a million files would take hours)."""
    from pretrain.data import list_images  # imports torch: only when there is something to list

    images = list_images(folder)
    lines = (f"{name} {images.size(number)}" for number, name in enumerate(images))
    return Photos(folder, len(images), hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest())


def task_folder(task: str, given: dict[str, Path | None]) -> Path:
    """Folder of a task's data: its option (see DATA_OPTIONS), else $DETECTRON2_DATASETS."""
    options = DATA_OPTIONS[task]
    for option in options:
        if given.get(option) is not None:
            return Path(given[option])
    root = os.environ.get("DETECTRON2_DATASETS")
    if root:
        return Path(root) / options[-1]
    words = " or ".join(f"--{option} DIR" for option in options)
    raise UserError(f"task {task}: give {words} (or DETECTRON2_DATASETS, with {options[-1]}/ in it) laid out as "
                    f"{tasks.get(task).layout}")


def read_task(task: str, folder: Path) -> TaskData:
    """Check a task's data and hash its annotations and classes. Raises `UserError`."""
    try:
        described = datasets.describe(folder, task)
    except UserError as error:
        raise UserError(f"task {task}: {error}") from None
    identity = [described["classes"], *(described[split]["annotations_sha256"] for split in ("train", "val"))]
    return TaskData(folder, described["train"]["images"], described["val"]["images"],
                    hashlib.sha256(repr(identity).encode()).hexdigest())
