"""What annotation tools export is read as it is: layouts, ids from 0, as text or as floats, polygons without a list."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pretrain.common.errors import UserError
from transfer import tasks
from transfer.annotations import plain_coco
from transfer.settings import datasets
from transfer.tasks import Where

POLYGON = [4, 4, 24, 4, 24, 14, 4, 14]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "clove-suite" / "annotations"


def content(half: str, first: int = 1, kind: Callable = int, polygon: object = (POLYGON,), crowd: int = 0) -> dict:
    """Two images with an object each, ids from `first` and made by `kind`."""
    numbers = [kind(first), kind(first + 1)]
    return {
        "images": [{"id": number, "file_name": f"{half}{number}.png", "width": 40, "height": 30} for number in numbers],
        "annotations": [{"id": number, "image_id": number, "category_id": numbers[0], "iscrowd": crowd, "area": 200,
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
    ({"kind": "cell-{}".format}, "ids that are text or floats are read as whole numbers"),
    ({"kind": "{:012}".format}, "ids that are text or floats are read as whole numbers"),
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


def test_find__messages_name_the_ids_of_the_file(tmp_path: Path) -> None:
    folder = export(tmp_path / "data", USUAL, first=0)
    path = folder / "annotations" / "instances_val.json"
    made = json.loads(path.read_text())
    made["annotations"][0]["area"] = 900
    path.write_text(json.dumps(made))
    note, = (note for note in datasets.find(folder, "coco").notes if "'area'" in note)
    assert "1 of 2 objects have an 'area' that is not that of its mask (annotation 0)" in note
    made["annotations"][0]["segmentation"] = [[4, 4, 24, 4]]
    path.write_text(json.dumps(made))
    with pytest.raises(UserError, match="annotation 0 has no mask"):
        datasets.find(folder, "coco")
    made["annotations"][1]["id"] = 0
    path.write_text(json.dumps(made))
    with pytest.raises(UserError, match="2 entries of 'annotations' have id 0: expected a different one"):
        datasets.find(folder, "coco")


def test_find__crowds_as_objects(tmp_path: Path) -> None:
    folder = export(tmp_path / "data", USUAL, crowd=1)
    with pytest.raises(UserError, match="all 2 annotations are crowds: .* as CVAT writes them, --crowds-as-objects "):
        datasets.find(folder, "coco")
    found = datasets.find(Where(folder, crowds_as_objects=True), "coco")
    assert "2 of 2 annotations are crowds and are read as single objects" in found.notes[0]
    name, _ = datasets.register(found)
    rows = [row for record in DatasetCatalog.get(name) for row in record["annotations"]]
    assert [row["iscrowd"] for row in rows] == [0, 0]
    # Another set of annotations than the same file without the option, for the identity of a run.
    plain = datasets.find(export(tmp_path / "plain", USUAL), "coco")
    assert found.val.annotations_sha256 != plain_coco.sha256(found.val.annotations, False)
    assert plain.val.annotations_sha256 == plain_coco.sha256(plain.val.annotations, False)
    tasks.get("coco").excerpt(found, tmp_path / "part", 1, 1)
    assert datasets.find(tmp_path / "part", "coco").train.images == 1  # a preflight needs no option
    with pytest.raises(UserError, match="--crowds-as-objects: the annotations of task voc are not in COCO's format"):
        datasets.find(Where(folder, crowds_as_objects=True), "voc")


def test_find__crowds_among_objects_stay_crowds_unless_asked_for(tmp_path: Path) -> None:
    folder = export(tmp_path / "data", USUAL)
    path = folder / "annotations" / "instances_train.json"
    made = json.loads(path.read_text())
    made["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(made))
    for where, crowds in ((Where(folder), [1, 0]), (Where(folder, crowds_as_objects=True), [0, 0])):
        name, _ = datasets.register(datasets.find(where, "coco"))
        rows = [row for record in DatasetCatalog.get(name) for row in record["annotations"]]
        assert [row["iscrowd"] for row in rows] == crowds


def test_read_truth__predictions_with_the_ids_of_the_file(tmp_path: Path) -> None:
    for first, kind in ((0, int), (0, str), (1, float), (1, "cell-{}".format)):
        path, made = tmp_path / "truth.json", content("val", first, kind)
        path.write_text(json.dumps(made))
        found = [{**row, "score": 0.5} for row in made["annotations"]]
        truth, plain = plain_coco.read_truth(path, found)
        assert sorted(truth.imgs) == [row["image_id"] for row in plain]
        assert found == [{**row, "score": 0.5} for row in made["annotations"]]  # as before
        assert {row["category_id"] for row in plain} == set(truth.cats) and 0 not in truth.anns


def test_write_plain__without_a_place_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export(tmp_path / "data", USUAL, first=0)
    (tmp_path / "full").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))
    with pytest.raises(UserError, match="cannot be written .* with plain ids; name one in XDG_CACHE_HOME"):
        datasets.find(folder, "coco")
