"""The images of a dataset: are they there, can they be opened, have they the stated size."""

import os
from pathlib import Path

from pretrain.errors import UserError
from pretrain.pixels import shown_size, stored_size

# Of the training images, where the few that cannot be read are replaced; those that are evaluated are all opened.
PROBED_IMAGES = 50


def probed(split: str, rows: list) -> list:
    """The rows of a split whose images are opened: all that are evaluated, PROBED_IMAGES of the others."""
    return rows if split == "val" else rows[::max(1, len(rows) // PROBED_IMAGES)][:PROBED_IMAGES]


def missing(place: Path, names: tuple[str, ...]) -> list[str]:
    """Those of `names`, paths relative to `place`, that are not there."""
    # One listing per folder: asking for each of 118,000 files takes minutes on a network disk.
    listed = {parent: _listing(place / parent) for parent in {os.path.dirname(name) for name in names}}
    return [name for name in names if os.path.basename(name) not in listed[os.path.dirname(name)]]


def first_whole(places: list[Path], split: str, listed: Path, names: tuple[str, ...],
                sizes: tuple[tuple[int, int], ...]) -> Path:
    """The first place that holds all images that the annotation file `listed` names, with the sizes that it gives.

    Raises with the count and the first names of those missing.
    """
    absent = {place: missing(place, names) for place in places}
    best = min(absent, key=lambda place: len(absent[place]))
    if absent[best]:
        first = ", ".join(absent[best][:3])
        raise UserError(f"{len(absent[best])} of the {len(names)} images that {listed} lists are not in "
                        f"{best}: {first}{', ...' if len(absent[best]) > 3 else ''}")
    for name, size in probed(split, list(zip(names, sizes, strict=True))):
        check_image(best / name, size)
    return best


def _listing(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def check_image(path: Path, size: tuple[int, int] | None) -> None:
    """Raise unless an image of `size` (width, height; None for any) can be opened there."""
    try:
        found = shown_size(path)
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): replace it or take it out") from None
    if size is not None and found != tuple(size):
        turned = " (as its EXIF orientation shows it)" if stored_size(path) != found else ""
        raise UserError(f"{path} is {found[0]} x {found[1]} pixels{turned} but the annotations say {size[0]} x "
                        f"{size[1]}: expected the images that were annotated, at their size")
