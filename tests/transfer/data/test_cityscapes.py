"""Cityscapes by folder: listed, checked, read; on the generated data in its layout."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog

from benchmarks.demo import demo_data
from pretrain.common.errors import UserError
from transfer.data import cityscapes
from transfer.settings import datasets

CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    demo_data.generate(tmp_path / "demo", photos=1, train=2, val=2)
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
    before = datasets.describe(streets, "cityscapes")
    path = min(streets.glob("cityscapes/gtFine/train/*/*polygons.json"))
    path.write_text(path.read_text() + "\n")
    after = datasets.describe(streets, "cityscapes")
    assert before["train"]["annotations_sha256"] != after["train"]["annotations_sha256"]
    assert before["val"] == after["val"]
