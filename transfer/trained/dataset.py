"""What the suite sees in a folder of data: counts, classes, sizes, notes, and a figure of annotated images.

`clove dataset DIR` is how a user believes that the data is read right.
"""

import argparse
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from pretrain.common.errors import UserError, refuse
from transfer import detectron2_compat
from transfer.annotations import keypoint_names
from transfer.data.dataset import SPLITS, Dataset, Where
from transfer.finetuning import drawing
from transfer.settings import datasets
from transfer.settings.where import add_crowds_as_objects
from transfer.tasks import TASKS

SHOWN = 12
COLUMNS = 4
CLASSES = 20  # that are listed one by one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DIR", type=Path, help="folder of the data")
    parser.add_argument("--task", choices=TASKS, help="read it as this task does (default: the "
                                                      "first that can)")
    add_crowds_as_objects(parser)
    parser.add_argument("--output", type=Path, default=Path("dataset.png"), metavar="FILE.png",
                        help="figure of annotated images (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    refuse((args.output.suffix.lower() != ".png", f"--output {args.output}: expected a file name "
                                                  "that ends in .png"),
           (not args.data.is_dir(), f"{args.data} is not a folder: expected the data of a task"))
    detectron2_compat.apply()
    dataset = find(Where(args.data, same_images=True, crowds_as_objects=args.crowds_as_objects), args.task)
    names = dict(zip(SPLITS, datasets.register(dataset), strict=True))
    print(f"task {dataset.task}: {TASKS[dataset.task].title}; objects have "
          f"{', '.join(dataset.parts)}")
    for half, name in names.items():
        print(describe(dataset, half, DatasetCatalog.get(name)))
    print(class_table(dataset, names))
    if dataset.keypoint_names:
        print(mirrored(dataset.keypoint_names))
    for note in dataset.notes:
        print(note)
    of_val = spread(DatasetCatalog.get(names["val"]), SHOWN // 2)
    chosen = [*spread(DatasetCatalog.get(names["train"]), SHOWN - len(of_val)), *of_val]
    drawing.write(drawing.draw_truth(chosen, MetadataCatalog.get(names["val"]), COLUMNS), args.output)
    print(f"wrote {args.output}: {len(chosen)} images of {' and '.join(SPLITS)} with their "
          "annotations")
    return 0


def find(where: Where, task: str | None) -> Dataset:
    """The dataset there as `task`, or as the first task that can read it; raises `UserError`."""
    if task:
        return datasets.find(where, task)
    for name in TASKS:
        try:
            return datasets.find(where, name)
        except UserError:
            continue
    raise UserError(f"{where.folder}: expected the data of one of the tasks {', '.join(TASKS)}, "
                    "found none that can read it; --task TASK prints why that one cannot")


def describe(dataset: Dataset, half: str, records: list[dict]) -> str:
    """Counts, places and sizes of the images of a half."""
    split, rows = dataset.half(half), []
    for record in records:
        rows.append((record["width"], record["height"], len(record["annotations"])))
    (width, height, _), (widest, highest, _) = np.min(rows, 0), np.max(rows, 0)
    objects = np.array(rows)[:, 2]
    return (f"{half}: {len(records)} images ({width} x {height} to {widest} x {highest} pixels; "
            f"{(objects == 0).sum()} without an object), {objects.sum()} objects\n"
            f"  annotations {split.annotations} (SHA-256 {split.annotations_sha256[:12]})\n"
            f"  images {split.image_root}")


def class_table(dataset: Dataset, names: dict[str, str]) -> str:
    """The objects of each class in both halves, the most frequent classes first."""
    counts = np.zeros((len(dataset.classes), len(names)), int)
    for half, name in enumerate(names.values()):
        for record in DatasetCatalog.get(name):
            for row in record["annotations"]:
                counts[row["category_id"], half] += 1
    lines = [f"{len(dataset.classes)} classes (objects in {', '.join(names)}):"]
    for place in np.argsort(-counts[:, 0], kind="stable")[:CLASSES]:
        lines.append(f"  {dataset.classes[place]}: {', '.join(map(str, counts[place]))}")
    if len(counts) > CLASSES:
        lines.append(f"  and {len(counts) - CLASSES} more")
    return "\n".join(lines)


def mirrored(names: tuple[str, ...]) -> str:
    alone = keypoint_names.without_partner(names)
    if alone:
        return f"{len(names)} keypoints; images are not mirrored: {', '.join(alone)} without a partner"
    pairs = [f"{left} and {right}" for left, right in keypoint_names.flip_pairs(names)]
    return f"{len(names)} keypoints; in a mirrored image change places: {', '.join(pairs) or 'none'}"


def spread(records: list[dict], number: int) -> list[dict]:
    """`number` of the records that have objects, evenly over their list."""
    annotated = [record for record in records if record["annotations"]]
    return annotated[::max(1, len(annotated) // number)][:number]
