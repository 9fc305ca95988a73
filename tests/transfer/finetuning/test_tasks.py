"""The tasks beyond the poster's, end to end: converted weights in, result.json out, at a thin demo scale."""

import json
from pathlib import Path

import pytest

from benchmarks.records import results
from pretrain.common.errors import UserError
from tests.transfer.annotations.test_lvis_json import needs_lvis
from transfer import tasks
from transfer.finetuning import evaluate
from transfer.finetuning.finetune import Request, finetune
from transfer.trained import diff

THIN = ("SOLVER.MAX_ITER=3", "SOLVER.STEPS=2,", "TEST.PRECISE_BN.NUM_ITER=2", "INPUT.MIN_SIZE_TRAIN=64,",
        "INPUT.MIN_SIZE_TEST=64", "MODEL.ROI_MASK_HEAD.CONV_DIM=16")
FPN = ("MODEL.FPN.OUT_CHANNELS=16", "MODEL.ROI_BOX_HEAD.CONV_DIM=16", "MODEL.ROI_BOX_HEAD.FC_DIM=32")
DETAILS = {"coco-c4": {"bbox/APs", "segm/APl", "bbox/AP-disc"}, "voc": {"bbox/AP-bird", "bbox/AP50-bird"},
           "lvis": {"bbox/APr", "bbox/APc", "segm/APf", "segm/APs"}}


def request(small_data: Path, output: Path, task: str, **words: object) -> Request:
    overrides = THIN if task in ("coco-c4", "voc") else THIN + FPN
    values = {"weights": "random", "architecture": "resnet18", "scale": "demo", "device": "cpu", **words}
    data = small_data / tasks.get(task).demo_layout
    return Request(task=task, data=data, output=output, overrides=overrides, **values)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "heads"), [("coco-c4", "c4"), ("voc", "c4"),
                                             pytest.param("lvis", "4conv1fc", marks=needs_lvis)])
def test_finetune__from_converted_weights_to_a_result(task: str, heads: str, small_data: Path, converted: Path,
                                                      tmp_path: Path) -> None:
    result = finetune(request(small_data, tmp_path, task, weights=str(converted)))
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert (result["heads"], result["table"], result["evaluator"]) == (
        heads, tasks.get(task).table.name, tasks.get(task).official)
    assert (result["schedule"], result["solver"]) == (None, "common")
    assert set(result["metrics"]) >= DETAILS[task]
    assert all(0 <= value <= 100 for value in evaluate.columns(task, result["metrics"]).values())
    assert (tmp_path / "predictions.png").stat().st_size > 10_000
    row = {**result, "method": "CLoVE", "epochs": 7, "demo": True, "stage": {"name": task, "key": "0"}}
    assert results.validate(row) == []
    assert diff.compare(diff.read(tmp_path), diff.read(tmp_path / "result.json")).config == {}


def test_finetune__heads_of_a_c4_task_are_refused_before_anything_is_written(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--heads 2fc: task voc has a C4 backbone, whose head is res5 itself"):
        finetune(request(small_data, tmp_path / "out", "voc", heads="2fc"))
    with pytest.raises(UserError, match="unknown --solver 'vicreg' for task keypoints: expected one of common"):
        finetune(request(small_data, tmp_path / "out", "keypoints", solver="vicreg", scale="full"))
    with pytest.raises(UserError, match="the metrics of voc come from detectron2 alone"):
        finetune(request(small_data, tmp_path / "out", "voc", evaluator="hotcoco"))
    assert not (tmp_path / "out").exists()
