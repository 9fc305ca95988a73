"""Cityscapes by folder: listed, checked, read; on the generated data in its layout."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from benchmarks.demo import demo_data
from pretrain.common.errors import UserError
from transfer.data import cityscapes
from transfer.settings import datasets

CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "demo"
    demo_data.generate(folder, photos=1, train=2, val=2)
    return folder / "cityscapes"


@pytest.fixture
def streets(tmp_path: Path, generated: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(generated, tmp_path / "demo" / "cityscapes")
    return tmp_path / "demo"


def test_find__below_and_its_eight_classes(streets: Path) -> None:
    found = datasets.find(streets, "cityscapes")  # DIR/cityscapes/...
    assert found == datasets.find(streets / "cityscapes", "cityscapes")
    assert (found.classes, found.train.images, found.val.images) == (CLASSES, 2, 2)


def test_load__boxes_lie_in_the_image_and_groups_are_crowds(streets: Path) -> None:
    name, _ = datasets.register(datasets.find(streets, "cityscapes"))
    records = DatasetCatalog.get(name)
    rows = [row for record in records for row in record["annotations"]]
    assert {row["category_id"] for row in rows} == set(range(8))
    assert any(row["iscrowd"] for row in rows)
    for record in records:
        for row in record["annotations"]:
            x0, y0, x1, y1 = row["bbox"]
            assert -1 <= x0 < x1 <= record["width"] + 1 and -1 <= y0 < y1 <= record["height"] + 1


@pytest.mark.parametrize("suffix", cityscapes.SUFFIXES)
def test_find__a_missing_annotation_is_named(suffix: str, streets: Path) -> None:
    path = min(streets.glob(f"cityscapes/gtFine/val/*/*{suffix}"))
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name} is missing, the annotation of"):
        datasets.find(streets, "cityscapes")


def test_find__an_annotation_without_image_is_named(streets: Path) -> None:
    path = min(streets.glob("cityscapes/leftImg8bit/val/*/*.png"))
    path.unlink()
    with pytest.raises(UserError, match=r"annotation .* has no image there: the evaluation goes over every"):
        datasets.find(streets, "cityscapes")


def test_find__a_name_of_another_kind_is_named(streets: Path) -> None:
    path = min(streets.glob("cityscapes/leftImg8bit/train/*/*.png"))
    path.rename(path.with_name("new_york_000000_000019_leftImg8bit.png"))
    with pytest.raises(UserError, match=r"new_york_000000_000019_leftImg8bit.png is not named as Cityscapes names"):
        datasets.find(streets, "cityscapes")


def test_find__a_half_layout_is_named(streets: Path) -> None:
    (streets / "cityscapes/gtFine/val").rename(streets / "elsewhere")
    with pytest.raises(UserError, match=r"is not laid out as Cityscapes: .*gtFine/val is missing; expected DIR/left"):
        datasets.find(streets, "cityscapes")


def test_describe__hash_follows_the_annotations(streets: Path) -> None:
    before = datasets.describe(datasets.find(streets, "cityscapes"))
    path = min(streets.glob("cityscapes/gtFine/train/*/*polygons.json"))
    path.write_text(path.read_text() + "\n")
    after = datasets.describe(datasets.find(streets, "cityscapes"))
    assert before["train"]["annotations_sha256"] != after["train"]["annotations_sha256"]
    assert before["val"] == after["val"]


def numbers(spoil: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Change the numbers in a file."""
    def change(path: Path) -> None:
        with Image.open(path) as image:
            found = np.array(image)
        Image.fromarray(spoil(found)).save(path)
    return change


def first_object(**values: object) -> Callable[[Path], None]:
    """Change the first object of a file of polygons."""
    def change(path: Path) -> None:
        content = json.loads(path.read_text())
        content["objects"][0].update(values)
        path.write_text(json.dumps(content))
    return change


