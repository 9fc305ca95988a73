"""Which fine-tuned models stay; nothing but models ever goes."""

import json
from pathlib import Path

import pytest

from benchmarks.options import kept_models


def finished(output: Path, name: str, figure: float | None) -> Path:
    folder = output / name
    folder.mkdir(parents=True)
    for file in ("model_final.pth", "last_checkpoint", "predictions.png", "metrics.json"):
        (folder / file).write_text("content")
    if figure is not False:
        (folder / "result.json").write_text(json.dumps({
            "task": "coco", "metrics": {"segm/AP": 99.0, "bbox/AP": figure}}))
    return folder


@pytest.fixture
def trials(tmp_path: Path) -> list[Path]:
    """Three finished trials, one that still runs, one of another task and one of a method with a longer name."""
    names = {"0-aaaaaaaa": 10.0, "1-bbbbbbbb": 30.0, "2-cccccccc": None, "3-dddddddd": False}
    made = [finished(tmp_path, f"finetune-mine-coco-{name}", figure) for name, figure in names.items()]
    finished(tmp_path, "finetune-mine-keypoints-0-eeeeeeee", 90.0)
    finished(tmp_path, "finetune-mine-coco-c4-0-ffffffff", 95.0)
    return made


def with_models(output: Path) -> set[str]:
    return {path.parent.name for path in output.glob("*/model_final.pth")}


def test_tidy__last_keeps_everything(trials: list[Path], tmp_path: Path) -> None:
    assert kept_models.tidy(trials[0], kept_models.LAST) == [] and len(with_models(tmp_path)) == 6


def test_tidy__none_removes_the_models_of_this_run_alone(trials: list[Path], tmp_path: Path) -> None:
    gone = kept_models.tidy(trials[0], kept_models.NONE)
    assert [path.name for path in gone] == ["model_final.pth", "last_checkpoint"]
    assert sorted(path.name for path in trials[0].iterdir()) == ["metrics.json", "predictions.png", "result.json"]
    assert len(with_models(tmp_path)) == 5 and kept_models.tidy(trials[0], kept_models.NONE) == []


@pytest.mark.parametrize("last", [0, 1, 2])
def test_tidy__best_keeps_the_best_trial_whichever_ends_last(trials: list[Path], tmp_path: Path, last: int) -> None:
    kept_models.tidy(trials[last], kept_models.BEST)
    assert with_models(tmp_path) == {"finetune-mine-coco-1-bbbbbbbb", "finetune-mine-coco-3-dddddddd",
                                     "finetune-mine-keypoints-0-eeeeeeee", "finetune-mine-coco-c4-0-ffffffff"}


def test_tidy__best_is_among_runs_with_the_same_settings_and_leaves_what_was_set_aside(tmp_path: Path) -> None:
    for name, figure, heads in (("0-aaaaaaaa", 10.0, "2fc"), ("0-bbbbbbbb", 30.0, "4conv1fc"),
                                ("1-cccccccc", 20.0, "2fc"), ("1-cccccccc.old1", 5.0, "2fc")):
        folder = finished(tmp_path, f"finetune-mine-coco-{name}", figure)
        (folder / "result.json").write_text(json.dumps({
            "task": "coco", "metrics": {"AP_bb": figure, "AP_mb": 0.0}, "details": {}, "heads": heads}))  # the old form
    kept_models.tidy(tmp_path / "finetune-mine-coco-1-cccccccc", kept_models.BEST)
    assert with_models(tmp_path) == {f"finetune-mine-coco-{name}" for name in ("0-bbbbbbbb", "1-cccccccc",
                                                                              "1-cccccccc.old1")}


def test_tidy__a_run_that_is_not_finished_loses_nothing(trials: list[Path], tmp_path: Path) -> None:
    for kind in kept_models.KINDS:
        assert kept_models.tidy(trials[3], kind) == []
    assert len(with_models(tmp_path)) == 6
