"""A task that another file adds: through a preflight, a fine-tuning and an evaluation without a change elsewhere."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image, ImageDraw

from pretrain.common.errors import UserError
from tests.transfer.conftest import THIN
from tests.transfer.tasks import another_task
from tests.transfer.tasks.another_task import TASK
from transfer import tasks
from transfer.__main__ import main
from transfer.finetuning import evaluate
from transfer.settings import datasets
from transfer.tasks import Task

FILE = Path(another_task.__file__)
ROOT = FILE.parents[3]


def draw(folder: Path, names: list[str]) -> None:
    """White discs and planks on grey, one of each in an image; the last image is empty."""
    folder.mkdir(parents=True)
    with open(folder / "boxes.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "x0", "y0", "x1", "y1"])
        for number, name in enumerate(names):
            image = Image.new("RGB", (96, 64), "grey")
            if number < len(names) - 1:
                disc, plank = (8 + number, 10, 38 + number, 40), (50, 20 + number, 90, 36 + number)
                ImageDraw.Draw(image).ellipse(disc, fill="white")
                ImageDraw.Draw(image).rectangle(plank, fill="white")
                writer.writerows([[name, "disc", *disc], [name, "plank", *plank]])
            image.save(folder / name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("another") / "data"
    draw(folder / "train", [f"{letter}.png" for letter in "abcdef"])
    draw(folder / "val", ["v.png", "w.png", "x.png"])
    return folder


def thin(data: Path, output: Path) -> list[object]:
    words: list[object] = ["--task", "boxes-csv", "--data", data, "--output", output, "--scale", "tiny",
                           "--architecture", "resnet18", "--device", "cpu"]
    for value in THIN:
        if "MASK" not in value and "KEYPOINT" not in value:
            words += ["--set", value]
    return words


def commands(*all_words: list[object]) -> subprocess.CompletedProcess:
    """`clove WORDS` one after the other in one process, with the task's file in CLOVE_TASKS."""
    code = ("import json, sys\nfrom transfer.__main__ import main\n"
            "for words in json.loads(sys.argv[1]):\n    sys.argv = ['transfer', *words]\n    assert main() == 0\n")
    words = json.dumps([[str(word) for word in words] for words in all_words])
    return subprocess.run([sys.executable, "-P", "-c", code, words], capture_output=True, text=True, check=False,
                          env={**os.environ, "CLOVE_TASKS": str(FILE), "PYTHONPATH": str(ROOT)})


@pytest.mark.slow
def test_another_task__from_preflight_to_evaluation(data: Path, tmp_path: Path) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    done = commands(
        ["preflight", *thin(data, tmp_path / "preflight")],
        ["finetune", "--weights", "random", *thin(data, run), "--train-share", 0.5, "--keep-predictions"],
        ["evaluate", run, "--task", "boxes-csv", "--data", data, "--output", again, "--device", "cpu"])
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "preflight" / "preflight.json").read_text())["evaluated"] == 2
    result = json.loads((run / "result.json").read_text())
    assert set(result["metrics"]) == {"recall/R50", "recall/R50-disc", "recall/R50-plank"}
    assert all(0 <= value <= 100 for value in result["metrics"].values())
    assert (result["task"], result["table"], result["evaluator"]) == ("boxes-csv", "boxes_csv", "its own")
    assert result["dataset"]["train"]["images"] == 3 and result["dataset"]["classes"] == ["disc", "plank"]
    assert (result["config"]["DATASETS"]["TRAIN"], result["config"]["MODEL"]["MASK_ON"]) == (["boxes-csv_train"], False)
    assert json.loads((again / "result.json").read_text())["metrics"] == result["metrics"]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Task:
    """The task in this process."""
    monkeypatch.setitem(tasks.TASKS, TASK.name, TASK)
    return TASK


def test_evaluator__counts_what_is_found(data: Path, known: Task) -> None:
    dataset = datasets.find(data, known.name)
    _, name = datasets.register(dataset)
    evaluator = known.evaluator(dataset, get_cfg())
    evaluator.reset()
    for number, record in enumerate(DatasetCatalog.get(name)):
        boxes = torch.tensor([row["bbox"] for row in record["annotations"]]).reshape(-1, 4)
        found = Instances((record["height"], record["width"]))
        # Both found in the first image; in the second the disc's overlap is 16 / 44 and the plank has its box.
        found.pred_boxes = Boxes(boxes + torch.tensor([[14.0, 0, 14, 0], [0, 0, 0, 0]]) * (number == 1)
                                 if len(boxes) else boxes)
        found.pred_classes = torch.tensor([row["category_id"] for row in record["annotations"]], dtype=torch.int64)
        evaluator.process([record], [{"instances": found}])
    assert evaluate.all_metrics(evaluator.evaluate()) == {
        "recall/R50": 75.0, "recall/R50-disc": 50.0, "recall/R50-plank": 100.0}


@pytest.mark.parametrize(("words", "text"), [
    ([], "train/boxes.csv is missing: expected DIR/train/ and DIR/val/, each with images (*.png)"),
    (["--val-annotations", "a.json"], "--val-annotations: the annotations of task boxes-csv are not one file"),
    (["--evaluator", "hotcoco"], "--evaluator hotcoco: the metrics of boxes-csv come from its own alone"),
])
def test_another_task__what_is_wrong_is_one_line(words: list[str], text: str, tmp_path: Path, known: Task,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["transfer", "finetune", "--weights", "random", "--task", known.name, "--output",
                                      "out", "--device", "cpu", "--data", ".", *words])
    with pytest.raises(UserError) as caught:
        main()
    assert str(caught.value).startswith(text) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
