"""The one reader: every kind of file as the pixels that a viewer shows, or one reason why not."""

import contextlib
import io
import itertools
import os
import socket
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from pretrain.data import pixels
from pretrain.data.images import ImageList
from pretrain.data.pixels import UnreadableImage, decode, read_header, read_pixels

GRADIENT = np.linspace(0, 255, 40 * 30).astype(np.uint8).reshape(30, 40)


def opened(path: Path) -> Image.Image:
    return Image.fromarray(read_pixels(path))


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(("mode", "suffix"), [
    ("L", "png"), ("L", "jpg"), ("LA", "png"), ("1", "png"), ("P", "gif"), ("P", "png"), ("RGB", "webp"),
    ("RGB", "bmp"), ("RGB", "tif"), ("RGBA", "png"), ("CMYK", "jpg"), ("CMYK", "tif"), ("YCbCr", "jpg"),
    ("RGB", "ppm")])
def test_read_pixels__every_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    image = opened(saved(Image.fromarray(GRADIENT).convert(mode), tmp_path / f"x.{suffix}"))
    assert image.mode == "RGB" and image.size == (40, 30)
    if mode != "1":  # the picture is still there: dark on top, light below
        found = np.asarray(image).astype(int)
        assert np.abs(found - GRADIENT[..., None]).mean() < 8


def test_read_pixels__sixteen_bits_are_scaled(tmp_path: Path) -> None:
    """0..65535 becomes 0..255; PIL's own conversion would clip nearly all of it to white."""
    path = saved(Image.fromarray(GRADIENT.astype(np.uint16) * 257), tmp_path / "x.png")
    assert np.array_equal(np.asarray(opened(path)), np.repeat(GRADIENT[..., None], 3, axis=2))
    assert read_header(path) == ((GRADIENT.shape[1], GRADIENT.shape[0]), 1, True)


def test_read_pixels__sixteen_bits_in_other_formats(tmp_path: Path) -> None:
    deep = Image.fromarray(GRADIENT.astype(np.uint16) * 257)
    for name, kind in (("x.tif", "TIFF"), ("x.pgm", "PPM")):
        deep.save(tmp_path / name, kind)
        assert np.array_equal(np.asarray(opened(tmp_path / name))[..., 0], GRADIENT)
        assert read_header(tmp_path / name).sixteen_bits


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_read_pixels__sixteen_bits_of_colour(tmp_path: Path, suffix: str, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (30, 40, channels), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / f"x.{suffix}"), values)  # blue, green, red, alpha
    found = read_pixels(tmp_path / f"x.{suffix}")
    assert np.array_equal(found, (values[..., 2::-1] >> 8).astype(np.uint8))
    assert read_header(tmp_path / f"x.{suffix}").sixteen_bits
    dark = values >> 5
    cv2.imwrite(str(tmp_path / f"y.{suffix}"), dark)
    with pytest.raises(UnreadableImage, match=rf"^16-bit pixels without a value above {dark[..., :3].max()}, which "):
        read_pixels(tmp_path / f"y.{suffix}")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_read_pixels__twelve_bits_are_refused_or_scaled(tmp_path: Path, suffix: str) -> None:
    """0 to 4095, as microscopes write it; 4096 is the first value that cannot be of 12 bits."""
    values = np.linspace(100, 4095, 40 * 30).astype(np.uint16).reshape(30, 40)
    path = saved(Image.fromarray(values), tmp_path / f"x.{suffix}")
    with pytest.raises(UnreadableImage, match=r"^16-bit pixels without a value above 4095, which would be nearly black "
                                              r"in 8 bits: use --sixteen-bit range, which scales each image by"):
        read_pixels(path)
    expected = np.floor((values.astype(float) - 100) * 255 / 3995 + 0.5).astype(np.uint8)
    found = read_pixels(path, "range")
    assert np.array_equal(found, np.repeat(expected[..., None], 3, axis=2)) and (found.min(), found.max()) == (0, 255)
    values[0, 0] = 4096
    assert read_pixels(saved(Image.fromarray(values), path)).max() == 16
    flat = saved(Image.fromarray(np.full((30, 40), 7, np.uint16)), tmp_path / f"y.{suffix}")
    assert read_pixels(flat, "range").max() == 0


