"""Folders of images of any kind, images that cannot be read, and an order that any number of processes repeats."""

import errno
import io
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from pretrain import images
from pretrain.config import Config, Numbers
from pretrain.data import (
    REPLACEMENTS,
    Batch,
    MicroBatchOrder,
    ViewDataset,
    images_at_once,
    list_images,
    make_loader,
    steps_per_epoch,
)
from pretrain.errors import UserError
from pretrain.images import ImageList, UnreadableImage, decode, read_image

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


def test_image_list__names_lie_in_arrays_that_a_fork_shares(tmp_path: Path) -> None:
    """A list of strings would be copied into every loader process."""
    names = [f"folder{number % 7}/{'ü' * (number % 5)}{number}.jpg" for number in range(5000)]
    listed = ImageList(tmp_path, names)
    assert list(listed) == names and listed[-1] == names[-1] and listed[3:9:2] == names[3:9:2]
    assert listed.index(names[77]) == 77 and names[5] in listed and "x" not in listed
    with pytest.raises(IndexError):
        listed[5000]
    held = [value for value in vars(listed).values() if not isinstance(value, Path)]
    assert all(isinstance(value, np.ndarray) for value in held)
    assert sum(value.nbytes for value in held) == len("".join(names).encode()) + 8 * 5001
    assert list(pickle.loads(pickle.dumps(listed))) == names


@pytest.fixture
def small() -> Numbers:
    return replace(Numbers(), global_size=32, local_size=16, local_views=2, batch_size=4)


def test_dataset__corrupt_image_is_replaced_and_reported(tmp_path: Path, make_photos: Callable, small: Numbers) -> None:
    folder = make_photos(tmp_path, 4)
    (folder / "01.png").write_bytes(b"no image")
    (folder / "02.png").write_bytes((folder / "02.png").read_bytes()[:200])
    dataset = ViewDataset(list_images(folder), small)
    item = dataset[0, 1]
    assert item.name == "03.png" and sorted(item.unreadable) == ["01.png", "02.png"]
    assert all("cannot be decoded" in why for why in item.unreadable.values())
    batch = dataset.collate([dataset[0, 0], dataset[0, 1]])
    assert batch.names == ["00.png", "03.png"] and sorted(batch.unreadable) == ["01.png", "02.png"]


def test_dataset__last_image_is_replaced_by_the_first(tmp_path: Path, make_photos: Callable, small: Numbers) -> None:
    folder = make_photos(tmp_path, 3)
    (folder / "02.png").write_bytes(b"no image")
    assert ViewDataset(list_images(folder), small)[0, 2].name == "00.png"


def test_dataset__more_in_a_row_than_ten_where_the_share_allows_it(
    tmp_path: Path, make_photos: Callable, small: Numbers
) -> None:
    folder = make_photos(tmp_path, 30)
    for number in range(REPLACEMENTS + 2):
        (folder / f"{number:02d}.png").write_bytes(b"")
    allowed = replace(small, max_corrupt_share=0.5)
    assert ViewDataset(list_images(folder), allowed)[0, 0].name == f"{REPLACEMENTS + 2:02d}.png"
    with pytest.raises(UserError, match=f"^{REPLACEMENTS} images in a row cannot be read"):
        ViewDataset(list_images(folder), small)[0, 0]


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
    with pytest.raises(UserError, match=r"^the folder .*closed cannot be listed \(Permission denied\): mend"):
        list_images(folder)


def test_decode__any_error_of_a_decoder_is_an_unreadable_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> object:
        raise RuntimeError("Failed to decode frame 0: Truncated data")

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(UnreadableImage, match="cannot be decoded: Failed to decode frame 0"):
        decode(b"....ftypavif")


@pytest.mark.parametrize("workers", [0, 1])
def test_loader__too_many_unreadable_in_a_row_is_one_line(tmp_path: Path, tiny: Callable[..., Config],
                                                          workers: int) -> None:
    touch(tmp_path, *(f"{number:02d}.jpg" for number in range(12)))
    config = tiny(workers=workers)
    loader = make_loader(list_images(tmp_path), config, 0, 1, 0, 1, pin=False)
    with pytest.raises(UserError) as error:
        next(loader)
    text = str(error.value)
    assert text.startswith(f"{REPLACEMENTS} images in a row cannot be read in {tmp_path}, the first is ")
    assert "\n" not in text


def test_collate__shapes_and_order(tmp_path: Path, make_photos: Callable, small: Numbers) -> None:
    folder = make_photos(tmp_path, 3)
    dataset = ViewDataset(list_images(folder), small)
    items = [dataset[0, index] for index in (2, 0, 1)]
    batch = dataset.collate(items)
    assert [tuple(group.shape) for group in batch.views] == [(2, 3, 3, 32, 32), (2, 3, 3, 16, 16)]
    assert [tuple(group.shape) for group in batch.boxes] == [(2, 3, 4), (2, 3, 4)]
    assert batch.sizes.tolist() == [[80, 60], [80, 60], [60, 72]]
    assert batch.names == ["02.png", "00.png", "01.png"] and batch.unreadable == {}
    for image in range(3):
        for view in range(4):
            group, at = divmod(view, 2)
            assert np.array_equal(batch.views[group][at, image], items[image][0][view])
            assert np.array_equal(batch.boxes[group][at, image], items[image][1][view])


def test_steps_per_epoch__drops_the_incomplete_batch() -> None:
    numbers = replace(Numbers(), batch_size=8)
    assert [steps_per_epoch(images, numbers) for images in (8, 15, 16)] == [1, 1, 2]


