"""A preflight of every task on generated data: what it takes, what it leaves, and what it finds."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.common.errors import UserError
from tests.transfer.annotations.test_lvis_json import needs_lvis
from tests.transfer.finetuning.test_tasks import FPN, THIN
from transfer import tasks
from transfer.finetuning import evaluate
from transfer.finetuning.finetune import Request
from transfer.finetuning.preflight import preflight
from transfer.settings import datasets


@pytest.fixture
def request_for(small_data: Path, tmp_path: Path) -> Callable[..., Request]:
    """request_for(task, **changes): thin, on a CPU, into tmp_path/out."""
    def made(task: str, **changes: object) -> Request:
        values = {"task": task, "data": small_data / tasks.get(task).demo_layout, "output": tmp_path / "out",
                  "weights": "random", "architecture": "resnet18", "scale": "demo",
                  "device": "cpu", "overrides": THIN if task in ("coco-c4", "voc") else THIN + FPN}
        return Request(**values | changes)

    return made


@pytest.mark.parametrize("task", ["coco", "keypoints", "cityscapes", "voc", pytest.param("lvis", marks=needs_lvis)])
def test_excerpt__is_read_as_the_whole_was(task: str, small_data: Path, tmp_path: Path) -> None:
    whole = datasets.find(small_data / tasks.get(task).demo_layout, task)
    tasks.get(task).excerpt(whole, tmp_path, 2, 1)
    part = datasets.find(tmp_path, task)
    assert (part.train.images, part.val.images) == (2, 1)
    assert (whole.train.images, whole.val.images) == (3, 2)
    assert part.classes == whole.classes and part.keypoint_names == whole.keypoint_names


def test_excerpt__takes_the_images_with_the_most_objects(small_data: Path, tmp_path: Path) -> None:
    whole = datasets.find(small_data / "coco", "coco")
    tasks.get("coco").excerpt(whole, tmp_path, 2, 1)

    def counts(path: Path) -> list[int]:
        content = json.loads(path.read_text())
        return sorted((sum(row["image_id"] == image["id"] and not row["iscrowd"] for row in content["annotations"])
                       for image in content["images"]), reverse=True)

    assert counts(tmp_path / "annotations" / "train.json") == counts(whole.train.annotations)[:2]


@pytest.mark.parametrize("task", [
    *(pytest.param(task, marks=pytest.mark.slow) for task in ("coco", "cityscapes", "voc")),
    *(pytest.param(task, marks=pytest.mark.longest) for task in ("coco-c4", "keypoints")),
    pytest.param("lvis", marks=[pytest.mark.longest, needs_lvis])])
def test_preflight__passes_and_leaves_one_file(task: str, request_for: Callable) -> None:
    request = request_for(task)
    record = preflight(request)
    assert (record["task"], record["iterations"], record["evaluated"]) == (task, 2, 2)
    assert record["peak_memory_mb"] > 100 and record["images_per_batch"] >= 2
    assert [path.name for path in request.output.iterdir()] == ["preflight.json"]
    assert json.loads((request.output / "preflight.json").read_text()) == record


@pytest.mark.slow
def test_preflight__a_broken_evaluator_shows_and_its_log_stays(
    request_for: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise UserError("the evaluator has no ground truth")

    request = request_for("coco")
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate", broken)
        with pytest.raises(UserError, match="no ground truth"):
            preflight(request)
    assert (request.output / "work" / "run" / "log.txt").is_file()
    assert not (request.output / "preflight.json").exists()
    assert preflight(request)["passed"] and not (request.output / "work").exists()


def test_preflight__a_folder_with_other_files_is_refused(request_for: Callable) -> None:
    request = request_for("coco")
    request.output.mkdir()
    (request.output / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds other files: a preflight needs a folder of its own"):
        preflight(request)
    assert (request.output / "thesis.tex").exists()


def test_preflight__a_wrong_option_leaves_nothing(request_for: Callable) -> None:
    request = request_for("coco", overrides=("SOLVER.BASE_LRR=3",))
    with pytest.raises(UserError, match="has no key SOLVER.BASE_LRR; the nearest is SOLVER.BASE_LR"):
        preflight(request)
    assert not request.output.exists()
