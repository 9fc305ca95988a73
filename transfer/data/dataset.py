"""What is known of a dataset that was found and checked, and where one was looked for.

Standard library only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Where:
    """Where a dataset lies: a folder in the task's layout, or files that lie otherwise."""

    folder: Path | None  # None: all of the next three are given
    train_annotations: Path | None = None
    val_annotations: Path | None = None
    images: Path | None = None
    train_share: float = 1.0  # of the training images: a fixed subset, chosen by a hash of their names
    same_images: bool = False  # whether all images that are evaluated may be training images
    crowds_as_objects: bool = False  # whether annotations that are marked as crowds are read as single objects


Records = list[dict[str, Any]]  # detectron2's: file_name, image_id, width, height, annotations
Reader = Callable[[], Records]


@dataclass(frozen=True)
class Opened:
    """What the images that were opened are like, where it depends on more than the files whether
    that is right."""

    images: int = 0
    turned_unseen: int = 0  # turned or mirrored by EXIF so that their size stays as it is
    refused_by_shift: str = ""  # the first 16-bit one that is evaluated and that `--sixteen-bit shift` refuses, and why


@dataclass(frozen=True)
class Split:
    """One half of a dataset: where its images and annotations lie."""

    images: int
    annotations: Path  # the annotation file, or the folder that holds the annotations
    image_root: Path  # what the names of the images are relative to
    annotations_sha256: str
    opened: Opened = field(default_factory=Opened)  # of its images, those that were opened when it was found
    plain: Path | None = None  # the annotations as other programs can read them, if `annotations` is not plain COCO

    @property
    def readable(self) -> Path:
        """The annotations that detectron2 and pycocotools read."""
        return self.plain or self.annotations


@dataclass(frozen=True)
class Dataset:
    """A checked dataset: all that registering and configuring need."""

    task: str
    train: Split
    val: Split
    classes: tuple[str, ...]
    parts: tuple[str, ...]  # what every object has: boxes, masks, keypoints
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    has_rle: bool = False  # masks as run lengths: detectron2 must then keep masks as bitmaps
    train_share: float = 1.0  # of the training images; `train.images` counts those that are taken
    notes: tuple[str, ...] = ()  # lines that the user reads once, when a run starts
    catalog: str = ""  # what detectron2's catalog calls it; empty: as the task

    @property
    def names(self) -> tuple[str, str]:
        """The names of train and val in detectron2's catalog."""
        return self.name("train"), self.name("val")

    def name(self, half: str) -> str:
        """The name of `half` ("train" or "val") in detectron2's catalog.

        Tasks that share a folder share it.
        """
        return f"{self.catalog or self.task}_{half}"

    def half(self, half: str) -> Split:
        return {"train": self.train, "val": self.val}[half]
