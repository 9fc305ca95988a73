"""Folders of images of any kind, and files that cannot be read: pixels, or one reason why not."""

import errno
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pretrain import images
from pretrain.data import (
    list_images,
)
from pretrain.errors import UserError
from pretrain.images import ImageList, UnreadableImage, decode, find_images, read_image

GRADIENT = np.linspace(0, 255, 40 * 30).astype(np.uint8).reshape(30, 40)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_list_images__nested_mixed_and_hidden(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/deep/er/x.png", "a/y.webp", "c.jpeg", "notes.txt", ".hidden.jpg", ".git/z.png",
          "a/.cache/w.png", "archive.zip", "jpg")
    assert list(list_images(tmp_path)) == ["a/deep/er/x.png", "a/y.webp", "b.JPG", "c.jpeg"]


def test_list_images__follows_links_to_folders(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "x.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    assert list(list_images(tmp_path / "data")) == ["link/x.png"]


def test_list_images__links_that_lead_round_in_circles_are_followed_once(tmp_path: Path) -> None:
    """Up to the folder itself, and two folders that link to each other; a second way to a folder is no circle."""
    touch(tmp_path / "data", "x.png", "a/y.png", "b/z.png")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "other").symlink_to(tmp_path / "data" / "b")
    (tmp_path / "data" / "b" / "other").symlink_to(tmp_path / "data" / "a")
    assert list(list_images(tmp_path / "data")) == ["a/other/z.png", "a/y.png", "b/other/y.png", "b/z.png", "x.png"]


def test_list_images__missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none does not exist: expected a folder of images, nested or flat"):
        list_images(tmp_path / "none")


def test_list_images__empty_folder(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "sub/.x.png")
    text = r"no images in .*: expected files that end in \.jpg .* found none at any depth"
    with pytest.raises(UserError, match=text):
        list_images(tmp_path)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(("mode", "suffix"), [
    ("L", "png"), ("L", "jpg"), ("LA", "png"), ("1", "png"), ("P", "gif"), ("P", "png"), ("RGB", "webp"),
    ("RGB", "bmp"), ("RGB", "tif"), ("RGBA", "png"), ("CMYK", "jpg"), ("CMYK", "tif"), ("YCbCr", "jpg"),
    ("RGB", "ppm")])
def test_read_image__every_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    image = read_image(saved(Image.fromarray(GRADIENT).convert(mode), tmp_path / f"x.{suffix}"))
    assert image.mode == "RGB" and image.size == (40, 30)
    if mode != "1":  # the picture is still there: dark on top, light below
        found = np.asarray(image).astype(int)
        assert np.abs(found - GRADIENT[..., None]).mean() < 8


def test_read_image__sixteen_bits_are_scaled(tmp_path: Path) -> None:
    """0..65535 becomes 0..255; PIL's own conversion would clip nearly all of it to white."""
    path = saved(Image.fromarray(GRADIENT.astype(np.uint16) * 257), tmp_path / "x.png")
    assert np.array_equal(np.asarray(read_image(path)), np.repeat(GRADIENT[..., None], 3, axis=2))


def test_read_image__sixteen_bits_in_other_formats(tmp_path: Path) -> None:
    deep = Image.fromarray(GRADIENT.astype(np.uint16) * 257)
    for name, kind in (("x.tif", "TIFF"), ("x.pgm", "PPM")):
        deep.save(tmp_path / name, kind)
        assert np.array_equal(np.asarray(read_image(tmp_path / name))[..., 0], GRADIENT)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_read_image__pixels_without_a_known_white_are_refused(tmp_path: Path, kind: type) -> None:
    """PIL would clip them to one colour, and the run would learn from white sheets."""
    path = saved(Image.fromarray(GRADIENT.astype(kind) * 257), tmp_path / "x.tif")
    with pytest.raises(UnreadableImage, match="32-bit pixels, whose white is not known: convert it to 8 or 16 bits"):
        read_image(path)


def test_read_image__no_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"hello")
    with pytest.raises(UnreadableImage, match="^cannot be decoded: no image of a known format$"):
        read_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_read_image__animated_is_its_first_picture(tmp_path: Path, suffix: str) -> None:
    first = Image.fromarray(GRADIENT).convert("RGB")
    path = saved(first, tmp_path / f"x.{suffix}", save_all=True, append_images=[first.rotate(180)] * 2)
    assert np.abs(np.asarray(read_image(path)).astype(int)[..., 0] - GRADIENT).mean() < 8