INSTANCES, LABELS, POLYGONS = cityscapes.SUFFIXES
BOTH, EVALUATED = ("train", "val"), ("val",)
FAULTS = {
    "8 bits": (INSTANCES, numbers(lambda ids: ids.astype(np.uint8)), BOTH, "has pixels of the kind L: expected one"),
    "colours": (INSTANCES, numbers(lambda ids: np.stack([ids.astype(np.uint8)] * 3, -1)), BOTH,
                "has pixels of the kind RGB: expected one channel of 16 bits"),
    "half the size": (INSTANCES, numbers(lambda ids: ids[::2, ::2]), BOTH, "pixels but the polygons beside it say"),
    "empty": (INSTANCES, lambda path: path.write_bytes(b""), BOTH, "cannot be read as an image"),
    "cut off": (INSTANCES, lambda path: path.write_bytes(path.read_bytes()[:-200]), EVALUATED, "cannot be read as an"),
    "no such label": (INSTANCES, numbers(lambda ids: np.where(ids >= 1000, 40_000, ids).astype(np.uint16)), EVALUATED,
                      "pixels have the number 40000: expected a label of Cityscapes, or 1000 times a label"),
    "labels in 16 bits": (LABELS, numbers(lambda ids: ids.astype(np.uint16)), BOTH,
                          "has pixels of the kind I;16: expected one channel of 8 bits"),
    "labels of another size": (LABELS, numbers(lambda ids: ids[:-1]), BOTH, "pixels but the polygons beside it say"),
    "another name": (POLYGONS, first_object(label="scooter"), BOTH,
                     "object 0 is labelled 'scooter': expected one of Cityscapes' labels, or one with 'group'"),
    "no label": (POLYGONS, first_object(label=None), BOTH, "object 0 has no 'label': expected a name of"),
    "two points": (POLYGONS, first_object(label="car", polygon=[[20, 40], [30, 40]]), BOTH,
                   r"object 0 \(car\) has the polygon \[\[20, 40\], \[30, 40\]\]: expected at least three points"),
    "flat": (POLYGONS, first_object(label="car", polygon=[1, 2, 3, 4, 5, 6]), BOTH, "expected at least three points"),
    "no polygon": (POLYGONS, first_object(label="car", polygon=None), BOTH, "expected at least three points"),
    "no number": (POLYGONS, first_object(label="car", polygon=[[1, 2], [3, float("nan")], [5, 6]]), BOTH,
                  "expected at least three points"),
    "no JSON": (POLYGONS, lambda path: path.write_text("{"), BOTH, "is not JSON"),
    "a list": (POLYGONS, lambda path: path.write_text("[]"), BOTH, "expected an object with imgWidth, imgHeight"),
    "no size": (POLYGONS, lambda path: path.write_text('{"objects": []}'), BOTH, "imgWidth is None: expected a whole"),
}


@pytest.mark.parametrize(("fault", "half"), [(name, half) for name, (_, _, halves, _) in FAULTS.items()
                                             for half in halves])
def test_find__an_annotation_that_detectron2_or_the_evaluation_cannot_read_is_named(fault: str, half: str,
                                                                                    streets: Path) -> None:
    suffix, spoil, _, said = FAULTS[fault]
    path = max(streets.glob(f"cityscapes/gtFine/{half}/*/*{suffix}"))
    spoil(path)
    with pytest.raises(UserError, match=said) as caught:
        datasets.find(streets, "cityscapes")
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("half", ["train", "val"])
def test_find__an_image_of_another_size_than_its_annotations_is_named(half: str, streets: Path) -> None:
    path = max(streets.glob(f"cityscapes/leftImg8bit/{half}/*/*.png"))
    with Image.open(path) as image:
        image.reduce(2).save(path)
    with pytest.raises(UserError, match=rf"{path.name} is \d+ x \d+ pixels but the annotations say"):
        datasets.find(streets, "cityscapes")


def test_find__training_ids_in_the_place_of_label_ids_are_named(streets: Path) -> None:
    for path in streets.glob(f"cityscapes/gtFine/val/*/*{LABELS}"):
        numbers(lambda ids: np.where(ids < 20, 255, ids - 20).astype(np.uint8))(path)
    with pytest.raises(UserError, match=r"instanceIds.png: most pixels have other labels than in .*labelIds.png: "
                                        r"expected Cityscapes' label ids in both \(not training ids\)"):
        datasets.find(streets, "cityscapes")


@pytest.mark.parametrize("change", [
    first_object(label="license plate", polygon=[]),  # detectron2 leaves these out
    first_object(label="scooter", deleted=1),
    first_object(label="cargroup", polygon=[[1, 1], [9, 1], [1, 9]]),
    first_object(label="car", polygon=[[1, 1], [9, 9], [9, 1], [1, 9]]),  # crosses itself
    first_object(label="car", polygon=[[2, 4], [3, 4], [2, 4]]),
], ids=["not drawn", "deleted", "a group", "crossing", "a line"])
def test_find__what_detectron2_can_read_is_accepted(change: Callable[[Path], None], streets: Path) -> None:
    change(min(streets.glob(f"cityscapes/gtFine/train/*/*{POLYGONS}")))
    name, _ = datasets.register(datasets.find(streets, "cityscapes"))
    assert len(DatasetCatalog.get(name)) == 2


@pytest.mark.slow
def test_load__a_process_that_has_not_imported_shapely_yet(small_data: Path) -> None:
    root = small_data / "cityscapes"
    code = ("import importlib.abc, sys, threading\n"
            "class MainThreadAlone(importlib.abc.MetaPathFinder):\n"
            "    def find_spec(self, name, path, target=None):\n"
            "        if name.startswith('shapely'):\n"
            "            assert threading.current_thread() is threading.main_thread(), name\n"
            "sys.meta_path.insert(0, MainThreadAlone())\n"
            "from pathlib import Path\n"
            "from transfer.data import cityscapes\n"
            f"root = Path({str(root)!r})\n"
            "assert cityscapes.load(root / 'leftImg8bit' / 'val', root / 'gtFine' / 'val')\n")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
