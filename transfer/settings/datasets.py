"""Datasets: found and checked before anything runs, registered with detectron2 for one run.

How a task's data lies, is checked and read is in the task's file (transfer/tasks/); here is what all have in common.
"""

import functools
import re
from dataclasses import replace
from pathlib import Path

from pretrain.common.errors import UserError
from transfer import tasks
from transfer.data import train_share
from transfer.data.dataset import SPLITS, Dataset, Where


def find(data: str | Path | Where, task: str) -> Dataset:
    """The dataset of `task` in a folder, checked; raises `UserError` saying what is wrong and what is expected."""
    own = tasks.get(task)
    where = data if isinstance(data, Where) else Where(Path(data))
    train_share.check(where.train_share)
    named = {"--train-annotations": where.train_annotations, "--val-annotations": where.val_annotations,
             "--images": where.images}
    given = [option for option, path in named.items() if path is not None]
    if given and not own.named_files:
        raise UserError(f"{', '.join(given)}: the annotations of task {task} are not one file for each half; give "
                        f"--data DIR, laid out as {own.layout}")
    if where.folder is None and len(given) < len(named):
        missing = [option for option in named if option not in given]
        raise UserError(f"no --data DIR and no {', '.join(missing)}: expected a folder laid out as {own.layout}, or "
                        f"all of {', '.join(named)}")
    if where.folder is not None and not where.folder.is_dir():
        raise UserError(f"{where.folder} is not a folder: expected the data of task {task}, laid out as {own.layout}")
    for option, path in named.items():
        there = path is None or (path.is_dir() if option == "--images" else path.is_file())
        if not there:
            kind = "folder of images" if option == "--images" else "annotation file"
            raise UserError(f"{option} {path}: no such {kind}")
    dataset = _with_exif_note(replace(own.find(where), catalog=own.folders[0]))
    return dataset if where.train_share == 1 else _shared(dataset, where.train_share)


def _with_exif_note(dataset: Dataset) -> Dataset:
    opened = [dataset.train.opened, dataset.val.opened]
    turned = sum(half.turned_unseen for half in opened)
    if not turned:
        return dataset
    note = (f"warning: EXIF turns or mirrors {turned} of the {sum(half.images for half in opened)} images that were "
            "opened and leaves their size as it is: nobody can tell from sizes whether they were annotated as EXIF "
            "shows them, which is how they are read; compare a few, as in predictions.png")
    return replace(dataset, notes=(*dataset.notes, note))


def _shared(dataset: Dataset, share: float) -> Dataset:
    """`dataset` with a share of its training images; raises when they hold nothing to learn from."""
    read, _ = tasks.get(dataset.task).load(dataset, "train")
    records = _without_trace(read, dataset.name("train"))
    chosen = train_share.choose(records, dataset.train.image_root, share)
    learned = sum(train_share.teaches(record) for record in chosen)
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
    splits = {half: {"images": dataset.half(half).images, "annotations_sha256": dataset.half(half).annotations_sha256}
              for half in SPLITS}
    share = {"train_share": {"share": dataset.train_share, "images": dataset.train.images}}
    return {**splits, "classes": list(dataset.classes), **(share if dataset.train_share != 1 else {})}


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
            meta.set(keypoint_names=list(points), keypoint_flip_map=flip_pairs(points),
                     keypoint_connection_rules=[(points[a - 1], points[b - 1], (255, 160, 0))
                                                for a, b in dataset.skeleton])
        if half == "train" and dataset.train_share != 1:
            read = functools.partial(_read_share, read, split.image_root, dataset.train_share)
        # The training, precise batch norm and the figure each ask for the list: it is read once.
        DatasetCatalog.register(name, functools.cache(read))
    return dataset.names


def _read_share(read: tasks.Reader, image_root: Path, share: float) -> list[dict]:
    return train_share.choose(read(), image_root, share)


def flip_pairs(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """The keypoints that change places when an image is mirrored: names that differ in left and right alone."""
    pairs = []
    for name in names:
        other = re.sub(r"(^|_)left(_|$)", r"\1right\2", name)
        other = re.sub(r"(^|_)l(_|$)", r"\1r\2", name) if other == name else other
        if other != name and other in names:
            pairs.append((name, other))
    return pairs
