"""The images of a dataset: whether they are there, can be opened and have the size that the annotations say."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from PIL.Image import DecompressionBombError
from tqdm import tqdm

from pretrain.common.errors import UserError
from pretrain.data.pixels import Header, UnreadableImage, read_header, read_pixels
from transfer.data.coco_json import CocoFile
from transfer.data.dataset import Opened
from transfer.data.problems import raise_first

# Of the training images, where the few that cannot be read are replaced; those that are evaluated are all opened.
PROBED_IMAGES = 50


def check_images(half: str, rows: Iterable[tuple[Path, tuple[int, int] | None]]) -> Opened:
    """Open images by their paths and (width, height): all that are evaluated ("val"), PROBED_IMAGES of the others.

    Raises for the first that cannot be decoded or is of another size; a size of None is not compared.
    """
    rows = list(rows)
    if half == "train":
        rows = rows[::max(1, len(rows) // PROBED_IMAGES)][:PROBED_IMAGES]
    turned_unseen, refused = 0, ""
    bar = tqdm(total=len(rows), desc=f"{half}: checking images", unit="image", disable=not sys.stderr.isatty())
    with bar, ThreadPool() as pool:  # decoders and disks leave Python's lock
        for header, dark in pool.imap(_checked, rows):
            width, height = header.size
            turned_unseen += header.orientation in (2, 3, 4) or (header.orientation >= 5 and width == height)
            if half == "val" and not refused:
                refused = dark
            bar.update()
    return Opened(len(rows), turned_unseen, refused)


def _checked(row: tuple[Path, tuple[int, int] | None]) -> tuple[Header, str]:
    """(header, why `--sixteen-bit shift` refuses it) of an image that can be decoded; raises for another one."""
    path, size = row
    header = check_image(path, size)
    try:
        read_pixels(path)
    except UnreadableImage as error:
        if not header.sixteen_bits:
            raise UserError(f"{path} cannot be read as an image ({error}): replace it or take it out") from None
        return header, f"{path}: {error}"
    return header, ""


def check_sixteen_bit(opened: Opened, sixteen_bit: str) -> None:
    """Raise when images that are evaluated cannot be read with this --sixteen-bit."""
    if opened.refused_by_shift and sixteen_bit == "shift":
        raise UserError(opened.refused_by_shift)


def missing(place: Path, names: Sequence[str]) -> list[str]:
    """Those of `names`, paths relative to `place`, that are not there."""
    # One listing per folder: asking for each of 118,000 files takes minutes on a network disk.
    listed = {}
    for parent in {os.path.dirname(name) for name in names}:
        listed[parent] = set(os.listdir(place / parent)) if (place / parent).is_dir() else set()
    return [name for name in names if os.path.basename(name) not in listed[os.path.dirname(name)]]


def missing_problem(place: Path, absent: list[str], names: Sequence[str]) -> Iterator[str]:
    """How many of `names` are `absent` from `place`, if any, and the first."""
    if absent:
        yield f"{len(absent)} of the {len(names)} files that it lists are not in {place}: {', '.join(absent[:3])}"


def first_whole(places: list[Path], half: str, file: CocoFile) -> tuple[Path, Opened]:
    """The first place that holds all images of `file` with the sizes that it gives, and what `check_images` says.

    Raises with the count and the first names of those missing.
    """
    names = [name for name, _ in file.images]
    absent = {place: missing(place, names) for place in places}
    best = min(absent, key=lambda place: len(absent[place]))
    raise_first(missing_problem(best, absent[best], names), file.path)
    return best, check_images(half, [(best / name, size) for name, size in file.images])


def check_image(path: Path, size: tuple[int, int] | None) -> Header:
    """The header of the image there; raises unless it can be opened and is of `size` (width, height; None for any)."""
    try:
        header = read_header(path)
    except (OSError, SyntaxError, DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): replace it or take it out") from None
    if size is not None and header.size != tuple(size):
        width, height = header.size
        turned = " (as its EXIF orientation shows it)" if header.orientation >= 5 and width != height else ""
        raise UserError(f"{path} is {width} x {height} pixels{turned} but the annotations say {size[0]} x {size[1]}: "
                        "expected the images that were annotated, at their size")
    return header
