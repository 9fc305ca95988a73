"""Where the data is: options first, then environment variables; everything that is missing is told at once."""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pretrain.common.errors import UserError
from pretrain.data.labels import Kind, count_classes
from transfer.records import identity
from transfer.tasks import TASKS, Where, get

POSTER_TASKS = tuple(name for name, task in TASKS.items() if task.table.in_poster)  # run when none are named
PROBED = tuple(name for name, task in TASKS.items() if task.pixel_labels is not None)
# Options that name data, in the order of the tasks: the first of a task's that was given wins.
DATA_OPTIONS = tuple(dict.fromkeys(option for task in TASKS.values() for option in task.folders))
IMAGENET_LAYOUT = "IMAGENET_DIR/train/CLASS/*.JPEG (only the images are read, no labels)"


@dataclass(frozen=True)
class Photos:
    """A folder of pretraining images: how many, and the hash of their names and sizes."""

    folder: Path
    images: int
    digest: str


@dataclass(frozen=True)
class DataFolder:
    """What a data option names, as [LABEL=]DIR or [LABEL=]TRAIN.json,VAL.json,IMAGES; `part`: of the names of stages,
    which most need not have; `annotations`: of train and val, where they lie otherwise than below `folder`."""

    label: str
    folder: Path
    part: str = ""
    annotations: tuple[Path, ...] = ()


@dataclass(frozen=True)
class TaskData:
    """A task's dataset: where it is (as in `DataFolder`), image counts, hashes of what belongs to the training (classes
    too) and of what to the evaluation."""

    label: str
    folder: Path
    part: str
    train_images: int
    val_images: int
    training: str
    evaluation: str
    annotations: tuple[Path, ...] = ()

    def arguments(self) -> list[object]:
        """The options of transfer that name it."""
        words: list[object] = ["--data", self.folder]
        for option, path in zip(("--train-annotations", "--val-annotations"), self.annotations, strict=False):
            words += [option, path]
        return words


def find_photos(photos: Path | None, imagenet: Path | None, labels: Iterable[Kind] = (), part: str = "") -> Photos:
    """Pretraining images, of the sub-folder `part`: in --photos, else --imagenet, else $IMAGENET_DIR.

    The folder is absolute: what is planned here may run in a job that starts elsewhere. Raises `UserError`; see
    `read_photos`.
    """
    root = _images_root(photos, imagenet)
    if part and not (root / part).is_dir():
        raise UserError(f"pretraining images: images={part}: {root / part} is not a folder; expected a sub-folder of "
                        f"{root}")
    return read_photos((root / part).absolute(), labels)


def _images_root(photos: Path | None, imagenet: Path | None) -> Path:
    if photos is not None:
        return photos
    root = imagenet or (Path(os.environ["IMAGENET_DIR"]) if os.environ.get("IMAGENET_DIR") else None)
    if root is None:
        raise UserError(f"pretraining images: give --imagenet DIR (or IMAGENET_DIR) laid out as {IMAGENET_LAYOUT}, "
                        "or --photos DIR for any folder of images")
    if not (root / "train").is_dir():
        raise UserError(f"pretraining images: no folder {root / 'train'}, expected {IMAGENET_LAYOUT}")
    return root / "train"


def read_photos(folder: Path, labels: Iterable[Kind] = ()) -> Photos:
    """List a folder of images; names and sizes make its hash (contents of a million files would take hours).

    Raises `UserError`, also for an image without a class in one of the ways of `labels`.
    """
    from pretrain.data.batches import list_images  # imports torch: only when there is something to list

    images = list_images(folder)
    for kind in labels:
        try:
            count_classes(images, kind)
        except UserError as error:
            raise UserError(f"pretraining images in {folder}: {error}") from None
    lines = (f"{name} {images.size(number)}" for number, name in enumerate(images))
    return Photos(folder, len(images), hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest())


def read_folders(option: str, words: list[str]) -> tuple[DataFolder, ...]:
    """The datasets of one data option (see `DataFolder`). Raises `UserError` for labels that cannot be told apart.

    Names of stages hold the labels but for the first folder without one, so that another dataset leaves the stages of
    those before it what they were.
    """
    found: list[DataFolder] = []
    for word in words:
        label, equals, place = word.partition("=")
        if not equals or not label.strip() or Path(word).exists():  # a folder may have = in its name
            label, place = "", word
        named = re.fullmatch(r"(.+?\.json),(.+?\.json),(.+)", place)
        *files, place = named.groups() if named else [place]
        folder, annotations = Path(place).absolute(), tuple(Path(file).absolute() for file in files)
        unnamed = not label and not any(one.part == "" for one in found)
        label = label or folder.name or option
        if not label.isprintable() or label != label.strip():
            raise UserError(f"--{option} {word!r}: expected a label that can be printed, without spaces around it; "
                            f"name one, as in --{option} LABEL=DIR")
        part = "" if unnamed else f".{slug(label)}"
        if any(slug(one.label).lower() == slug(label).lower() for one in found):
            raise UserError(f"--{option} {word}: the label {label} is taken by another dataset; name one, as in "
                            f"--{option} LABEL=DIR")
        found.append(DataFolder(label, folder, part, annotations))
    return tuple(found)


def task_folders(task: str, given: dict[str, tuple[DataFolder, ...]]) -> tuple[DataFolder, ...]:
    """Folders of a task's datasets: of its first option that was given, else in $DETECTRON2_DATASETS."""
    known = get(task)
    for option in known.folders:
        if given.get(option):
            return given[option]
    last = known.folders[-1]
    root = os.environ.get("DETECTRON2_DATASETS")
    if root:
        return (DataFolder(last, Path(root).absolute() / last),)
    words = " or ".join(f"--{option} DIR" for option in known.folders)
    raise UserError(f"task {task}: give {words} (or DETECTRON2_DATASETS, with {last}/ in it) laid out as "
                    f"{known.layout}")


def read_task(task: str, where: DataFolder) -> TaskData:
    """Check a task's data and hash its annotations and classes. Raises `UserError`."""
    from transfer.settings import datasets  # imports what reads annotations: only when there are some

    known = get(task)
    if where.annotations and not known.named_files:
        raise UserError(f"task {task}: its annotations are not one file for each half: expected DIR, laid out as "
                        f"{known.layout}, found {','.join(map(str, (*where.annotations, where.folder)))}")
    try:
        described = datasets.describe(Where(where.folder, *where.annotations), task)
    except UserError as error:
        raise UserError(f"task {task}: {error}") from None
    training, evaluation = identity.split_dataset(described)
    return TaskData(where.label, where.folder, where.part, described["train"]["images"], described["val"]["images"],
                    identity.sha256(training), identity.sha256(evaluation), where.annotations)


def slug(name: str) -> str:
    """A name as a part of a stage's."""
    return "".join(letter if letter.isalnum() or letter in "._" else "_" for letter in name)