def test_steps_per_epoch__batch_larger_than_the_folder() -> None:
    with pytest.raises(UserError, match=r"batch_size 64 needs at least as many images, found 20: use a smaller "
                                        r"batch_size, for example 5, or more images"):
        steps_per_epoch(20, replace(Numbers(), batch_size=64))


def order(images: int, numbers: Numbers, first: int, last: int, rank: int = 0, world: int = 1) -> list:
    sampler = MicroBatchOrder(images, numbers, 4 // world, first, last, rank, world)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


@pytest.fixture
def twelve() -> Numbers:
    return replace(Numbers(), batch_size=12)


def test_order__each_epoch_is_another_permutation(twelve: Numbers) -> None:
    batches = order(30, twelve, 0, 6)  # 2 steps of 3 micro-batches an epoch
    epochs = [[item for batch in batches[start:start + 6] for item in batch] for start in (0, 6, 12)]
    for number, epoch in enumerate(epochs):
        assert {at for at, _ in epoch} == {number}
        assert len({index for _, index in epoch}) == 24  # no image twice
    assert [index for _, index in epochs[0]] != [index for _, index in epochs[1]]
    assert order(30, replace(twelve, seed=1), 0, 6) != batches


@pytest.mark.parametrize("world", [2, 4])
def test_order__ranks_together_are_the_single_process(twelve: Numbers, world: int) -> None:
    single = order(30, twelve, 0, 6)
    ranks = [order(30, twelve, 0, 6, rank, world) for rank in range(world)]
    for number, batch in enumerate(single):
        assert [item for rank in ranks for item in rank[number]] == batch


@pytest.mark.parametrize("step", [1, 2, 5])
def test_order__resumed_is_the_tail(twelve: Numbers, step: int) -> None:
    assert order(30, twelve, step, 6) == order(30, twelve, 0, 6)[3 * step:]


@pytest.mark.parametrize(("batch_size", "device_batch", "world", "expected"), [
    (2048, 128, 8, 128), (2048, 128, 1, 128), (2048, 128, 2, 128), (2048, 1000, 8, 256), (2048, 100, 4, 64),
    (48, 32, 1, 24), (12, 128, 3, 4), (7, 7, 7, 1)])
def test_images_at_once__accumulation_makes_up_the_batch(batch_size: int, device_batch: int, world: int,
                                                         expected: int) -> None:
    at_once = images_at_once(batch_size, device_batch, world)
    assert at_once == expected and batch_size % (at_once * world) == 0


def test_images_at_once__what_cannot_be_divided_is_told() -> None:
    with pytest.raises(UserError, match="batch_size must be a multiple of the number of processes, found 4 and 3"):
        images_at_once(4, 2, 3)
    with pytest.raises(UserError, match=r"batch_size 134 over 2 processes leaves 67 images for each, which no number "
                                        r"from 32 to 64 \(device_batch\) divides"):
        images_at_once(134, 64, 2)


def equal(one: Batch, other: Batch) -> bool:
    return (one.names == other.names and torch.equal(one.sizes, other.sizes)
            and all(torch.equal(a, b) for a, b in zip(one.views + one.boxes, other.views + other.boxes, strict=True)))


def test_loader__two_workers_and_a_resume_give_the_same_batches(photos: Path, tiny: Callable[..., Config]) -> None:
    names = list_images(photos)

    def batches(workers: int, first: int) -> list[Batch]:
        return list(make_loader(names, tiny(workers=workers, device_batch=2), first, 6, 0, 1, pin=False))

    alone = batches(0, 0)
    assert len(alone) == 12
    assert all(equal(*pair) for pair in zip(batches(2, 0), alone, strict=True))
    assert all(equal(*pair) for pair in zip(batches(0, 4), alone[8:], strict=True))
    assert not equal(alone[0], alone[4])


def test_loader__views_follow_the_image_not_its_place_in_the_batch(photos: Path, tiny: Callable[..., Config]) -> None:
    """Rank 1 of two sees what the second half of a single process's micro-batch holds."""
    names = list_images(photos)
    whole = next(make_loader(names, tiny(), 0, 6, 0, 1, pin=False))
    half = next(make_loader(names, tiny(), 0, 6, 1, 2, pin=False))
    assert half.names == whole.names[2:]
    assert torch.equal(half.views[0], whole.views[0][:, 2:]) and torch.equal(half.boxes[1], whole.boxes[1][:, 2:])


def test_loader__processes_start_after_the_main_one_has_used_every_library(photos: Path, tiny: Callable) -> None:
    """Thread pools do not survive a fork: a view made before must not make the loader processes wait for ever."""
    names = list_images(photos)
    ViewDataset(names, Numbers())[0, 0]
    assert cv2.getNumThreads() == 1
    assert len(list(make_loader(names, tiny(workers=2), 0, 6, 0, 1, pin=False))) == 6


def test_pin_memory__keeps_everything(tmp_path: Path, make_photos: Callable, small: Numbers,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())  # needs a GPU otherwise
    dataset = ViewDataset(list_images(make_photos(tmp_path, 2)), replace(small, colour_on="device"))
    batch = dataset.collate([dataset[0, 0], dataset[0, 1]])
    pinned = batch.pin_memory()
    assert equal(batch, pinned) and pinned.unreadable == batch.unreadable
    assert len(pinned.colours) == 2 and all(map(torch.equal, pinned.colours, batch.colours))


def test_photos__are_real_files(photos: Path, tmp_path: Path, make_photos: Callable) -> None:
    """The fixture's photographs are deterministic."""
    again = make_photos(tmp_path / "again", 9)
    assert [(again / name).read_bytes() == (photos / name).read_bytes() for name in list_images(photos)] == 9 * [True]
    shutil.rmtree(again)
