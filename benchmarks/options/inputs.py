"""Where the data is: options first, then environment variables; everything that is missing is reported at once."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.options.checks import check_name, slug
from pretrain.common.errors import UserError, refuse
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
    """What a data option names, as [LABEL=]DIR or [LABEL=]TRAIN.json,VAL.json,IMAGES; `part`: of
    the names of stages, which most need not have; `annotations`: of train and val, where they lie
    otherwise than below `folder`."""

    label: str
    folder: Path
    part: str = ""
    annotations: tuple[Path, ...] = ()


@dataclass(frozen=True)
class TaskData:
    """A task's dataset: where it is (as in `DataFolder`), image counts, hashes of what belongs to
    the training (classes too) and of what to the evaluation. `reading`: options of transfer that
    say how it is read."""

    label: str
    folder: Path
    part: str
    train_images: int
    val_images: int
    training: str
    evaluation: str
    annotations: tuple[Path, ...] = ()
    reading: tuple[str, ...] = ()

    def arguments(self) -> list[object]:
        """The options of transfer that name it."""
        found: list[object] = ["--data", self.folder]
        for option, file in zip(("--train-annotations", "--val-annotations"), self.annotations, strict=False):
            found += [option, file]
        return [*found, *self.reading]


def find_photos(photos: Path | None, imagenet: Path | None, labels: Iterable[Kind] = (), part: str = "") -> Photos:
    """Pretraining images, of the sub-folder `part`: in --photos, else --imagenet, else
    $IMAGENET_DIR.

    The folder is absolute: what is planned here may run in a job that starts elsewhere. Raises
    `UserError`; see `read_photos`.
    """
    named = imagenet or os.environ.get("IMAGENET_DIR")
    root = photos or Path(named or "") / "train"
    refuse(
        (photos is None and not named,
         "pretraining images: give --imagenet DIR (or IMAGENET_DIR) laid out as "
         f"{IMAGENET_LAYOUT}, or --photos DIR for any folder of images"),
        (photos is None and not root.is_dir(),
         f"pretraining images: folder {root} not found, expected {IMAGENET_LAYOUT}"),
        (part and not (root / part).is_dir(),
         f"pretraining images: images={part}: {root / part} is not a folder; expected a sub-folder "
         f"of {root}"),
    )
    return read_photos((root / part).absolute(), labels)


def read_photos(folder: Path, labels: Iterable[Kind] = ()) -> Photos:
    """List a folder of images; names and sizes make its hash (contents of a million files would
    take hours).

    Raises `UserError`, also for an image without a class in one of the ways of `labels`.
    """
    from pretrain.data.batches import list_images  # imports torch: only when there is something to list

    images = list_images(folder)
    for kind in labels:
        try:
            count_classes(images, kind)
        except UserError as error:
            raise UserError(f"pretraining images in {folder}: {error}") from None
    listing = "\n".join(f"{name} {images.size(number)}" for number, name in enumerate(images))
    return Photos(folder, len(images), hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest())


def read_folders(option: str, values: list[str]) -> tuple[DataFolder, ...]:
    """The datasets of one data option (see `DataFolder`). Raises `UserError` for labels that are
    too much alike.

    Names of stages hold the labels but for the first folder without one, so that another dataset
    leaves the stages of those before it what they were.
    """
    found: list[DataFolder] = []
    for value in values:
        label, _, place = value.partition("=")
        if not place or not label.strip() or Path(value).exists():  # a folder may have = in its name
            label, place = "", value
        parts: Sequence[str] = [place]
        files = re.fullmatch(r"(.+?\.json),(.+?\.json),(.+)", place)
        if files:
            parts = files.groups()
        *annotations, folder = [Path(path).absolute() for path in parts]
        usual = not label and all(other.part for other in found)
        label = label or folder.name or option
        check_name(f"--{option} LABEL=DIR", label, [other.label for other in found])
        found.append(DataFolder(label, folder, "" if usual else f".{slug(label)}", tuple(annotations)))
    return tuple(found)


def task_folders(task: str, given: dict[str, tuple[DataFolder, ...]]) -> tuple[DataFolder, ...]:
    """Folders of a task's datasets: of its first option that was given, else in $DETECTRON2_DATASETS."""
    known = get(task)
    for option in known.folders:
        if given.get(option):
            return given[option]
    last, root, options = known.folders[-1], os.environ.get("DETECTRON2_DATASETS"), " DIR or --".join(known.folders)
    refuse((not root, f"task {task}: give --{options} DIR (or DETECTRON2_DATASETS, with {last}/ in "
                      f"it) laid out as {known.layout}"))
    return (DataFolder(last, Path(root).absolute() / last),)


def read_task(task: str, where: DataFolder, same_images: bool = False, crowds_as_objects: bool = False) -> TaskData:
    """Check a task's data and hash its annotations and classes. Raises `UserError`.

    `same_images`, `crowds_as_objects`: as in `Where`; the latter only where a task has COCO's format.
    """
    from transfer.settings import datasets  # imports what reads annotations: only when there are some

    crowds_as_objects = crowds_as_objects and get(task).named_files
    reading = []
    if same_images:
        reading.append("--same-images")
    if crowds_as_objects:
        reading.append("--crowds-as-objects")
    place = Where(where.folder, *where.annotations, same_images=same_images, crowds_as_objects=crowds_as_objects)
    try:
        described = datasets.describe(datasets.find(place, task))
    except UserError as error:
        raise UserError(f"task {task}: {error}") from None
    training, evaluation = identity.split_dataset(described)
    return TaskData(
        where.label, where.folder, where.part, train_images=described["train"]["images"],
        val_images=described["val"]["images"], training=identity.sha256(training),
        evaluation=identity.sha256(evaluation), annotations=where.annotations, reading=tuple(reading))
