"""Datasets: found and checked before anything runs, registered with detectron2 for one run.

How a task's data lies, is checked and read is in the task's file (transfer/tasks/); here is what
all have in common.
"""

import functools
from dataclasses import replace
from pathlib import Path

from pretrain.common.errors import refuse
from transfer import tasks
from transfer.annotations import keypoint_names
from transfer.data import train_share
from transfer.data.dataset import SPLITS, Dataset, Where


def find(data: str | Path | Where, task: str) -> Dataset:
    """The dataset of `task` in a folder, checked; raises `UserError` saying what is wrong and what
    is expected."""
    own = tasks.get(task)
    where = data if isinstance(data, Where) else Where(Path(data))
    _check_options(where, own)
    dataset = replace(own.find(where), catalog=own.folders[0])
    turned = dataset.train.opened.turned_unseen + dataset.val.opened.turned_unseen
    if turned:
        opened = dataset.train.opened.images + dataset.val.opened.images
        note = (f"warning: EXIF turns or mirrors {turned} of the {opened} images that were opened "
                "and leaves their size as it is: nobody can tell from sizes whether they were "
                "annotated as EXIF shows them, which is how they are read; compare a few, as in "
                "predictions.png")
        dataset = replace(dataset, notes=(*dataset.notes, note))
    if where.train_share != 1:
        dataset = _shared(dataset, where.train_share)
    return dataset


def _check_options(where: Where, task: tasks.Task) -> None:
    files = {"--train-annotations": where.train_annotations, "--val-annotations": where.val_annotations}
    named = {**files, "--images": where.images}
    given = [option for option, path in named.items() if path is not None]
    missing = ", ".join(option for option in named if option not in given)
    refuse(
        (not 0 < where.train_share <= 1,  # written so that NaN fails too
         f"--train-share {where.train_share:g}: expected a share of the training images, above 0 "
         "and at most 1"),
        (given and not task.named_files,
         f"{', '.join(given)}: the annotations of task {task.name} are not one file for each half; "
         f"give --data DIR, laid out as {task.layout}"),
        (where.crowds_as_objects and not task.named_files,
         f"--crowds-as-objects: the annotations of task {task.name} are not in COCO's format; "
         "leave it out"),
        (where.folder is None and missing,
         f"no --data DIR and no {missing}: expected a folder laid out as {task.layout}, or all of "
         f"{', '.join(named)}"),
        (where.folder is not None and not where.folder.is_dir(),
         f"{where.folder} is not a folder: expected the data of task {task.name}, laid out as "
         f"{task.layout}"),
        (where.images is not None and not where.images.is_dir(),
         f"--images {where.images} is not a folder: expected the folder of the images"))
    for option, path in files.items():
        refuse((path is not None and not path.is_file(),
                f"{option} {path} is not a file: expected an annotation file"))


def _shared(dataset: Dataset, share: float) -> Dataset:
    """`dataset` with a share of its training images; raises when they hold nothing to learn from.
    """
    from detectron2.data import MetadataCatalog

    whole = replace(dataset, catalog=f"{dataset.catalog}_whole")  # detectron2's readers note it in the catalog
    read, _ = tasks.get(dataset.task).load(whole, "train")
    records = read()
    MetadataCatalog.pop(whole.name("train"), None)
    chosen = train_share.choose(records, dataset.train.image_root, share)
    learned = sum(map(train_share.teaches, chosen))
    refuse((not learned, f"--train-share {share:g}: none of the {len(chosen)} images that it takes "
                         f"from {dataset.train.annotations} has an object to learn from: expected "
                         "a larger share"))
    note = f"--train-share {share:g}: {len(chosen)} of {len(records)} training images, {learned} of them with objects"
    return replace(dataset, train=replace(dataset.train, images=len(chosen)), train_share=share,
                   notes=(*dataset.notes, note))


def describe(dataset: Dataset) -> dict:
    """Image counts, annotation hashes, classes and a share of the training images, as they stand in
    result.json."""
    described: dict = {}
    for half in SPLITS:
        split = dataset.half(half)
        described[half] = {"images": split.images, "annotations_sha256": split.annotations_sha256}
    described["classes"] = list(dataset.classes)
    if dataset.train_share != 1:
        described["train_share"] = {"share": dataset.train_share, "images": dataset.train.images}
    return described


def register(dataset: Dataset) -> tuple[str, str]:
    """Make `dataset` known to detectron2 in this process; returns the names of train and val.

    Registering another dataset of the same task replaces the first: the names are part of the
    recorded config and stay the same wherever the data lies.
    """
    from detectron2.data import DatasetCatalog, DatasetFromList, MetadataCatalog

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
        # One block of memory, a tenth of the records' size as objects, for all who ask for them:
        # the training, precise batch norm, the figure. Forked loader processes share it.
        DatasetCatalog.register(name, functools.cache(lambda read=read: DatasetFromList(read(), copy=False)))
    return dataset.names
