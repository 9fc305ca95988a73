"""What was checked is not checked again, and what was changed is: in content, size, time or expectation."""

import json
import os
import shutil
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from pretrain.common.atomic import sha256_file
from pretrain.common.errors import UserError
from pretrain.data import pixels
from tests.transfer.coco_files import content
from transfer.annotations import check_notes, coco_json
from transfer.data import cityscapes_check, image_check, voc
from transfer.data.dataset import Opened
from transfer.settings import datasets


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the notes; files count as at rest at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(check_notes, "RESTING", 0.0)
    return tmp_path / "cache" / "clove-suite" / "checked"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "x.png")
    time.sleep(0.02)  # a clock of a file system ticks every few milliseconds
    return tmp_path / "x.png"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every image that was opened."""
    paths, read = [], image_check.read_header
    monkeypatch.setattr(image_check, "read_header", lambda path: paths.append(path) or read(path))
    return paths


def test_check_images__again_reads_the_note(image: Path, opened: list[Path], notes: Path) -> None:
    rows = [(image, (40, 30))]
    assert image_check.check_images("val", rows) == image_check.check_images("val", rows) == Opened(images=1)
    assert opened == [image] and len(list(notes.iterdir())) == 1


def test_check_images__an_image_of_the_same_size_and_time_is_opened_again(image: Path, opened: list[Path]) -> None:
    image_check.check_images("val", [(image, (40, 30))])
    before, whole = image.stat(), image.read_bytes()
    image.write_bytes(whole[:60] + bytes(len(whole) - 60))
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = image.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(UserError, match=r"x\.png cannot be read as an image"):
        image_check.check_images("val", [(image, (40, 30))])
    assert opened == [image, image]


def test_check_images__other_expectations_are_another_check(image: Path, opened: list[Path], tmp_path: Path) -> None:
    image_check.check_images("train", [(image, (40, 30))])
    image_check.check_images("val", [(image, (40, 30))])
    image_check.check_images("val", [(image, None)])
    image_check.check_images("val", [(shutil.copy(image, tmp_path / "y.png"), (40, 30))])
    assert len(opened) == 4
    with pytest.raises(UserError, match="but the annotations say 30 x 40"):
        image_check.check_images("val", [(image, (30, 40))])
    image.unlink()
    with pytest.raises(UserError, match=r"x\.png cannot be read as an image"):
        image_check.check_images("val", [(image, (40, 30))])


def test_check_images__other_code_checks_again(
        image: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    image_check.check_images("val", [(image, None)])
    monkeypatch.setattr(check_notes, "_code_version", lambda: "another")
    image_check.check_images("val", [(image, None)])
    assert len(opened) == 2


def test_code_version__holds_all_that_checks() -> None:
    for module in (coco_json, image_check, cityscapes_check, voc, pixels):
        assert sha256_file(Path(module.__file__)) in check_notes._code_version()


def test_check_images__a_file_that_may_still_change_leaves_no_note(
        image: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_notes, "RESTING", 60.0)
    image_check.check_images("val", [(image, None)])
    assert not notes.exists()


def test_check_images__without_a_place_for_notes(image: Path, tmp_path: Path, opened: list[Path]) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert image_check.check_images("val", [(image, None)]) == image_check.check_images("val", [(image, None)])
    assert len(opened) == 2


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every annotation file that was read."""
    paths, load = [], coco_json.load
    monkeypatch.setattr(coco_json, "load", lambda path, *kind: paths.append(path) or load(path, *kind))
    return paths


@pytest.mark.parametrize("keypoints", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_read__again_is_the_same_file(first: int, keypoints: bool, loaded: list[Path], tmp_path: Path) -> None:
    path, values = tmp_path / "a.json", content(keypoints=keypoints)
    for row in values["annotations"]:
        row["id"] += first - 1
    values["annotations"][0]["area"] = 1.5  # is noted
    path.write_text(json.dumps(values))
    time.sleep(0.02)
    file = coco_json.read(path, keypoints)
    assert coco_json.read(path, keypoints) == file and loaded == [path]
    assert file.notes and (file.plain is None) == (first == 1)
    coco_json.read(path, keypoints, evaluated=False)
    assert len(loaded) == 2
    if file.plain:
        file.plain.unlink()
        assert coco_json.read(path, keypoints).plain.is_file()


def test_read__a_file_of_the_same_size_and_time_is_read_again(loaded: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content()))
    time.sleep(0.02)
    coco_json.read(path)
    before = path.stat()
    path.write_text(path.read_text().replace("disc", "star"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert [name for _, name in coco_json.read(path).categories] == ["star", "plank"]
    path.write_text(path.read_text().replace("bbox", "bpox"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match="has no 'bbox'"):
        coco_json.read(path)


@pytest.mark.parametrize("task", ["coco", "voc", "cityscapes", "lvis"])
def test_find__the_second_start_opens_nothing(
        task: str, small_data: Path, opened: list[Path], loaded: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    if task == "lvis":
        pytest.importorskip("lvis")
    time.sleep(0.02)
    parse = ElementTree.parse
    monkeypatch.setattr(ElementTree, "parse", lambda path: loaded.append(path) or parse(path))
    first = datasets.find(small_data / task, task)
    number = len(opened + loaded)
    assert opened and (loaded or task == "cityscapes") and datasets.find(small_data / task, task) == first
    assert len(opened + loaded) == number
