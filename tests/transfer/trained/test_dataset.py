"""`clove dataset DIR`: counts, classes and places in words, and a figure of annotated images."""

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.demo import demo_data
from pretrain.common.errors import UserError
from transfer.__main__ import main
from transfer.finetuning.drawing import BAR, WIDTH
from transfer.trained import dataset


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["transfer", "dataset", *map(str, words)])
    return main()


def test_dataset__reports_what_is_there_and_draws_it(
        small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    figure = tmp_path / "figure.png"
    assert command(monkeypatch, small_data / "coco", "--output", figure) == 0
    said = capsys.readouterr().out
    assert "task coco: " in said and "objects have boxes, masks" in said
    assert "train: 3 images (" in said and "val: 2 images (" in said
    assert f"annotations {small_data}/coco/annotations/instances_train.json (SHA-256 " in said
    assert f"wrote {figure}: 5 images of train and val with their annotations" in said
    with Image.open(figure) as image:
        assert image.width == dataset.COLUMNS * WIDTH and image.height > 2 * BAR  # five images are two rows


@pytest.mark.parametrize(("folder", "task", "kinds"), [
    ("keypoints", "keypoints", "boxes, keypoints"), ("cityscapes", "cityscapes", "boxes, masks"),
    ("voc", "voc", "boxes")])
def test_dataset__finds_the_task(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture, folder: str, task: str, kinds: str) -> None:
    assert command(monkeypatch, small_data / folder, "--output", tmp_path / "figure.png") == 0
    assert f"task {task}: " in (said := capsys.readouterr().out) and f"objects have {kinds}\n" in said


def test_dataset__says_which_keypoints_a_mirror_exchanges() -> None:
    assert dataset.mirrored(("nose", "left_eye", "right_eye")) == (
        "3 keypoints; in a mirrored image change places: left_eye and right_eye")
    assert dataset.mirrored(("tip", "base")) == "2 keypoints; in a mirrored image change places: none"
    assert dataset.mirrored(("left_eye", "tip")) == (
        "2 keypoints; images are not mirrored: left_eye without a partner")


def test_dataset__a_small_val_is_filled_up_from_train(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    demo_data.generate(tmp_path / "demo", photos=1, train=14, val=2)
    assert command(monkeypatch, tmp_path / "demo" / "coco", "--output", tmp_path / "figure.png") == 0
    assert "figure.png: 12 images of train and val" in capsys.readouterr().out


def test_dataset__nothing_can_read_it(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(small_data / "coco" / "images", tmp_path / "data")
    with pytest.raises(UserError, match="data: expected the data of one of the tasks coco, cityscapes, .*, found"):
        command(monkeypatch, tmp_path / "data", "--output", tmp_path / "figure.png")
    with pytest.raises(UserError, match=r"--output figure.jpg: expected a file name that ends in .png"):
        command(monkeypatch, tmp_path / "data", "--output", "figure.jpg")
    with pytest.raises(UserError, match=r"nowhere is not a folder: expected the data of a task"):
        command(monkeypatch, tmp_path / "nowhere")
    assert not (tmp_path / "figure.png").exists()
