"""LVIS v1 by folder: found beside COCO's images, checked, read; on the generated data in its layout."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from benchmarks.demo import demo_data
from pretrain.common.errors import UserError
from transfer.annotations import lvis_json
from transfer.settings import datasets
from transfer.tasks import Where

needs_lvis = pytest.mark.skipif(importlib.util.find_spec("lvis") is None,
                                reason="task lvis needs the package lvis: pip install --no-deps lvis")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "demo"
    demo_data.generate(folder, photos=1, train=2, val=2)
    return folder


@pytest.fixture
def folder(tmp_path: Path, generated: Path) -> Path:
    """A copy that a test may spoil, with COCO's images beside it."""
    shutil.copytree(generated / "coco", tmp_path / "demo" / "coco")
    return shutil.copytree(generated / "lvis", tmp_path / "demo" / "lvis")


@needs_lvis
def test_find__beside_coco_below_and_inside(folder: Path) -> None:
    found = datasets.find(folder, "lvis")  # images in DIR/../coco
    assert found == datasets.find(folder.parent, "lvis")  # DIR/lvis
    assert (found.classes, found.train.images, found.val.images) == (("disc", "plank", "triangle", "star"), 2, 2)
    assert found.train.image_root == folder.parent / "coco"
    shutil.move(folder.parent / "coco" / "images", folder / "images")
    (folder / "annotations").mkdir()
    for name in ("train", "val"):
        (folder / f"lvis_v1_{name}.json").rename(folder / "annotations" / f"lvis_v1_{name}.json")
    assert datasets.find(folder, "lvis").val.image_root == folder


@needs_lvis
def test_register__contiguous_classes_and_paths_from_the_address(folder: Path) -> None:
    name, _ = datasets.register(datasets.find(folder, "lvis"))
    records = DatasetCatalog.get(name)
    assert all(Path(record["file_name"]).is_file() for record in records)
    content = json.loads((folder / "lvis_v1_train.json").read_text())
    assert [row["category_id"] for record in records for row in record["annotations"]] == [
        row["category_id"] - 1 for row in content["annotations"]]
    assert MetadataCatalog.get(name).thing_classes == ["disc", "plank", "triangle", "star"]


@needs_lvis
def test_find__missing_images_and_files_are_named(folder: Path) -> None:
    (folder.parent / "coco/images/000000000001.jpg").unlink()
    with pytest.raises(UserError, match=r"lvis_v1_train.json: 1 of the 2 files that it lists are not in .*coco: "
                                        r"images/000000000001.jpg"):
        datasets.find(folder, "lvis")
    (folder / "lvis_v1_val.json").unlink()
    with pytest.raises(UserError, match=r"no lvis_v1_val.json in .*: expected for task lvis DIR/lvis_v1_train.json"):
        datasets.find(folder, "lvis")


def test_find__without_the_package_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lvis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lvis", None)
    with pytest.raises(UserError, match="needs the package lvis, .*run `pip install --no-deps lvis`"):
        datasets.find(folder, "lvis")


def _first(kind: str, **values: object) -> Callable[[dict], None]:
    return lambda content: content[kind][0].update(values)


def _drop(kind: str, key: str) -> Callable[[dict], None]:
    return lambda content: content[kind][0].pop(key)


@pytest.mark.parametrize(("spoil", "text"), [
    (_drop("images", "coco_url"), "of 'images' has no 'coco_url'"),  # v0.5 has file_name instead
    (_drop("images", "neg_category_ids"), "of 'images' has no 'neg_category_ids'"),
    (_drop("annotations", "segmentation"), "of 'annotations' has no 'segmentation'"),
    (_drop("categories", "frequency"), "of 'categories' has no 'frequency'"),
    (_first("categories", frequency="often"), "of 'categories' has frequency 'often': expected one of r, c, f"),
    (_first("categories", id=9), "the ids of the 4 categories are not 1 to 4: expected LVIS's own"),
    (_first("annotations", image_id=77), "has image_id 77, which no entry of 'images' has"),
    (_first("annotations", bbox=[0, 0, 500, 5]), "outside its image images/"),
    (_first("annotations", segmentation=[[1, 2, 3, 4]]),
     r"has segmentation \[\[1, 2, 3, 4\]\]: expected polygons of at least three points"),
    (_first("annotations", segmentation={"size": [1, 1], "counts": [1]}), "has segmentation .*: expected polygons of"),
    (lambda content: content.pop("images"), "'images' is missing or empty: expected a LVIS v1 annotation file"),
])
def test_read__names_what_is_not_lvis(spoil: Callable[[dict], None], text: str, folder: Path) -> None:
    path = folder / "lvis_v1_train.json"
    assert next(iter(lvis_json.read(path).images)) == "images/000000000001.jpg"
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=text) as caught:
        lvis_json.read(path)
    assert str(path) in str(caught.value)


@needs_lvis
def test_find__boxes_that_are_not_of_their_masks_are_named_or_refused(folder: Path) -> None:
    path = folder / "lvis_v1_val.json"
    content = json.loads(path.read_text())
    rows, first = content["annotations"], content["annotations"][0]
    x, y, width, height = first["bbox"]
    first["bbox"] = [x, y, width / 2, height]
    path.write_text(json.dumps(content))
    note, = (note for note in datasets.find(folder, "lvis").notes if "extent" in note)
    assert f"1 of {len(rows)} objects have a box that is not the extent of its mask (annotation {first['id']})" in note
    for row in rows:
        row["bbox"] = [value / 160 for value in row["bbox"]]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="They look like shares of width and height, from 0 to 1: multiply them"):
        datasets.find(folder, "lvis")


@needs_lvis
def test_find__val_is_train(folder: Path) -> None:
    shutil.copy(folder / "lvis_v1_train.json", folder / "lvis_v1_val.json")
    with pytest.raises(UserError, match="lvis_v1_val.json: all of its 2 images are in .*lvis_v1_train.json too"):
        datasets.find(folder, "lvis")
    assert "2 of the 2 images that are evaluated are training" in datasets.find(
        Where(folder, same_images=True), "lvis").notes[-1]
