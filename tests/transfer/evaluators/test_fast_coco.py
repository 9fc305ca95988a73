"""hotcoco in the place of pycocotools: the same figures, and refused where they differ."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from benchmarks.speed.evaluation import detections
from pretrain.common.errors import UserError
from transfer.evaluators import fast_coco
from transfer.finetuning import finetune


@pytest.fixture
def substitute(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module of hotcoco's shape that computes with pycocotools and adds `.off` to the precision."""
    from pycocotools.coco import COCO

    found = SimpleNamespace(off=0.0)

    class Truth(COCO):
        def __init__(self, dataset: dict) -> None:
            super().__init__()
            self.dataset = dataset
            self.createIndex()
            self.load_res = self.loadRes

    class Evaluation(COCOeval):
        def accumulate(self, p: object = None) -> None:
            super().accumulate(p)
            self.eval["precision"][self.eval["precision"] > -1] += found.off

    found.COCO, found.COCOeval = Truth, Evaluation
    monkeypatch.setitem(sys.modules, "hotcoco", found)
    return found


def figures(kind: type[COCOeval], iou_type: str, images: int = 60) -> tuple[np.ndarray, np.ndarray]:
    evaluation = kind(*detections(images, iou_type, classes=10), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats, evaluation.eval["precision"]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_checked__all_figures_are_those_of_pycocotools(substitute: SimpleNamespace, iou_type: str) -> None:
    (expected, precision), (found, ours) = figures(COCOeval, iou_type), figures(fast_coco.CheckedCOCOeval, iou_type)
    assert 0.05 < expected[0] < 0.95
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours, precision, rtol=0, atol=1e-12)


def test_checked__a_difference_is_refused_with_both_values(substitute: SimpleNamespace) -> None:
    substitute.off = 1e-6
    said = r"hotcoco differs from pycocotools on 50 images: bbox AP is .*, expected .*0\.\d+"
    with pytest.raises(UserError, match=said):
        figures(fast_coco.CheckedCOCOeval, "bbox")


def test_evaluator__is_put_back(substitute: SimpleNamespace) -> None:
    from detectron2.evaluation import coco_evaluation

    before = coco_evaluation.COCOeval
    with fast_coco.evaluator("hotcoco"):
        assert coco_evaluation.COCOeval is fast_coco.CheckedCOCOeval
    with fast_coco.evaluator("pycocotools"):
        assert coco_evaluation.COCOeval is before
    assert coco_evaluation.COCOeval is before


def test_require__says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(UserError, match=r'not installed; run `pip install "hotcoco>=1\.3"`'):
        fast_coco.require()


def test_finetune__cityscapes_has_no_other_evaluator(tmp_path: Path) -> None:
    request = finetune.Request(task="cityscapes", weights="random", data=tmp_path, output=tmp_path / "out",
                               evaluator="hotcoco")
    with pytest.raises(UserError, match="the metrics of cityscapes come from cityscapesscripts alone"):
        finetune.finetune(request)
    assert not (tmp_path / "out").exists()
