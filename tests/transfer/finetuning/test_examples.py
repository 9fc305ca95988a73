"""examples.json: images with their objects and a model's predictions, in pixels of the stored image."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from transfer.data.dataset import Dataset, Split
from transfer.finetuning import examples


def test_write__boxes_are_those_of_the_shrunk_image_and_crowds_stay_out(tmp_path: Path) -> None:
    Image.fromarray(np.full((300, 960, 3), 90, np.uint8)).save(tmp_path / "one.png")
    record = {"file_name": str(tmp_path / "one.png"), "annotations": [
        {"bbox": [100, 20, 40, 60], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": 0},
        {"bbox": [0, 0, 960, 300], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 1}]}
    seen = Instances((300, 960), pred_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10], [101, 20, 140, 80]])),
                     scores=torch.tensor([0.25, 0.75]), pred_classes=torch.tensor([0, 1]))
    half = Split(1, tmp_path / "val.json", tmp_path, "ab" * 32)
    dataset = Dataset("coco", half, half, ("cat", "dog"), ("boxes",))
    examples.write(tmp_path / "examples.json", dataset, [(record, seen)])
    content = json.loads((tmp_path / "examples.json").read_text())
    [image] = content.pop("images")
    assert content == {"schema": 1, "task": "coco", "annotations_sha256": "ab" * 32}
    assert image["truth"] == [{"box": [50.0, 10.0, 70.0, 40.0], "class": "dog"}]  # half the size
    assert image["predicted"] == [{"box": [50.5, 10.0, 70.0, 40.0], "class": "dog", "score": 0.75},
                                  {"box": [0.0, 0.0, 5.0, 5.0], "class": "cat", "score": 0.25}]
    assert (image["file"], image["width"], image["height"]) == ("one.png", 480, 150)
    stored = Image.open(io.BytesIO(base64.b64decode(image["pixels"].removeprefix("data:image/webp;base64,"))))
    assert stored.size == (480, 150) and abs(int(np.asarray(stored).mean()) - 90) < 4
    assert str(tmp_path) not in json.dumps([content, image])
