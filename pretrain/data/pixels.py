"""The one reader of images: bytes become the same RGB pixels in pretraining, fine-tuning and figures.

- Turned and mirrored as the file's EXIF orientation says: as viewers show it, and as annotation
  tools measure.
- Alpha is dropped, whatever lies behind it: the stored colours are the pixels, as in PIL,
  torchvision and detectron2.
- Grey, palette and CMYK by PIL's conversion. Of an animated image the first frame.
- 16 bits become 8 by their high byte ("shift"), or by the range of each image's own values
  ("range"). An image without a value from 4096 is refused by "shift": 12 bits in a 16-bit file, as
  microscopes write them, would be nearly black.
- 32-bit and floating-point pixels are refused: what is white in them is not known.
"""

import io
import math
import os
import stat
import struct
import warnings
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, get_args

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

try:  # optional: decodes as PIL does, bit for bit, in two thirds of the time
    import simplejpeg
except ImportError:
    simplejpeg = None

SixteenBit = Literal["shift", "range"]
SIXTEEN_BIT: tuple[str, ...] = get_args(SixteenBit)
JPEG_DECODER = "simplejpeg" if simplejpeg else "Pillow"
TWELVE_BITS = 4096
ORIENTATION = 0x0112  # EXIF tag: 1 as stored, 2 to 8 mirrored or turned
SEGMENT = struct.Struct(">HH")  # of a JPEG: marker and length, which counts its own two bytes
START_OF_SCAN, METADATA = 0xFFDA, 0xFFE1  # after the one no header follows, the other holds EXIF or XMP


class UnreadableImage(Exception):
    """One image that cannot be used; the message says why."""


def read_pixels(path: str | Path, sixteen_bit: SixteenBit = "shift") -> np.ndarray:
    """An image file as RGB, (H, W, 3) uint8; raises `UnreadableImage`."""
    return decode(read_bytes(Path(path)), sixteen_bit)


def read_bytes(path: Path) -> bytes:
    """The bytes of an image file; raises `UnreadableImage`."""
    try:
        with _opened(path) as file:
            return file.read()
    except OSError as error:
        raise UnreadableImage(f"cannot be read: {error.strerror or error}") from None


def _opened(path: str | Path) -> BinaryIO:
    """A file for reading; raises `OSError`."""
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a FIFO, a socket or a device
        file.close()
        raise OSError("not a regular file")
    return file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # else a FIFO is waited for


def decode(data: bytes, sixteen_bit: SixteenBit = "shift") -> np.ndarray:
    """An image file's bytes as RGB, (H, W, 3) uint8; raises `UnreadableImage`."""
    rgb = _decode_jpeg(data)
    if rgb is not None:
        return rgb
    try:
        with Image.open(io.BytesIO(data)) as image:
            sixteen_bits = _has_sixteen_bits(image)
            turned_by_pil = image.format == "TIFF" and _orientation(image) != 1
            image.load()
            orientation = _orientation(image)
            if sixteen_bits:
                values = _sixteen_bit_values(image, data, turned_by_pil)
                if values is not None:
                    rgb = _eight_bits(values, sixteen_bit)
            elif image.mode not in ("I", "F"):
                rgb = np.array(image.convert("RGB"))
            if rgb is None:
                raise UnreadableImage(f"{image.format} file with pixels of a kind that is not read ({image.mode} of "
                                      "more than 8 bits): convert it to 8 bits")
    except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)  # its own text shows an address in memory
        problem = "no image of a known format" if unknown else " ".join(str(error).split())
        raise UnreadableImage(f"cannot be decoded: {problem}") from None
    return _turned(rgb, orientation)


class Header(NamedTuple):
    """What a file says of its image before it is decoded."""

    size: tuple[int, int]  # width and height in pixels that `read_pixels` gives
    orientation: int  # EXIF's, 1 to 8; from 5 on the stored image is the other way round
    sixteen_bits: bool


def read_header(path: str | Path) -> Header:
    """The header of an image file; raises `OSError` or what PIL raises. Only a PNG is decoded for
    it."""
    with _opened(path) as file, Image.open(file) as image:
        sixteen_bits, orientation = _has_sixteen_bits(image), _orientation(image)
        turned = orientation >= 5 and image.format != "TIFF"  # PIL's size of a TIFF is the shown one
        return Header(image.size[::-1] if turned else image.size, orientation, sixteen_bits)


def _has_sixteen_bits(image: Image.Image) -> bool:
    """Asked before the image is loaded, which empties its list of tiles."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return True
    return any(";16" in str(tile.args) for tile in image.tile)


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """None without a fast decoder, and for what is not a faultless JPEG in colour or grey of usual
    size: PIL then decides."""
    if simplejpeg is None or not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray", "RGB") or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
            return None
        rgb = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None
    if not _may_be_turned(data):
        return rgb
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            return _turned(rgb, _orientation(image))
    except (OSError, ValueError, SyntaxError):
        return None


def _may_be_turned(jpeg: bytes) -> bool:
    """Whether a segment before the pixels can hold an orientation; opening every file by PIL would
    take longer."""
    at = 2
    try:
        while True:
            marker, length = SEGMENT.unpack_from(jpeg, at)
            if marker == START_OF_SCAN:
                return False
            if marker == METADATA or marker < 0xFFC0 or marker == 0xFFFF or length < 2:
                return True
            at += 2 + length
    except struct.error:
        return True


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 as well for what cannot be understood."""
    try:
        with warnings.catch_warnings(action="ignore"):
            found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged metadata beside whole pixels; PIL raises what its parsers meet
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, 3) as an EXIF orientation wants it shown."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _sixteen_bit_values(image: Image.Image, data: bytes, turned_by_pil: bool) -> np.ndarray | None:
    """(H, W, 3) of 0..65535, None for a form that is not read. PIL reads one channel only without
    loss."""
    if image.mode.startswith("I"):
        return np.repeat(np.asarray(image)[..., None], 3, axis=2)
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    size = (image.height, image.width)
    if turned_by_pil or found is None or found.dtype != np.uint16 or found.shape[:2] != size:
        return None
    if found.ndim == 2:
        return np.repeat(found[..., None], 3, axis=2)
    return found[..., 2::-1]  # OpenCV's are blue, green, red, alpha


def _eight_bits(values: np.ndarray, sixteen_bit: SixteenBit) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if sixteen_bit == "range":
        span = max(high - low, 1)
        return (((values.astype(np.int64) - low) * 255 + span // 2) // span).astype(np.uint8)
    if high < TWELVE_BITS:
        raise UnreadableImage(f"16-bit pixels without a value above {high}, which would be nearly black in 8 bits: use "
                              "--sixteen-bit range, which scales each image by its own range")
    return (values >> 8).astype(np.uint8)
