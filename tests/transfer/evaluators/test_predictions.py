"""Kept predictions give the recorded figures again, by the official code, whatever the task."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import BitMasks, Boxes, Instances, polygons_to_bitmask
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from benchmarks.records import coco_results
from tests.transfer.annotations.test_lvis_json import needs_lvis
from tests.transfer.resolved import resolve
from transfer import detectron2_compat, tasks
from transfer.data.dataset import Dataset
from transfer.evaluators import predictions
from transfer.finetuning import evaluate
from transfer.settings import datasets

OVERRIDES = ("INPUT.MIN_SIZE_TEST=64", "DATALOADER.NUM_WORKERS=0")


class Jittered(nn.Module):
    """Predicts the objects that are there, boxes a little off and scores at random; one image has none."""

    def __init__(self, records: list[dict]) -> None:
        super().__init__()
        self.records = {record["image_id"]: record for record in records}
        self.draw = torch.Generator().manual_seed(0)

    def forward(self, batch: list[dict]) -> list[dict]:
        return [{"instances": self.instances(self.records[row["image_id"]])} for row in batch]

    def instances(self, record: dict) -> Instances:
        size, objects = (record["height"], record["width"]), [o for o in record["annotations"] if not o.get("iscrowd")]
        objects = [] if record is list(self.records.values())[-1] else objects
        boxes = torch.tensor([[x, y, x + w, y + h] if row["bbox_mode"] == 1 else [x, y, w, h]
                              for row in objects for x, y, w, h in [row["bbox"]]]).reshape(-1, 4)
        found = Instances(size)
        found.pred_boxes = Boxes(boxes + 4 * torch.rand(boxes.shape, generator=self.draw))
        found.scores = torch.rand(len(objects), generator=self.draw)
        found.pred_classes = torch.tensor([row["category_id"] for row in objects], dtype=torch.int64)
        if objects and "segmentation" in objects[0]:
            found.pred_masks = torch.stack([torch.tensor(self.mask(row["segmentation"], size)) for row in objects])
        elif not objects:
            found.pred_masks = BitMasks(torch.zeros(0, *size)).tensor
        if objects and "keypoints" in objects[0]:
            points = torch.tensor([row["keypoints"] for row in objects]).reshape(len(objects), -1, 3).float()
            found.pred_keypoints = points + 2 * torch.rand(points.shape, generator=self.draw)
        return found

    @staticmethod
    def mask(segmentation: list | dict, size: tuple[int, int]) -> object:
        if isinstance(segmentation, dict):
            return run_lengths.decode(segmentation).astype(bool)
        return polygons_to_bitmask(segmentation, *size)


def renamed(folder: Path, kind: Callable) -> None:
    """Give all images, categories and annotations below `folder` other ids."""
    for path in folder.glob("annotations/*.json"):
        content = json.loads(path.read_text())
        for name in ("images", "categories", "annotations"):
            for row in content[name]:
                row.update({key: kind(row[key]) for key in ("id", "image_id", "category_id") if key in row})
        path.write_text(json.dumps(content))


@pytest.mark.parametrize("kind", [lambda number: number - 1, str, float, "row-{}".format],
                         ids=["from 0", "text", "floats", "names"])
def test_keeper__the_ids_of_a_file_that_was_read_otherwise(kind: Callable, small_data: Path, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    metrics, plain, _ = kept("coco", small_data, tmp_path)
    shutil.copytree(small_data / "coco", tmp_path / "data" / "coco")
    renamed(tmp_path / "data" / "coco", kind)
    again, content, dataset = kept("coco", tmp_path / "data", tmp_path)
    assert again == metrics
    assert content["image_ids"] == [kind(number) for number in plain["image_ids"]]
    assert content["categories"] == [{**row, "id": kind(row["id"])} for row in plain["categories"]]
    own = [{**row, "image_id": kind(row["image_id"]), "category_id": kind(row["category_id"])}
           for row in plain["predictions"]]
    assert content["predictions"] == own
    found = coco_results.evaluate(written(tmp_path / "rows.json", own), dataset.val.annotations, tasks.get("coco"))
    assert found["bbox/AP"] == pytest.approx(metrics["bbox/AP"])


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def kept(task: str, folder: Path, output: Path) -> tuple[dict, dict, Dataset]:
    """(metrics, content of the file, dataset) of the jittered model."""
    detectron2_compat.apply()
    dataset = datasets.find(folder / task, task)
    datasets.register(dataset)
    cfg = resolve(dataset, tasks.get(task).default_heads, "demo", OVERRIDES)
    name = cfg.DATASETS.TEST[0]
    keeper = predictions.Keeper(output / predictions.NAME, dataset)
    metrics = evaluate.evaluate(Jittered(DatasetCatalog.get(name)), cfg, dataset, "pycocotools", keeper)
    return metrics, predictions.read(output / predictions.NAME), dataset


@pytest.mark.parametrize(("task", "kinds"), [("coco", {"bbox": "bbox/AP", "segm": "segm/AP"}),
                                             ("keypoints", {"keypoints": "keypoints/AP"})])
def test_keeper__the_official_code_finds_the_recorded_figures_again(task: str, kinds: dict, small_data: Path,
                                                                    tmp_path: Path) -> None:
    metrics, content, dataset = kept(task, small_data, tmp_path)
    assert content["annotations_sha256"] == dataset.val.annotations_sha256 and content["task"] == task
    truth = COCO(str(dataset.val.annotations))
    assert sorted(content["image_ids"]) == sorted(truth.getImgIds())
    assert {row["image_id"] for row in content["predictions"]} < set(content["image_ids"])  # one has none
    assert {row["id"]: row["name"] for row in content["categories"]} == {row["id"]: row["name"]
                                                                         for row in truth.loadCats(truth.getCatIds())}
    for kind, name in kinds.items():
        rows = content["predictions"]
        if kind == "segm":  # as detectron2's evaluator does: the area is that of the mask
            rows = [{key: value for key, value in row.items() if key != "bbox"} for row in rows]
        again = COCOeval(truth, truth.loadRes(rows), kind)
        again.evaluate()
        again.accumulate()
        again.summarize()
        assert 0 < metrics[name] < 100 and 100 * again.stats[0] == pytest.approx(metrics[name], abs=1e-9)


def test_keeper__cityscapes_masks_and_label_ids(small_data: Path, tmp_path: Path) -> None:
    _, content, dataset = kept("cityscapes", small_data, tmp_path)
    assert content["categories"][0] == {"id": 24, "name": "person"}
    assert len(content["image_ids"]) == dataset.val.images and content["predictions"]
    ids = {row["id"] for row in content["categories"]}
    for row in content["predictions"]:
        assert row["category_id"] in ids and row["image_id"] in content["image_ids"]
        assert run_lengths.decode(row["segmentation"]).sum() > 0 and min(row["bbox"][2:]) > 0


@needs_lvis
def test_keeper__lvis_has_the_ids_of_its_file(small_data: Path, tmp_path: Path) -> None:
    _, content, dataset = kept("lvis", small_data, tmp_path)
    truth = json.loads(dataset.val.annotations.read_text())
    assert content["categories"] == sorted(({"id": row["id"], "name": row["name"]} for row in truth["categories"]),
                                           key=lambda row: row["id"])
    classes = {row["category_id"] for row in content["predictions"]}
    assert classes and classes <= {row["category_id"] for row in truth["annotations"]}


def test_write__the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        predictions.write(tmp_path / name, {"schema": 1, "predictions": [{"score": 0.1}]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert predictions.read(tmp_path / "a")["predictions"] == [{"score": 0.1}]
    assert set(predictions.record(tmp_path / "a")) == {"file", "sha256"}


