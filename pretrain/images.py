"""Where images are and how their bytes become pixels: a list of names that knows how to read each of them."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image, UnidentifiedImageError

from pretrain.errors import UserError

try:  # optional: decodes as PIL does, bit for bit, in two thirds of the time
    import simplejpeg
except ImportError:
    simplejpeg = None

JPEG_DECODER = "simplejpeg" if simplejpeg else "Pillow"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jfif")
SMALLEST_SIDE = 16  # pixels; below it a view is a few source pixels enlarged


class UnreadableImage(Exception):
    """One image that cannot be used; the message says why."""


def find_images(folder: str | Path) -> list[str]:
    """Paths of all images below a folder, relative to it and sorted; nested or flat, hidden entries left out."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"image folder {folder} does not exist: expected a folder of images, nested or flat")
    found, above = [], {str(folder): frozenset[tuple[int, int]]()}
    for root, folders, files in os.walk(folder, onerror=_unlisted, followlinks=True):
        here = above.pop(root) | {_identity(root)}
        folders[:] = sorted(name for name in folders if not name.startswith(".")
                            and _identity(os.path.join(root, name)) not in here)  # else a link that leads back up
        above |= {os.path.join(root, name): here for name in folders}
        found += [os.path.relpath(os.path.join(root, name), folder) for name in files
                  if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(found)


def _unlisted(error: OSError) -> None:
    """Images that are left out in silence would make another dataset."""
    raise UserError(f"the folder {error.filename} cannot be listed ({error.strerror}): mend its rights, or move it out "
                    "of the images")


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def decode(data: bytes) -> np.ndarray:
    """An image file's bytes as RGB, (H, W, 3) uint8; raises `UnreadableImage`."""
    rgb = _decode_jpeg(data)
    if rgb is None:
        try:
            with Image.open(io.BytesIO(data)) as image:
                # 16-bit grey ("I" in PGM and in older Pillow): PIL would clip to white instead of scaling.
                if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
                    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
                elif image.mode in ("I", "F"):
                    raise UnreadableImage("32-bit pixels, whose white is not known: convert it to 8 or 16 bits")
                rgb = np.array(image.convert("RGB"))
        except UnidentifiedImageError:  # its own words would show an address in memory
            raise UnreadableImage("cannot be decoded: no image of a known format") from None
        except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
            raise UnreadableImage(f"cannot be decoded: {' '.join(str(error).split())}") from None
    height, width = rgb.shape[:2]
    if min(width, height) < SMALLEST_SIDE:
        raise UnreadableImage(f"{width} x {height} pixels, expected at least {SMALLEST_SIDE} a side")
    return rgb


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """None without a fast decoder, and for what is not a faultless JPEG in colour or grey of usual size: PIL then
    decides."""
    if simplejpeg is None or not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray", "RGB") or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
            return None
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None


def read_image(path: str | Path) -> Image.Image:
    """An image file as RGB; raises `UnreadableImage`."""
    return Image.fromarray(decode(_read(Path(path))))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UnreadableImage("the file is gone") from None
    except OSError as error:
        raise UnreadableImage(f"cannot be read: {error.strerror}") from None


class ImageList(Sequence[str]):
    """Sorted names of the images in a folder, and their contents by number.

    The names lie in one array: a list of a million strings would be copied into every loader process, because counting
    references writes to each.
    """

    def __init__(self, folder: str | Path, names: Sequence[str]) -> None:
        self.folder = Path(folder)
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._text = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return [self[at] for at in range(*number.indices(len(self)))]
        at = range(len(self))[number]  # IndexError and negative numbers as for a list
        return self._text[self._ends[at]:self._ends[at + 1]].tobytes().decode("utf-8", "surrogateescape")

    def size(self, number: int) -> int:
        """Bytes of the file of image `number`; -1 when it cannot be reached."""
        try:
            return (self.folder / self[number]).stat().st_size
        except OSError:  # a dangling link: reading it will name it
            return -1

    def read(self, number: int) -> bytes:
        """The file of image `number`; raises `UnreadableImage`."""
        return _read(self.folder / self[number])

    def pixels(self, number: int) -> np.ndarray:
        """Image `number` as RGB, (H, W, 3) uint8; raises `UnreadableImage`."""
        return decode(self.read(number))
