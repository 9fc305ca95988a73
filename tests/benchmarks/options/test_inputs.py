"""Where the pretraining images are, and the hash that says whether they are the same ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.options.inputs import DataFolder, find_photos, read_photos, read_task
from pretrain.common.errors import UserError
from pretrain.data.shards import pack
from tests.transfer.coco_files import content, write


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "more/c.png"):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_read_photos__shards_are_the_folder_that_was_packed(photos: Path, tmp_path: Path) -> None:
    pack(photos, tmp_path / "shards")
    one, other = read_photos(photos), read_photos(tmp_path / "shards")
    assert (one.images, one.digest) == (other.images, other.digest) and one.images == 3


@pytest.mark.parametrize("change", ["content", "name", "gone"])
def test_read_photos__other_images_have_another_hash(photos: Path, change: str) -> None:
    before = read_photos(photos).digest
    if change == "content":
        (photos / "a.png").write_bytes((photos / "a.png").read_bytes() + b"more")
    elif change == "name":
        (photos / "a.png").rename(photos / "d.png")
    else:
        (photos / "a.png").unlink()
        (photos / "a.png").symlink_to(photos / "nowhere")
    assert read_photos(photos).digest != before


def test_read_photos__names_that_are_not_utf8(photos: Path) -> None:
    (photos / "a.png").rename(str(photos / "caf\udce9.png"))
    assert read_photos(photos).images == 3


def test_find_photos__options_before_the_environment(photos: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "train").symlink_to(photos)
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    with pytest.raises(UserError, match="pretraining images: give --imagenet DIR"):
        find_photos(None, None)
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="folder .*nowhere/train not found, expected IMAGENET_DIR/train/CLASS"):
        find_photos(None, None)
    assert find_photos(photos, tmp_path / "nowhere").folder == photos
    assert find_photos(None, tmp_path / "imagenet").images == 3


def test_read_task__masks_that_are_marked_as_crowds_and_images_of_both_halves(tmp_path: Path) -> None:
    """What is read is what the stages are told to read."""
    values = content()
    for row in values["annotations"]:
        row["iscrowd"] = 1
    folder = DataFolder("x", write(tmp_path / "x", {"train.json": values, "val.json": values}))
    with pytest.raises(UserError, match="task coco: .*all 2 annotations are crowds: .* --crowds-as-objects reads them"):
        read_task("coco", folder, same_images=True)
    with pytest.raises(UserError, match="task coco: .*all of its 2 images are in .*; --same-images allows it"):
        read_task("coco", folder, crowds_as_objects=True)
    found = read_task("coco", folder, same_images=True, crowds_as_objects=True)
    assert found.arguments() == ["--data", folder.folder, "--same-images", "--crowds-as-objects"]
    assert (found.train_images, found.val_images) == (2, 2)
    for row in values["annotations"]:
        row["iscrowd"] = 0
    folder = DataFolder("y", write(tmp_path / "y", {"train.json": values, "val.json": content(("c.png", "d.png"))}))
    assert read_task("coco", folder).arguments() == ["--data", folder.folder]
