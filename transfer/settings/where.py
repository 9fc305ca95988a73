"""Where a dataset lies, as options of a command: a folder in the task's layout, or files that lie otherwise."""

import argparse
from pathlib import Path

from transfer.tasks import Where


def add_arguments(parser: argparse.ArgumentParser, images: bool = True, train_share: bool = True) -> None:
    """--data and the annotation files, with --images DIR unless that option is another one, and
    --train-share."""
    parser.add_argument("--data", required=not images, metavar="DIR", type=Path,
                        help="laid out as the task has it (docs/tasks_and_data.md); if not, the "
                             "error shows the layout")
    parser.add_argument("--train-annotations", metavar="FILE", type=Path,
                        help="annotation files that lie otherwise, for tasks with one file for "
                             "each half")
    parser.add_argument("--val-annotations", metavar="FILE", type=Path)
    if images:
        parser.add_argument("--images", dest="image_folder", metavar="DIR", type=Path,
                            help="folder of the images, or of train/ and val/ with them (default: "
                                 "those of --data, which is not needed where this and both "
                                 "annotation files are given)")
    add_same_images(parser)
    add_crowds_as_objects(parser)
    if train_share:
        parser.add_argument("--train-share", type=float, default=1.0, metavar="SHARE",
                            help="train on a fixed share of the training images, such as 0.1: "
                                 "those whose names have the smallest SHA-256, so that a smaller "
                                 "share is part of a larger one (default: all)")


def add_same_images(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--same-images", action="store_true",
                        help="let the images that are evaluated be training images: can a model "
                             "learn its own data?")


def add_crowds_as_objects(parser: argparse._ActionsContainer) -> None:
    """--crowds-as-objects, of every command that reads annotations."""
    parser.add_argument("--crowds-as-objects", action="store_true",
                        help="read annotations that COCO's format marks as crowds as single "
                             "objects: CVAT writes brush masks so")


def of(args: argparse.Namespace) -> Where:
    given = {"image_folder": None, "train_share": 1.0, **vars(args)}
    return Where(given["data"], given["train_annotations"], given["val_annotations"], given["image_folder"],
                 given["train_share"], given["same_images"], given["crowds_as_objects"])
