"""What annotation tools export is read as it is: layouts, ids from 0, as text or as floats, polygons without a list."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transfer.data import plain_coco
from transfer.settings import datasets

POLYGON = [4, 4, 24, 4, 24, 14, 4, 14]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "clove-suite" / "annotations"


def content(half: str, first: int = 1, kind: type = int, polygon: object = (POLYGON,)) -> dict:
    """Two images with an object each, ids from `first` and of the type `kind`."""
    numbers = [kind(first), kind(first + 1)]
    return {
        "images": [{"id": number, "file_name": f"{half}{number}.png", "width": 40, "height": 30} for number in numbers],
        "annotations": [{"id": number, "image_id": number, "category_id": numbers[0], "iscrowd": 0, "area": 200,
                         "bbox": [4, 4, 20, 10], "segmentation": list(polygon)} for number in numbers],
        "categories": [{"id": numbers[0], "name": "cell"}]}


def export(folder: Path, files: dict[str, tuple[str, str]], **words: object) -> Path:
    """`files`: {half: (place of the annotations, folder of the images)}."""
    for half, (annotations, images) in files.items():
        made = content(half, **words)
        (folder / annotations).parent.mkdir(parents=True, exist_ok=True)
        (folder / annotations).write_text(json.dumps(made))
        (folder / images).mkdir(parents=True, exist_ok=True)
        for image in made["images"]:
            Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(folder / images / image["file_name"])
    return folder


USUAL = {half: (f"annotations/instances_{half}.json", "images") for half in ("train", "val")}


@pytest.mark.parametrize("files", [
    {"train": ("train/_annotations.coco.json", "train"), "val": ("valid/_annotations.coco.json", "valid")},
    {"train": ("train/labels.json", "train/data"), "val": ("validation/labels.json", "validation/data")},
    {"train": ("annotations/instances_Train.json", "images/Train"),
     "val": ("annotations/instances_Validation.json", "images/Validation")},
    {"train": ("train/annotations/instances.json", "train/img"), "val": ("val/annotations/instances.json", "val/img")},
    {"train": ("result_train.json", "images"), "val": ("result_val.json", "images")},
], ids=["Roboflow", "FiftyOne", "CVAT", "Supervisely", "beside the images"])
def test_find__layouts_of_exports(tmp_path: Path, files: dict) -> None:
    found = datasets.find(export(tmp_path / "data", files), "coco")
    assert (found.train.images, found.val.images, found.classes, found.notes) == (2, 2, ("cell",), ())
    assert found.train.readable == found.train.annotations == tmp_path / "data" / files["train"][0]


@pytest.mark.parametrize(("words", "said"), [
    ({"first": 0}, "annotation ids count from 0 and are read as counting from 1"),
    ({"kind": str}, "ids that are text or floats are read as whole numbers"),
    ({"kind": float}, "ids that are text or floats are read as whole numbers"),
    ({"first": 0, "kind": str}, "annotation ids count from 0"),
    ({"polygon": POLYGON}, "polygons that are not in a list are read as lists of one"),
])
def test_find__what_is_not_plain_is_made_plain_and_said(tmp_path: Path, cache: Path, words: dict, said: str) -> None:
    folder = export(tmp_path / "data", USUAL, **words)
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    found = datasets.find(folder, "coco")
    assert sum(said in note for note in found.notes) == 2
    assert {path: path.read_bytes() for path in folder.rglob("*.json")} == before
    assert found.val.readable.parent == cache and found.val.annotations.parent == folder / "annotations"
    _, name = datasets.register(found)
    assert len(DatasetCatalog.get(name)) == 2
    truth = COCO(str(found.val.readable))
    results = truth.loadRes([{**row, "score": 1.0} for row in truth.dataset["annotations"]])
    for kind in ("bbox", "segm"):
        score = COCOeval(truth, results, kind)
        for step in (score.evaluate, score.accumulate, score.summarize):
            step()
        assert score.stats[0] == pytest.approx(1)  # an object of the id 0 would never be found


def test_make_plain__leaves_a_plain_file_as_it_is() -> None:
    made = content("train")
    assert plain_coco.make_plain(made) == [] and made == content("train")
