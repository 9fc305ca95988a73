"""Sizes of images against what the annotations say: as EXIF shows them, which is how they are read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.errors import UserError
from transfer.image_check import check_image


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_check_image__the_shown_size_counts(tmp_path: Path, suffix: str, orientation: int) -> None:
    path, exif = tmp_path / f"x.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path, exif=exif)
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
