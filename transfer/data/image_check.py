"""The images of a dataset: are they there, can they be opened, have they the stated size."""

import os
from collections.abc import Iterable
from pathlib import Path

from PIL.Image import DecompressionBombError

from pretrain.common.errors import UserError
from pretrain.data.pixels import Header, UnreadableImage, read_header, read_pixels
from transfer.data.dataset import Opened

# Of the training images, where the few that cannot be read are replaced; those that are evaluated are all opened.
PROBED_IMAGES = 50


def check_images(half: str, rows: Iterable[tuple[Path, tuple[int, int] | None]]) -> Opened:
    """Open images by their paths and (width, height): all that are evaluated ("val"), PROBED_IMAGES of the others.

    Raises for the first that cannot be opened or is of another size; a size of None is not compared.
    """
    rows = list(rows)
    if half == "train":
        rows = rows[::max(1, len(rows) // PROBED_IMAGES)][:PROBED_IMAGES]
    turned_unseen, refused = 0, ""
    for path, size in rows:
        header = check_image(path, size)
        width, height = header.size
        turned_unseen += header.orientation in (2, 3, 4) or (header.orientation >= 5 and width == height)
        if half == "val" and header.sixteen_bits and not refused:
            refused = _refusal(path)
    return Opened(len(rows), turned_unseen, refused)


def check_sixteen_bit(opened: Opened, sixteen_bit: str) -> None:
    """Raise when images that are evaluated cannot be read with this --sixteen-bit."""
    if opened.refused_by_shift and sixteen_bit == "shift":
        raise UserError(opened.refused_by_shift)


def _refusal(path: Path) -> str:
    try:
        read_pixels(path)
    except UnreadableImage as error:
        return f"{path}: {error}"
    return ""


def missing(place: Path, names: tuple[str, ...]) -> list[str]:
    """Those of `names`, paths relative to `place`, that are not there."""
    # One listing per folder: asking for each of 118,000 files takes minutes on a network disk.
    listed = {parent: _listing(place / parent) for parent in {os.path.dirname(name) for name in names}}
    return [name for name in names if os.path.basename(name) not in listed[os.path.dirname(name)]]


def first_whole(places: list[Path], half: str, listed: Path, names: tuple[str, ...],
                sizes: tuple[tuple[int, int], ...]) -> tuple[Path, Opened]:
    """The first place that holds all images that the annotation file `listed` names, with the sizes that it gives, and
    what `check_images` says of them.

    Raises with the count and the first names of those missing.
    """
    absent = {place: missing(place, names) for place in places}
    best = min(absent, key=lambda place: len(absent[place]))
    if absent[best]:
        first = ", ".join(absent[best][:3])
        raise UserError(f"{len(absent[best])} of the {len(names)} images that {listed} lists are not in "
                        f"{best}: {first}{', ...' if len(absent[best]) > 3 else ''}")
    paths = [best / name for name in names]
    return best, check_images(half, zip(paths, sizes, strict=True))


def _listing(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


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
