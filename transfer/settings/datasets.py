"""Datasets: found and checked before anything runs, registered with detectron2 for one run.

How a task's data lies, is checked and read is in the task's file (transfer/tasks/); here is what all have in common.
"""

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.common.errors import UserError
from transfer import tasks
from transfer.annotations import keypoint_names
from transfer.annotations.problems import raise_first
from transfer.data import train_share
from transfer.data.dataset import SPLITS, Dataset, Where

if TYPE_CHECKING:
    from detectron2.data import DatasetFromList


def find(data: str | Path | Where, task: str) -> Dataset:
    """The dataset of `task` in a folder, checked; raises `UserError` saying what is wrong and what is expected."""
    own = tasks.get(task)
    where = data if isinstance(data, Where) else Where(Path(data))
    raise_first(_problems(where, own))
    dataset = replace(own.find(where), catalog=own.folders[0])
    turned = dataset.train.opened.turned_unseen + dataset.val.opened.turned_unseen
    if turned:
        opened = dataset.train.opened.images + dataset.val.opened.images
        note = (f"warning: EXIF turns or mirrors {turned} of the {opened} images that were opened and leaves their "
                "size as it is: nobody can tell from sizes whether they were annotated as EXIF shows them, which is "
                "how they are read; compare a few, as in predictions.png")
        dataset = replace(dataset, notes=(*dataset.notes, note))
    if where.train_share != 1:
        dataset = _shared(dataset, where.train_share)
    return dataset


def _problems(where: Where, task: tasks.Task) -> Iterator[str]:
    """Of the options, before anything is read."""
    yield from train_share.problems(where.train_share)
    named = {"--train-annotations": where.train_annotations, "--val-annotations": where.val_annotations,
             "--images": where.images}
    given = [option for option, path in named.items() if path is not None]
    if given and not task.named_files:
        yield (f"{', '.join(given)}: the annotations of task {task.name} are not one file for each half; give "
               f"--data DIR, laid out as {task.layout}")
    if where.crowds_as_objects and not task.named_files:
        yield f"--crowds-as-objects: the annotations of task {task.name} are not in COCO's format; leave it out"
    if where.folder is None and len(given) < len(named):
        missing = ", ".join(option for option in named if option not in given)
        yield (f"no --data DIR and no {missing}: expected a folder laid out as {task.layout}, or all of "
               f"{', '.join(named)}")
    if where.folder is not None and not where.folder.is_dir():
        yield f"{where.folder} is not a folder: expected the data of task {task.name}, laid out as {task.layout}"
    for option in given:
        path = named[option]
        if option == "--images" and not path.is_dir():
            yield f"--images {path} is not a folder: expected the folder of the images"
        if option != "--images" and not path.is_file():
            yield f"{option} {path} is not a file: expected an annotation file"


def _shared(dataset: Dataset, share: float) -> Dataset:
    """`dataset` with a share of its training images; raises when they hold nothing to learn from."""
    read, _ = tasks.get(dataset.task).load(dataset, "train")
    records = _without_trace(read, dataset.name("train"))
    chosen = train_share.choose(records, dataset.train.image_root, share)
    learned = sum(map(train_share.teaches, chosen))
    if not learned:
        raise UserError(f"--train-share {share:g}: none of the {len(chosen)} images that it takes from "
                        f"{dataset.train.annotations} has an object to learn from: expected a larger share")
    note = f"--train-share {share:g}: {len(chosen)} of {len(records)} training images, {learned} of them with objects"
    return replace(dataset, train=replace(dataset.train, images=len(chosen)), train_share=share,
                   notes=(*dataset.notes, note))


def _without_trace(read: tasks.Reader, name: str) -> list[dict]:
    """The records; what detectron2's readers note of a dataset in its catalog is as before."""
    from detectron2.data import MetadataCatalog

    before = MetadataCatalog.pop(name, None)
    try:
        return read()
    finally:
        MetadataCatalog.pop(name, None)
        if before is not None:
            MetadataCatalog[name] = before


def describe(data: str | Path | Where | Dataset, task: str | None = None) -> dict:
    """Image counts, annotation hashes, classes and a share of the training images, as they stand in result.json."""
    dataset = data if isinstance(data, Dataset) else find(data, task)
    described: dict = {}
    for half in SPLITS:
        split = dataset.half(half)
        described[half] = {"images": split.images, "annotations_sha256": split.annotations_sha256}
    described["classes"] = list(dataset.classes)
    if dataset.train_share != 1:
        described["train_share"] = {"share": dataset.train_share, "images": dataset.train.images}
    return described


def _packed(read: tasks.Reader) -> "DatasetFromList":
    """The records in one block of memory, a tenth of their size as objects, for all who ask for them: the training,
    precise batch norm, the figure. Forked loader processes share it."""
    from detectron2.data import DatasetFromList

    return DatasetFromList(read(), copy=False)


def register(dataset: Dataset) -> tuple[str, str]:
    """Make `dataset` known to detectron2 in this process; returns the names of train and val.

    Registering another dataset of the same task replaces the first: the names are part of the recorded config and
    stay the same wherever the data lies.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    for half in SPLITS:
        name, split = dataset.name(half), dataset.half(half)
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        meta = MetadataCatalog.get(name)
        read, known = tasks.get(dataset.task).load(dataset, half)
        meta.set(thing_classes=list(dataset.classes), **known)
        if dataset.keypoint_names:
            points = dataset.keypoint_names
            lines = [(points[a - 1], points[b - 1], (255, 160, 0)) for a, b in dataset.skeleton]
            meta.set(keypoint_names=list(points), keypoint_flip_map=keypoint_names.flip_pairs(points),
                     keypoint_connection_rules=lines)
        if half == "train" and dataset.train_share != 1:
            read = functools.partial(train_share.read, read, split.image_root, dataset.train_share)
        DatasetCatalog.register(name, functools.cache(functools.partial(_packed, read)))
    return dataset.names