def test_read_image__transparent_palette(tmp_path: Path) -> None:
    image = Image.fromarray(GRADIENT).convert("P")
    assert read_image(saved(image, tmp_path / "x.png", transparency=0)).mode == "RGB"


def test_read_image__smallest_side(tmp_path: Path) -> None:
    assert read_image(saved(Image.new("RGB", (300, 16)), tmp_path / "x.png")).size == (300, 16)
    with pytest.raises(UnreadableImage, match="300 x 15 pixels, expected at least 16 a side"):
        read_image(saved(Image.new("RGB", (300, 15)), tmp_path / "y.png"))


def test_read_image__gone(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="the file is gone"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp", "ppm"])
def test_read_image__damage_never_raises_anything_else(tmp_path: Path, suffix: str) -> None:
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
            assert read_image(path).mode == "RGB"
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
    monkeypatch.setattr(images, "simplejpeg", None)
    assert np.array_equal(fast, decode(data)) and fast.shape == (67, 101, 3) and fast.flags.writeable
    assert np.array_equal(fast, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_decode__the_fast_decoder_is_used_for_whole_colour_and_grey_files_only(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bool] = []

    class Watched:
        decode_jpeg_header = staticmethod(simplejpeg.decode_jpeg_header)

        def decode_jpeg(self, data: bytes, colours: str) -> np.ndarray:
            used.append(True)
            return simplejpeg.decode_jpeg(data, colours)

    monkeypatch.setattr(images, "simplejpeg", Watched())
    for name, data in jpegs().items():
        used.clear()
        decode(data)
        assert used == ([] if name == "CMYK" else [True])
    whole = jpegs()["4:2:0"]
    with pytest.raises(UnreadableImage, match="cannot be decoded"):
        decode(whole[:len(whole) // 2])


def test_image_list__is_a_sequence_of_names(tmp_path: Path) -> None:
    names = ["b/1.jpg", "a.jpg"]  # as given: an annotation file's order
    listed = ImageList(tmp_path, names)
    assert list(listed) == names and listed[-1] == "a.jpg" and listed[0:9] == names and len(listed) == 2
    assert listed.index("a.jpg") == 1 and "b/1.jpg" in listed and "x" not in listed
    assert list(pickle.loads(pickle.dumps(listed))) == names


def test_list_images__sorted_by_the_whole_path(tmp_path: Path) -> None:
    """A folder's images stand where its path with a slash would."""
    names = ["a-b/1.png", "a.png", "a/1.png", "a/b.png", "a/b/0.png", "a/b0.png", "a0.png", "ü.png", "\udcff.png"]
    touch(tmp_path, *names)
    assert list(list_images(tmp_path)) == sorted(names) == find_images(tmp_path)


def test_read__what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    listed = list_images(tmp_path)
    for number in range(2):
        with pytest.raises(UnreadableImage, match="^is not a regular file$"):
            listed.read(number)


def test_label__by_folder_and_by_prefix(tmp_path: Path) -> None:
    listed = ImageList(tmp_path, ["dog/x__1.jpg", "cat/deep/er/y__1.jpg", "dog/y__2.jpg"])
    assert listed.classes == () and listed.label(0) is None
    listed.label_by("folder")
    assert listed.classes == ("cat", "dog") and [listed.label(number) for number in range(3)] == [1, 0, 1]
    listed.label_by("prefix")
    assert listed.classes == ("x", "y") and [listed.label(number) for number in range(3)] == [0, 1, 1]


def test_list_images__a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, make_photos: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_photos(tmp_path, 3)
    (folder / "closed").mkdir()
    scandir = os.scandir

    def refused(place: str) -> object:
        if str(place).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"^the folder .*closed cannot be listed \(Permission denied\): fix its"):
        list_images(folder)


def test_decode__any_error_of_a_decoder_is_an_unreadable_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> object:
        raise RuntimeError("Failed to decode frame 0: Truncated data")

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(UnreadableImage, match="cannot be decoded: Failed to decode frame 0"):
        decode(b"....ftypavif")
