"""The generated detections, and what the evaluation benchmark needs."""

import sys

import numpy as np
import pytest

from benchmarks.speed import evaluation
from pretrain.common.errors import UserError


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_detections__are_of_realistic_number_and_quality(iou_type: str) -> None:
    truth, found = evaluation.detections(30, iou_type, classes=5)
    assert len(found.getImgIds()) == 30 and len(found.anns) == 30 * evaluation.DETECTIONS
    assert 4 < len(truth.anns) / 30 < 10
    areas = np.array([row["area"] for row in truth.anns.values()])
    assert all(((areas >= low) & (areas < high)).any() for low, high in ((0, 32**2), (32**2, 96**2), (96**2, 1e9)))
    _, figures = evaluation.timed(evaluation.COCOeval, truth, found, iou_type)
    assert 0.05 < figures[0] < 0.9


def test_detections__depend_on_the_seed_alone() -> None:
    (_, one), (_, same), (_, other) = (evaluation.detections(3, "bbox", seed=seed) for seed in (1, 1, 2))
    assert one.dataset["annotations"] == same.dataset["annotations"] != other.dataset["annotations"]


def test_main__without_hotcoco_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(UserError, match="pip install"):
        evaluation.main([])


def test_main__nothing_to_measure_is_refused() -> None:
    with pytest.raises(UserError, match="of at least 1, found less"):
        evaluation.main(["--images", "0"])


def test_main__hotcoco_itself_gives_pycocotools_figures(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hotcoco", reason="hotcoco is not installed (pip install hotcoco)")
    assert evaluation.main(["--images", "60", "--classes", "5", "--rounds", "1"]) == 0
    assert capsys.readouterr().out.count("all metrics agree") == 2
