"""Where images are: a list of names that knows how to read each of them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pretrain.common.errors import UserError, refuse
from pretrain.data import labels
from pretrain.data.name_table import NameTable
from pretrain.data.pixels import SixteenBit, UnreadableImage, decode, read_bytes

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jfif")
SMALLEST_SIDE = 16  # pixels; below it a view is a few source pixels enlarged


def walk_images(folder: str | Path, output: Path | None = None) -> Iterator[str]:
    """Paths of all images below a folder, relative to it and sorted; nested or flat, without
    hidden entries. One by one: no more than the entries of one folder at each depth are held.

    Raises `UserError` when the walk meets `output`: what is written there would become images."""
    check_folder(folder)
    forbidden = None if output is None else identity(output)

    def below(prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        here = Path(folder, prefix)
        itself = identity(here)
        if itself == forbidden:
            raise among_images(output, folder)
        if itself in above:  # a link that leads back up
            return
        for name in _entries(here):
            if name.endswith("/"):
                yield from below(prefix + name, above | {itself})
            else:
                yield prefix + name

    yield from below("", frozenset())


def check_folder(folder: str | Path) -> None:
    refuse((not Path(folder).is_dir(),
            f"image folder {folder} does not exist: expected a folder of images, nested or flat"))


def among_images(output: Path, folder: str | Path) -> UserError:
    """The error for an `output` that lies in the folder of the images."""
    return UserError(f"--output {output} lies inside --data {folder}, where the run's own figures would become "
                     "images to train on: choose an --output outside")


def _entries(folder: Path) -> list[str]:
    """Names of the images in a folder and, with a slash, of its folders; sorted as their paths
    are."""
    names = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    names.append(entry.name + "/")
                elif entry.name.lower().endswith(SUFFIXES):
                    names.append(entry.name)
    except OSError as error:  # images that are left out in silence would make another dataset
        raise UserError(f"the folder {folder} cannot be listed ({error.strerror}): fix its rights, or move it "
                        "out of the images") from None
    return sorted(names)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def identity(folder: str | Path) -> tuple[int, int]:
    """Device and inode."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


class ImageList(Sequence[str]):
    """Sorted names of the images in a folder, and their contents and labels by number.

    classes: sorted names of the classes; empty where `label_by` was not called.
    sixteen_bit: see pretrain/data/pixels.py.
    """

    def __init__(self, folder: str | Path, names: Iterable[str] | NameTable) -> None:
        self.folder = Path(folder)
        self.names = names if isinstance(names, NameTable) else NameTable(names)
        self.classes: tuple[str, ...] = ()
        self.sixteen_bit: SixteenBit = "shift"
        self._labels: tuple[labels.Kind, dict[str, int]] = ("none", {})

    @property
    def sha256(self) -> str:
        return self.names.sha256

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int | slice) -> str | list[str]:
        return self.names[number]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def label_by(self, kind: labels.Kind, classes: Iterable[str] | None = None) -> None:
        """Give the images the labels of one `kind` (pretrain/data/labels.py). `classes`: when they
        are known; otherwise every name is read. Raises `UserError` when an image has no label."""
        if kind != "none":
            if classes is None:
                classes = labels.count_classes(self, kind)
            self.classes = tuple(sorted(classes))
        self._labels = (kind, {name: number for number, name in enumerate(self.classes)})

    def label(self, number: int) -> int | None:
        """The place in `classes` of the class of image `number`; None without labels."""
        kind, numbers = self._labels
        return None if kind == "none" else numbers[labels.class_of(self[number], kind)]

    def size(self, number: int) -> int:
        """Bytes of the file of image `number`; -1 when it cannot be reached."""
        try:
            return (self.folder / self[number]).stat().st_size
        except OSError:  # a dangling link: reading it will name it
            return -1

    def stamps(self, numbers: range, each: Callable[..., Iterable] = map) -> np.ndarray:
        """(N, 2) int64: size in bytes and modification time in nanoseconds of each file, -1 for what
        cannot be reached. each: `map`, or that of a pool."""
        found = each(self._stamp, self[numbers.start:numbers.stop])
        return np.array(list(found), np.int64).reshape(-1, 2)

    def _stamp(self, name: str) -> tuple[int, int]:
        try:
            found = os.stat(self.folder / name)
        except OSError:  # a dangling link: reading it will name it
            return -1, -1
        return found.st_size, found.st_mtime_ns

    def read(self, number: int) -> bytes:
        """The file of image `number`; raises `UnreadableImage`."""
        return read_bytes(self.folder / self[number])

    def pixels(self, number: int) -> np.ndarray:
        """Image `number` as RGB, (H, W, 3) uint8; raises `UnreadableImage`."""
        pixels = decode(self.read(number), self.sixteen_bit)
        height, width = pixels.shape[:2]
        if min(width, height) < SMALLEST_SIDE:
            raise UnreadableImage(f"{width} x {height} pixels, expected at least {SMALLEST_SIDE} a side")
        return pixels
