"""Images against what the annotations say: sizes as EXIF shows them, which is how they are read, and what sizes cannot
tell."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.common.errors import UserError
from transfer.data.dataset import Opened
from transfer.data.image_check import check_image, check_images, check_sixteen_bit
from transfer.finetuning.finetune import finetune
from transfer.settings import datasets


def saved(path: Path, orientation: int, shape: tuple[int, ...] = (30, 40, 3)) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros(shape, np.uint8)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_check_image__the_shown_size_counts(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = saved(tmp_path / f"x.{suffix}", orientation)
    shown, other = ((30, 40), (40, 30)) if orientation >= 5 else ((40, 30), (30, 40))
    check_image(path, shown)
    check_image(path, None)
    why = r" \(as its EXIF orientation shows it\)" if orientation >= 5 else ""
    with pytest.raises(UserError, match=rf"x\.{suffix} is {shown[0]} x {shown[1]} pixels{why} but the annotations say "
                                        rf"{other[0]} x {other[1]}: expected the images that were annotated"):
        check_image(path, other)


def test_check_image__no_image(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"x\.png cannot be read as an image"):
        check_image(tmp_path / "x.png", None)


def test_check_image__a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UserError, match=r"x\.png cannot be read as an image \(Image size \(1200 pixels\) exceeds"):
        check_image(saved(tmp_path / "x.png", 1), None)


def test_check_images__counts_what_exif_turns_without_another_size(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{orientation}.jpg", orientation) for orientation in range(1, 9)]
    assert check_images("val", [(path, None) for path in paths]) == Opened(images=8, turned_unseen=3)  # 2, 3 and 4
    square = saved(tmp_path / "square.jpg", 6, (30, 30, 3))
    assert check_images("val", [(square, (30, 30))]) == Opened(images=1, turned_unseen=1)


def test_check_images__of_those_that_are_not_evaluated_all_headers_and_a_share_of_the_pixels(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{number}.jpg", 1) for number in range(200)]
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[:-20])
    paths[1].write_bytes(whole[:-20])  # its header is there
    rows = [(path, (40, 30)) for path in paths]
    with pytest.raises(UserError, match=r"0\.jpg cannot be read as an image \(cannot be decoded"):
        check_images("train", rows)
    paths[0].write_bytes(whole)
    assert check_images("train", rows) == Opened(images=200)
    with pytest.raises(UserError, match=r"1\.jpg cannot be read as an image \(cannot be decoded"):
        check_images("val", rows)
    with pytest.raises(UserError, match=r"199\.jpg is 40 x 30 pixels but the annotations say 30 x 40"):
        check_images("train", [*rows[:-1], (paths[-1], (30, 40))])


def test_check_sixteen_bit__what_shift_would_make_black_is_refused_before_the_start(tmp_path: Path) -> None:
    bright, dark = tmp_path / "bright.png", tmp_path / "dark.png"
    Image.fromarray(np.full((30, 40), 60_000, np.uint16)).save(bright)
    Image.fromarray(np.full((30, 40), 1606, np.uint16)).save(dark)
    opened = check_images("val", [(bright, None), (dark, None)])
    with pytest.raises(UserError, match=r"dark\.png: 16-bit pixels without a value above 1606, which would be nearly "
                                        r"black in 8 bits: use --sixteen-bit range"):
        check_sixteen_bit(opened, "shift")
    check_sixteen_bit(opened, "range")
    check_sixteen_bit(check_images("val", [(bright, None)]), "shift")


@pytest.fixture
def coco(small_data: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_data / "coco", tmp_path / "coco")


def images_of(coco: Path, half: str) -> list[Path]:
    content = json.loads((coco / "annotations" / f"instances_{half}.json").read_text())
    return [coco / "images" / row["file_name"] for row in content["images"]]


def test_find__says_how_many_images_exif_turns_unseen(coco: Path) -> None:
    assert datasets.find(coco, "coco").notes == ()
    for path, orientation in zip([*images_of(coco, "train"), *images_of(coco, "val")], (3, 1, 1, 2, 1), strict=True):
        with Image.open(path) as image:
            width, height = image.size
        saved(path, orientation, (height, width, 3))
    note, = datasets.find(coco, "coco").notes
    assert note.startswith("warning: EXIF turns or mirrors 2 of the 5 images that were opened and leaves their size")


def test_finetune__twelve_bits_are_refused_before_anything_runs(coco: Path, thin_request: Callable, tmp_path: Path
                                                                ) -> None:
    path = images_of(coco, "val")[-1]
    with Image.open(path) as image:
        width, height = image.size
    Image.fromarray(np.full((height, width), 1606, np.uint16)).save(path, "PNG")
    with pytest.raises(UserError, match=rf"{path.name}: 16-bit pixels without a value above 1606, .* --sixteen-bit"):
        finetune(replace(thin_request(tmp_path / "run"), data=coco))
    assert not (tmp_path / "run").exists()


def test_check_image__a_fifo_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg cannot be read as an image \(not a regular file\): replace it or"):
        check_image(tmp_path / "a.jpg", None)
