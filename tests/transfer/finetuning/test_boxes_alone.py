"""Objects without masks: Faster R-CNN by the same protocol, from request to result; with a share of the images."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pretrain.common.errors import UserError
from transfer.data.dataset import SPLITS
from transfer.finetuning import evaluate
from transfer.finetuning.finetune import finetune
from transfer.probing import probe
from transfer.settings import datasets
from transfer.tasks import Where
from transfer.trained.evaluate_model import EvaluationRequest, evaluate_model

COLUMNS = {"AP_bb", "AP50_bb", "AP75_bb"}


@pytest.fixture
def boxes(small_data: Path, tmp_path: Path) -> Where:
    """The generated COCO data with its masks taken out of the files, which lie elsewhere."""
    dataset = datasets.find(small_data / "coco", "coco")
    for half in SPLITS:
        content = json.loads(dataset.half(half).annotations.read_text())
        for row in content["annotations"]:
            del row["segmentation"]
        (tmp_path / f"{half}_boxes.json").write_text(json.dumps(content))
    return Where(small_data / "coco", tmp_path / "train_boxes.json", tmp_path / "val_boxes.json")


def test_finetune__boxes_alone(boxes: Where, thin_request: Callable, tmp_path: Path,
                               capsys: pytest.CaptureFixture) -> None:
    request = replace(thin_request(tmp_path / "run"), data=replace(boxes, train_share=0.67), keep_predictions=True)
    result, said = finetune(request), capsys.readouterr().err
    assert said.count("has boxes and no masks") == 1
    assert said.count("--train-share 0.67: 2 of 3 training images, 2 of them with objects") == 1
    columns = evaluate.columns("coco", result["metrics"])
    assert {name for name, value in columns.items() if value is not None} == COLUMNS
    assert not any(name.startswith("segm/") for name in result["metrics"])
    assert result["config"]["MODEL"]["MASK_ON"] is False and result["heads"] == "4conv1fc"
    names = torch.load(tmp_path / "run" / "model_final.pth")["model"]
    assert not any("mask" in name for name in names) and any("box_head" in name for name in names)
    assert result["dataset"]["train_share"] == {"share": 0.67, "images": 2}
    assert result["dataset"]["train"]["images"] == 2

    with pytest.raises(UserError, match=r"dataset.train_share.share was 0.67, is 0.34"):
        finetune(replace(request, data=replace(boxes, train_share=0.34)))
    again = evaluate_model(EvaluationRequest(tmp_path / "run", "coco", boxes, tmp_path / "again", device="cpu"))
    assert "has boxes and no masks" in capsys.readouterr().err
    assert again["metrics"] == result["metrics"] and again["dataset"] == result["dataset"]


def test_pixel_labels__boxes_are_none(boxes: Where) -> None:
    with pytest.raises(UserError, match="train_boxes.json has boxes and no masks: a probe needs the class"):
        probe.load_labels(datasets.find(boxes, "coco"))


def test_find__real_boxes(shared_data: Path) -> None:
    found = datasets.find(shared_data / "bccd", "coco")
    assert (found.parts, found.train.images, found.val.images) == (("boxes",), 292, 72)
