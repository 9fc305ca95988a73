"""Labels of pixels and cells, made from instances and from Cityscapes' label numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import id2label
from PIL import Image

from benchmarks.demo import demo_data
from pretrain.common.errors import UserError
from transfer.data import pixel_labels
from transfer.data.dataset import Dataset
from transfer.data.pixel_labels import IGNORE
from transfer.probing import probe
from transfer.settings import datasets


def rectangle(x0: int, y0: int, x1: int, y1: int) -> list[list[float]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def box_of(mask: list | dict, size: tuple[int, int]) -> list[float]:
    """(x, y, width, height) of one polygon, or of the whole image."""
    if isinstance(mask, dict):
        return [0, 0, *size]
    xs, ys = mask[0][::2], mask[0][1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def make_coco(folder: Path, rows: list[dict], size: tuple[int, int] = (64, 32)) -> Path:
    """Two images of `size` (width, height) in each split, the annotations all on the first."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for split in ("train", "val"):
        images = [{"id": number, "file_name": f"{split}{number}.png", "width": size[0], "height": size[1]}
                  for number in (1, 2)]
        for image in images:
            Image.new("RGB", size, (90, 20, 160)).save(folder / "images" / image["file_name"])
        annotations = [{"id": number, "image_id": 1, "iscrowd": 0, "area": 1, "bbox": box_of(row["segmentation"], size),
                        **row} for number, row in enumerate(rows, start=1)]
        # Ids with a gap and out of order: classes are numbered by sorted id.
        content = {"images": images, "annotations": annotations,
                   "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def test_coco__smallest_instance_on_top_and_crowds_only_where_nothing_covers(tmp_path: Path) -> None:
    crowd = {"counts": [0, 32 * 64], "size": [32, 64]}  # the whole image
    folder = make_coco(tmp_path, [
        {"category_id": 7, "segmentation": rectangle(4, 4, 12, 12)},  # small, inside the next, listed before it
        {"category_id": 3, "segmentation": rectangle(0, 0, 32, 32)},
        {"category_id": 7, "segmentation": crowd, "iscrowd": 1}])
    data = probe.load_labels(datasets.find(folder, "coco"))
    assert data.classes == ("background", "cat", "dog") and data.background
    expected = np.full((32, 64), IGNORE)
    expected[:, :32] = 1
    expected[4:12, 4:12] = 2
    np.testing.assert_array_equal(data.train.read(0), expected)
    np.testing.assert_array_equal(data.train.read(1), np.zeros((32, 64)))  # no annotation: background


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("street") / "demo"
    demo_data.generate(folder, photos=1, train=1, val=1)
    return datasets.find(folder / "cityscapes", "cityscapes")


def test_coco__what_a_training_leaves_out_is_left_out_or_named(tmp_path: Path) -> None:
    folder = make_coco(tmp_path, [{"category_id": 3, "segmentation": rectangle(0, 0, 32, 32)},
                                  {"category_id": 7, "iscrowd": 1, "segmentation": rectangle(40, 0, 60, 32)}])
    path = folder / "annotations" / "instances_train.json"
    values = json.loads(path.read_text())
    values["annotations"][0]["segmentation"].append([0, 0, 40, 0])
    values["annotations"][1]["segmentation"] = [[40, 0, 60, 32]]
    path.write_text(json.dumps(values))
    expected = np.zeros((32, 64))
    expected[:, :32] = 1
    assert (probe.load_labels(datasets.find(folder, "coco")).train.read(0) == expected).all()
    values["annotations"][1]["segmentation"] = {"size": [32, 64], "counts": "rubbish"}
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="instances_train.json: annotation 2 has a mask that cannot be read"):
        probe.load_labels(datasets.find(folder, "coco")).train.read(0)


def test_cityscapes__training_labels_as_its_own_table_says(street: Dataset) -> None:
    dataset = street
    data = probe.load_labels(dataset)
    assert len(data.classes) == 19 and data.classes[0] == "road" and data.classes[18] == "bicycle"
    assert not data.background
    path = next(dataset.val.annotations.glob("*/*_labelIds.png"))
    numbers = np.array(Image.open(path))
    trained = {number: id2label[number].trainId for number in np.unique(numbers).tolist()}
    expected = np.vectorize(lambda number: trained[number] if 0 <= trained[number] < 255 else IGNORE)(numbers)
    np.testing.assert_array_equal(data.val.read(0), expected)
    assert (expected >= 0).any()


def test_cityscapes__a_damaged_label_file_is_named(street: Dataset) -> None:
    path = next(street.train.annotations.glob("*/*_labelIds.png"))
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=f"{path.name} cannot be read as label numbers"):
        probe.load_labels(street).train.read(0)


def test_cell_shares__against_a_loop_over_pixels() -> None:
    labels = np.random.default_rng(0).integers(-1, 4, (16, 24)).astype(np.int16)
    labels[:8, :8] = IGNORE
    found = pixel_labels.cell_shares(labels, 8, 4)
    assert found.shape == (6, 4)
    for cell in range(6):
        row, column = divmod(cell, 3)
        counts = [0, 0, 0, 0]
        for y in range(8 * row, 8 * row + 8):
            for x in range(8 * column, 8 * column + 8):
                if labels[y, x] != IGNORE:
                    counts[labels[y, x]] += 1
        np.testing.assert_allclose(found[cell], np.array(counts) / max(1, sum(counts)), rtol=1e-6)
    assert not found[0].any()


@pytest.mark.parametrize(("size", "expected"), [((640, 480), (416, 320)), ((100, 100), (320, 320)),
                                                ((480, 640), (320, 416)), ((20, 4000), (320, 1280))])
def test_resized__multiples_of_32_and_no_longer_than_four_sides(size: tuple, expected: tuple) -> None:
    assert pixel_labels.resized(*size, 320) == expected


def test_at__pixels_and_labels_keep_their_places(tmp_path: Path) -> None:
    folder = make_coco(tmp_path, [{"category_id": 7, "segmentation": rectangle(32, 0, 64, 32)}])
    data = probe.load_labels(datasets.find(folder, "coco"))
    half = np.zeros((32, 64, 3), np.uint8)
    half[:, 32:] = 255
    Image.fromarray(half).save(folder / "images" / "val1.png")
    pixels, labels = data.val.at(0, 64)
    assert pixels.shape == (64, 128, 3) and labels.shape == (64, 128)
    np.testing.assert_array_equal(labels == 2, pixels[..., 0] > 127)


def test_at__an_image_of_another_size_is_named(tmp_path: Path) -> None:
    folder = make_coco(tmp_path, [{"category_id": 7, "segmentation": rectangle(0, 0, 8, 8)}])
    data = probe.load_labels(datasets.find(folder, "coco"))
    Image.new("RGB", (50, 50)).save(folder / "images" / "train2.png")
    with pytest.raises(UserError, match=r"train2.png is 50 x 50 pixels but its annotation is for 64 x 32"):
        data.train.at(1, 64)


def test_images_in_both__names_the_leak(tmp_path: Path) -> None:
    folder = make_coco(tmp_path, [{"category_id": 7, "segmentation": rectangle(0, 0, 8, 8)}])
    assert pixel_labels.images_in_both(probe.load_labels(datasets.find(folder, "coco"))) == []
    path = folder / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace("val2.png", "train1.png"))
    assert pixel_labels.images_in_both(probe.load_labels(datasets.find(folder, "coco"))) == ["train1.png"]
