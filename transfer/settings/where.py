"""Where a dataset lies, as options of a command: a folder in the task's layout, or files that lie otherwise."""

import argparse
from pathlib import Path

from transfer.tasks import Where


def add_arguments(parser: argparse.ArgumentParser, images: bool = True, train_share: bool = True) -> None:
    """--data and the annotation files, with --images DIR unless that option is another one, and --train-share."""
    more = ", and the images below --images" if images else ""
    parser.add_argument("--data", required=not images, metavar="DIR",
                        help="laid out as the task has it (docs/tasks_and_data.md); if not, the error shows the layout"
                             + (". Not needed where the next three are given" if images else ""))
    parser.add_argument("--train-annotations", metavar="FILE",
                        help=f"annotation files that lie otherwise, for tasks with one file for each half{more}")
    parser.add_argument("--val-annotations", metavar="FILE")
    if images:
        parser.add_argument("--images", dest="image_folder", metavar="DIR",
                            help="folder of the images, or of train/ and val/ with them (default: those of --data)")
    if train_share:
        parser.add_argument("--train-share", type=float, default=1.0, metavar="SHARE",
                            help="train on a fixed share of the training images, such as 0.1: those whose names have "
                                 "the smallest SHA-256, so that a smaller share is part of a larger one (default: all)")


def of(args: argparse.Namespace) -> Where:
    """What the options say."""
    def path(name: str) -> Path | None:
        value = getattr(args, name, None)
        return None if value is None else Path(value)

    return Where(path("data"), path("train_annotations"), path("val_annotations"), path("image_folder"),
                 getattr(args, "train_share", 1.0))
