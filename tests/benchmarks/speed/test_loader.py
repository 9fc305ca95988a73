"""The loader's benchmark: what it compares is the same work, and what it prints is what it measured."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.speed import loader
from benchmarks.speed.__main__ import MODULES
from benchmarks.speed.reference_loader import ReferenceDataset, collate, view_transform
from pretrain.common.errors import UserError
from pretrain.data.batches import ViewDataset

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest turns."""
    for name, value in (("TURN", 1), ("BATCH", 2), ("LOADER_BATCHES", 1), ("PHOTO_SIZE", (80, 60))):
        monkeypatch.setattr(loader, name, value)


def test_photos__are_like_photographs() -> None:
    """500 x 375, of the size on disk and with the slowly falling spectrum of real ones, no two alike."""
    first, second = (loader.make_photo(np.random.default_rng(seed)) for seed in (0, 1))
    image = Image.open(io.BytesIO(first))
    assert image.size == (500, 375) and image.mode == "RGB" and 70_000 < len(first) < 120_000 and first != second
    light = np.asarray(image.convert("L")).astype(float)
    fine, coarse = np.abs(np.diff(light)).mean(), np.abs(light[:, 40:] - light[:, :-40]).mean()
    assert 30 < light.std() < 70 and 0.1 < fine / coarse < 0.5


def test_sides__do_the_same_work() -> None:
    """As many views of the same sizes and types of draws; the reference float32 and normalised."""
    with loader.photographs(None, count=2) as images:
        reference = collate([ReferenceDataset([images.folder / name for name in images])[n] for n in (0, 1)])
        ours = ViewDataset(images, loader.Train())
        batch = ours.collate([ours[0, n] for n in (0, 1)])
        assert [group.shape for group in reference] == [group.shape for group in batch.views]
        assert all(group.dtype == torch.float32 for group in reference)
        assert abs(float(reference[0].mean())) < 1 and 0.4 < float(reference[0].std()) < 2
    assert not images.folder.exists()


def test_reference__draws_grey_and_solarize(few: None) -> None:
    torch.manual_seed(0)
    image = Image.open(io.BytesIO(loader.make_photo(np.random.default_rng(0)))).convert("RGB")
    names = [type(step).__name__ for step in view_transform(96, (0.08, 0.3), 0.5, 0.2).transforms]
    assert names == ["RandomResizedCrop", "RandomHorizontalFlip", "RandomApply", "RandomGrayscale", "RandomApply",
                     "RandomSolarize", "ToTensor", "Normalize"]
    assert view_transform(32, (0.2, 1.0), 1.0, 0.0)(image).shape == (3, 32, 32)


def test_alternate__each_side_has_a_turn_after_the_other() -> None:
    calls: list[str] = []

    def turn(side: str, seconds: float) -> Callable[[], float]:
        return lambda: calls.append(side) or seconds

    speeds = loader.alternate({loader.REFERENCE: turn("r", 2.0), loader.CUT: turn("c", 0.5)}, images=10, seconds=0)
    assert calls == ["r", "c"] * 3 and speeds == {loader.REFERENCE: [5.0] * 3, loader.CUT: [20.0] * 3}


def test_summary__median_of_the_ratios_of_each_turn() -> None:
    speeds = {loader.REFERENCE: [1.0, 2.0, 4.0], loader.FINISHED: [4.0, 8.0, 4.0]}
    assert loader.summary(speeds) == {loader.REFERENCE: {"images_per_second": 2.0, "ratio": 1.0},
                                      loader.FINISHED: {"images_per_second": 4.0, "ratio": 4.0}}


def test_main__prints_and_writes_only_where_it_is_told(few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    assert loader.main(["--seconds", "0", "--output", "figures.json"]) == 0
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "figures.json").read_text())
    assert os.listdir(tmp_path) == ["figures.json"]
    assert set(record["parts"]) == {"one core", "one loader process"} and record["photographs"]["count"] == 32
    for sides in record["parts"].values():
        assert set(sides) == set(loader.SIDES) and sides[loader.REFERENCE]["ratio"] == 1
        for side, figures in sides.items():
            assert f"{side:<15} {figures['images_per_second']:7.1f} images/s   {figures['ratio']:5.2f} x" in printed
    assert record["machine"]["cores"] >= 1 and record["machine"]["versions"]["torch"] in printed


def test_main__own_photographs(few: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        Image.new("RGB", (60, 50), (number, 50, 90)).save(tmp_path / f"{number}.jpg")
    assert loader.main(["--photos", str(tmp_path), "--seconds", "0"]) == 0
    assert "\n3 photographs of 0." in capsys.readouterr().out
    with pytest.raises(UserError, match="none does not exist"):
        loader.main(["--photos", str(tmp_path / "none")])


@pytest.mark.parametrize(("words", "text"), [
    ([], "the following arguments are required: part"),
    (["loder"], "argument part: invalid choice: 'loder' (choose from")])
def test_command_line__says_what_there_is(words: list[str], text: str) -> None:
    ended = subprocess.run([sys.executable, "-P", "-m", "benchmarks.speed", *words], capture_output=True, text=True,
                           env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert ended.returncode == 2 and f"clove speed: error: {text}" in ended.stderr


def test_command_line__hands_the_other_words_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.speed import __main__

    seen: list[list[str]] = []
    monkeypatch.setattr(loader, "main", lambda words: seen.append(words) or 0)
    monkeypatch.setattr("sys.argv", ["speed", "loader", "--seconds", "1"])
    assert __main__.main() == 0 and seen == [["--seconds", "1"]] and MODULES["loader"] == "loader"