def test_read_pixels__the_range_is_of_no_meaning_for_eight_bits(tmp_path: Path) -> None:
    path = saved(Image.fromarray(GRADIENT // 4), tmp_path / "x.png")
    assert np.array_equal(read_pixels(path, "range"), read_pixels(path)) and read_pixels(path).max() == 63


@pytest.mark.parametrize("kind, named", [(np.int32, "I"), (np.float32, "F")])
def test_read_pixels__pixels_without_a_known_white_are_refused(tmp_path: Path, kind: type, named: str) -> None:
    """PIL would clip them to one colour, and the run would learn from white sheets."""
    path = saved(Image.fromarray(GRADIENT.astype(kind) * 257), tmp_path / "x.tif")
    with pytest.raises(UnreadableImage, match=rf"^TIFF file with pixels of a kind that is not read \({named} of "):
        read_pixels(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_read_pixels__alpha_is_dropped(tmp_path: Path, mode: str) -> None:
    """The stored colours are the pixels, also where nothing would be seen of them."""
    image = Image.fromarray(GRADIENT).convert(mode)
    image.putalpha(Image.fromarray(GRADIENT[::-1]))
    assert np.array_equal(read_pixels(saved(image, tmp_path / "x.png"))[..., 1], GRADIENT)


def turned(orientation: int) -> tuple[Image.Image, Image.Exif]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image.resize((40, 24), Image.Resampling.BICUBIC), exif


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_pixels__turned_as_exif_says(tmp_path: Path, suffix: str, orientation: int,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """As PIL's own exif_transpose gives it, with either decoder of JPEGs; sizes as well."""
    image, exif = turned(orientation)
    path = saved(image, tmp_path / f"x.{suffix}", exif=exif)
    with Image.open(path) as again:
        expected = np.asarray(ImageOps.exif_transpose(again).convert("RGB"))
    assert expected.shape == ((40, 24, 3) if orientation >= 5 else (24, 40, 3))
    found = read_pixels(path)
    assert np.array_equal(found, expected) and found.flags.c_contiguous and found.flags.writeable
    assert read_header(path) == (expected.shape[1::-1], orientation, False)
    monkeypatch.setattr(pixels, "simplejpeg", None)
    assert np.array_equal(read_pixels(path), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_read_pixels__sixteen_bits_are_turned_too(tmp_path: Path, suffix: str) -> None:
    deep, (_, exif) = Image.fromarray(GRADIENT.astype(np.uint16) * 257), turned(6)
    path = saved(deep, tmp_path / f"x.{suffix}", exif=exif)
    assert np.array_equal(read_pixels(path)[..., 0], np.rot90(GRADIENT, -1))


def test_read_pixels__orientation_behind_other_segments_or_in_xmp(tmp_path: Path) -> None:
    """After a profile whose bytes look like the start of the scan; a marker that is not walked over does no harm."""
    image, exif = turned(3)
    upright = read_pixels(saved(image, tmp_path / "x.jpg"))
    path = saved(image, tmp_path / "y.jpg", exif=exif, icc_profile=b"\xff\xda\xff\xd9" * 5000)
    assert np.array_equal(read_pixels(path), upright[::-1, ::-1])
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="4"/></x:xmpmeta>'
    path = saved(image, tmp_path / "z.jpg", xmp=xmp)
    assert np.array_equal(read_pixels(path), upright[::-1])


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_read_pixels__an_orientation_that_is_none_turns_nothing(tmp_path: Path, orientation: int) -> None:
    image, exif = turned(orientation)
    upright = read_pixels(saved(image, tmp_path / "x.jpg"))
    assert np.array_equal(read_pixels(saved(image, tmp_path / "y.jpg", exif=exif)), upright)


def test_read_pixels__damaged_exif_is_no_orientation(tmp_path: Path) -> None:
    image, exif = turned(6)
    whole = saved(image, tmp_path / "x.jpg", exif=exif).read_bytes()
    start = whole.index(b"Exif") + 6
    upright = read_pixels(saved(image, tmp_path / "y.jpg"))
    for at, value in itertools.product(range(start, start + 24), (0x00, 0xFF)):
        damaged = bytearray(whole)
        damaged[at] = value
        (tmp_path / "z.jpg").write_bytes(damaged)
        with warnings.catch_warnings(action="error"):  # nothing on the screen either
            found = read_pixels(tmp_path / "z.jpg")
        turned_back = np.rot90(found) if found.shape[0] > found.shape[1] else found
        assert turned_back.shape == upright.shape


def test_read_pixels__no_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"hello")
    with pytest.raises(UnreadableImage, match="^cannot be decoded: no image of a known format$"):
        opened(tmp_path / "x.jpg")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_read_pixels__animated_is_its_first_picture(tmp_path: Path, suffix: str) -> None:
    first = Image.fromarray(GRADIENT).convert("RGB")
    path = saved(first, tmp_path / f"x.{suffix}", save_all=True, append_images=[first.rotate(180)] * 2)
    assert np.abs(np.asarray(opened(path)).astype(int)[..., 0] - GRADIENT).mean() < 8


def test_read_pixels__transparent_palette(tmp_path: Path) -> None:
    image = Image.fromarray(GRADIENT).convert("P")
    assert opened(saved(image, tmp_path / "x.png", transparency=0)).mode == "RGB"


def test_image_list__smallest_side_of_an_image_to_learn_from(tmp_path: Path) -> None:
    saved(Image.new("RGB", (300, 16)), tmp_path / "x.png")
    saved(Image.new("RGB", (300, 15)), tmp_path / "y.png")
    listed = ImageList(tmp_path, ["x.png", "y.png"])
    assert listed.pixels(0).shape == (16, 300, 3) and opened(tmp_path / "y.png").size == (300, 15)
    with pytest.raises(UnreadableImage, match="300 x 15 pixels, expected at least 16 a side"):
        listed.pixels(1)


def test_read_pixels__gone(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="^cannot be read: No such file or directory$"):
        opened(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp", "ppm"])
def test_read_pixels__damage_never_raises_anything_else(tmp_path: Path, suffix: str) -> None:
    """Cut off or overwritten at random: an image or `UnreadableImage`, and a cut file is never accepted."""
    whole = saved(Image.fromarray(GRADIENT).convert("RGB"), tmp_path / f"whole.{suffix}").read_bytes()
    rng, path, refused = np.random.default_rng(0), tmp_path / f"damaged.{suffix}", 0
    for attempt in range(60):
        damaged = bytearray(whole)
        if attempt % 2:
            for _ in range(4):
                damaged[rng.integers(min(len(whole), 200))] = rng.integers(256)
        else:
            damaged = damaged[:rng.integers(len(whole) // 2)]
        path.write_bytes(damaged)
        try:
            assert opened(path).mode == "RGB"
            assert attempt % 2, "half a file was read as a whole image"
        except UnreadableImage as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused >= 30


def jpegs() -> dict[str, bytes]:
    """JPEG files of many kinds, by name."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    colour = small.resize((101, 67), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned by 90 degrees
    made = {}
    for name, image, options in (
        ("4:2:0", colour, {}), ("4:4:4", colour, {"subsampling": 0}), ("4:2:2", colour, {"subsampling": 1}),
        ("progressive", colour, {"progressive": True}), ("coarse", colour, {"quality": 20}),
        ("grey", colour.convert("L"), {}), ("RGB", colour, {"keep_rgb": True}), ("CMYK", colour.convert("CMYK"), {}),
        ("exif", colour, {"exif": turned}),
    ):
        file = io.BytesIO()
        image.save(file, "jpeg", **options)
        made[name] = file.getvalue()
    return made


@pytest.mark.parametrize("name", jpegs())
def test_decode__the_fast_decoder_gives_pils_pixels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit: which decoder is installed changes no view."""
    data = jpegs()[name]
    fast = decode(data)
    monkeypatch.setattr(pixels, "simplejpeg", None)
    assert np.array_equal(fast, decode(data)) and fast.flags.writeable
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert fast.shape == ((101, 67, 3) if name == "exif" else (67, 101, 3))
    assert np.array_equal(fast, np.asarray(upright.convert("RGB")))


def test_decode__the_fast_decoder_is_used_for_whole_colour_and_grey_files_only(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bool] = []

    class Watched:
        decode_jpeg_header = staticmethod(simplejpeg.decode_jpeg_header)

        def decode_jpeg(self, data: bytes, colours: str) -> np.ndarray:
            used.append(True)
            return simplejpeg.decode_jpeg(data, colours)

    monkeypatch.setattr(pixels, "simplejpeg", Watched())
    for name, data in jpegs().items():
        used.clear()
        decode(data)
        assert used == ([] if name == "CMYK" else [True])
    whole = jpegs()["4:2:0"]
    with pytest.raises(UnreadableImage, match="cannot be decoded"):
        decode(whole[:len(whole) // 2])


def test_decode__any_error_of_a_decoder_is_an_unreadable_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> object:
        raise RuntimeError("Failed to decode frame 0: Truncated data")

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(UnreadableImage, match="cannot be decoded: Failed to decode frame 0"):
        decode(b"....ftypavif")


def test_read_header__what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(tmp_path):
        bound.bind("c.jpg")
    for name in ("a.jpg", "c.jpg", "/dev/zero"):
        with pytest.raises(OSError):
            read_header(tmp_path / name)
