"""A task that another file adds, from its data option to a table, without a change elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain import ROOT
from tests.transfer.tasks import another_task
from tests.transfer.tasks.test_another_task import draw

FILE = Path(another_task.__file__)


def suite(*words: object) -> subprocess.CompletedProcess:
    """./run_all.sh with the task's file in CLOVE_TASKS."""
    return subprocess.run([sys.executable, "-P", "-m", "benchmarks", *map(str, words)], capture_output=True, text=True,
                          check=False, env={**os.environ, "CLOVE_TASKS": str(FILE), "PYTHONPATH": str(ROOT)})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    draw(tmp_path / "data" / "train", [f"{letter}.png" for letter in "abcdef"])
    draw(tmp_path / "data" / "val", ["v.png", "w.png", "x.png"])
    draw(tmp_path / "more" / "train", [f"{letter}.png" for letter in "abcd"])
    draw(tmp_path / "more" / "val", ["v.png", "w.png"])
    return tmp_path / "data"


@pytest.mark.slow
def test_another_task__from_its_option_to_its_table(data: Path, tmp_path: Path) -> None:
    words = ["--methods", "rand", "--architecture", "resnet18", "--tasks", "boxes-csv", "--boxes-csv", data,
             "--boxes-csv", f"again={data.parent / 'more'}", "--train-share", "0.5", "--scale", "tiny",
             "--device", "cpu", "--keep", "none", "--include-demo", "--output", tmp_path / "out"]
    planned = suite(*words, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "finetune-rand-boxes-csv.again.share0.5-0 " in planned.stdout and "2 small iterations" in planned.stdout
    done = suite(*words)
    assert done.returncode == 0, done.stderr
    assert "Discs and planks found (R50-FPN)" in done.stdout
    assert "R50" in done.stdout.split("Discs and planks found")[1] and "Rand init" in done.stdout
    assert len(list((tmp_path / "out" / "results" / "runs").glob("*.json"))) == 2
    again = suite(*words)
    assert again.returncode == 0 and again.stdout.count("done before") == 2
    status = suite("status", "--output", tmp_path / "out")
    assert status.returncode == 0 and "all 2 stages done" in status.stdout


@pytest.mark.slow
def test_another_task__what_is_wrong_is_one_line(tmp_path: Path) -> None:
    for words, text in (
            (["--tiny", "--tasks", "boxes-csv"], "error: task boxes-csv: expected a demo_layout of coco, "),
            (["--methods", "rand", "--tasks", "boxes-csv", "--heads", "4conv1fc"],
             "error: task boxes-csv: unknown --heads '4conv1fc' for task boxes-csv: expected one of 2fc"),
            (["--methods", "rand", "--tasks", "boxes-csv", "--boxes-csv", tmp_path],
             "error: 1 input missing or wrong, nothing was run:\n  - task boxes-csv: "
             f"{tmp_path / 'train' / 'boxes.csv'} is missing: expected DIR/train/ and DIR/val/")):
        refused = suite(*words, "--output", tmp_path / "out")
        assert refused.returncode == 2 and text in refused.stderr and "Traceback" not in refused.stderr
