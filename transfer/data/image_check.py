"""The images of a dataset: whether they are there, can be opened and have the size that the annotations say."""

import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from multiprocessing.pool import ThreadPool
from pathlib import Path

from PIL.Image import DecompressionBombError
from tqdm import tqdm

from pretrain.common.errors import UserError, refuse
from pretrain.data.pixels import Header, UnreadableImage, read_header, read_pixels
from transfer.annotations.check_notes import remember
from transfer.annotations.coco_json import CocoFile
from transfer.data.dataset import Opened

# A share of the training images is decoded; those that are evaluated all are.
DECODED = 50  # images at least
DECODED_SHARE = 100  # one of so many
WAITING = 8  # threads at least: on a network disk most of the time is waiting

Row = tuple[Path, Sequence[int] | None]  # an image and its (width, height), None for any


def check_images(half: str, rows: Iterable[Row]) -> Opened:
    """Open images: the headers of all, and decoded all that are evaluated ("val"), a share of the
    others.

    Raises for the first that cannot be read or is of another size. Images that were checked before
    and are as they were are not opened again, see `check_notes`.
    """
    rows = list(rows)
    paths, sizes = zip(*rows, strict=True)
    return Opened(**remember(paths, [half, sizes], lambda: asdict(open_images(half, rows))))


def open_images(half: str, rows: list[Row]) -> Opened:
    """`check_images` without its note."""
    apart = 1 if half == "val" else max(1, min(DECODED_SHARE, len(rows) // DECODED))
    check = functools.partial(_checked, apart=apart)
    turned_unseen, refused = 0, ""
    for header, dark in in_threads(check, enumerate(rows), f"{half}: checking images", len(rows)):
        width, height = header.size
        turned_unseen += header.orientation in (2, 3, 4) or (header.orientation >= 5 and width == height)
        if half == "val" and not refused:
            refused = dark
    return Opened(len(rows), turned_unseen, refused)


def in_threads(check: Callable, rows: Iterable, title: str, number: int) -> Iterator:
    """`check` of each of `number` rows, in order, with a progress bar."""
    bar = tqdm(total=number, desc=title, unit="image", disable=not sys.stderr.isatty())
    with bar, ThreadPool(max(WAITING, os.cpu_count() or 1)) as pool:  # decoders and disks leave Python's lock
        for found in pool.imap(check, rows):
            yield found
            bar.update()


def _checked(work: tuple[int, Row], apart: int) -> tuple[Header, str]:
    """(header, why `--sixteen-bit shift` refuses it) of an image that can be read; raises for
    another one.

    One image in `apart` is decoded.
    """
    number, (path, size) = work
    header = check_image(path, size)
    if number % apart:
        return header, ""
    try:
        read_pixels(path)
    except UnreadableImage as error:
        if not header.sixteen_bits:
            raise UserError(f"{path} cannot be read as an image ({error}): replace it or take it "
                            "out") from None
        return header, f"{path}: {error}"
    return header, ""


def check_sixteen_bit(opened: Opened, sixteen_bit: str) -> None:
    """Raise when images that are evaluated cannot be read with this --sixteen-bit."""
    if sixteen_bit == "shift" and opened.refused_by_shift:
        raise UserError(opened.refused_by_shift)


def missing(place: Path, names: Sequence[str]) -> list[str]:
    """Those of `names`, paths relative to `place`, that are not there."""
    # One listing per folder: asking for each of 118,000 files takes minutes on a network disk.
    listed = {}
    for parent in {os.path.dirname(name) for name in names}:
        listed[parent] = set(os.listdir(place / parent)) if (place / parent).is_dir() else set()
    return [name for name in names if os.path.basename(name) not in listed[os.path.dirname(name)]]


def refuse_missing(file: Path, place: Path, absent: list[str], names: Sequence[str]) -> None:
    """Raise when some of the `names` that `file` lists are `absent` from `place`."""
    refuse((absent, f"{file}: {len(absent)} of the {len(names)} files that it lists are not in "
                    f"{place}: {', '.join(absent[:3])}"))


def first_whole(places: list[Path], half: str, file: CocoFile) -> tuple[Path, Opened]:
    """The first place that holds all images of `file` with the sizes that it gives, and what
    `check_images` says.

    Raises with the count and the first names of those missing.
    """
    names = list(file.images)
    absent = {place: missing(place, names) for place in places}
    best = min(absent, key=lambda place: len(absent[place]))
    refuse_missing(file.path, best, absent[best], names)
    return best, check_images(half, [(best / name, size) for name, size in file.images.items()])


def check_image(path: Path, size: Sequence[int] | None) -> Header:
    """The header of the image there; raises unless it can be opened and is of `size` (width,
    height; None for any)."""
    try:
        header = read_header(path)
    except (OSError, SyntaxError, DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): replace it or take it out") from None
    width, height = header.size
    expected = tuple(size or header.size)
    turned = " (as its EXIF orientation shows it)" if header.orientation >= 5 and width != height else ""
    refuse((header.size != expected,
            f"{path} is {width} x {height} pixels{turned} but the annotations say {expected[0]} x "
            f"{expected[1]}: expected the images that were annotated, at their size"))
    return header
