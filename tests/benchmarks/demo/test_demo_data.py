"""The demo data: same bytes for the same seed, exact masks, and accepted by the tools that read the real data."""

import contextlib
import copy
import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.demo import demo_data, layouts, streets
from pretrain.common.errors import UserError
from transfer import detectron2_compat

THINGS = {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
COUNTS = {"photos": 5, "train": 9, "val": 4}
SMALL = {"photos": 1, "train": 2, "val": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    demo_data.generate(folder, **COUNTS)
    return folder


def tree_hash(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def load(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def precision_against_itself(truth: COCO, kind: str) -> float:
    detections = [{**copy.deepcopy(one), "score": 0.9} for one in truth.anns.values() if not one["iscrowd"]]
    for one in detections:
        if kind == "segm":
            one["segmentation"] = truth.annToRLE(one)
        if kind == "bbox":
            one.pop("segmentation")
        if kind != "keypoints":
            one.pop("keypoints", None)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(detections), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


# Bytes and folders


def test_generate__same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        demo_data.generate(tmp_path / name, seed, **SMALL)
    assert tree_hash(tmp_path / "one") == tree_hash(tmp_path / "two") != tree_hash(tmp_path / "other")


def test_generate__counts_sizes_and_nesting(made: Path) -> None:
    photos = sorted((made / "photos").rglob("*.jpg"))
    assert len(photos) == 5 and [path.parent.name for path in photos].count("more") == 1
    sizes = set()
    for path in [path for path in made.rglob("*") if path.suffix in (".jpg", ".png")]:
        with Image.open(path) as image:
            assert max(image.size) == 160 or image.size == (144, 144) or image.size == (144, 128), path
            sizes.add((path.relative_to(made).parts[0], image.size))
    assert {size for kind, size in sizes if kind == "photos"} == {(160, 120), (120, 160)}


def test_generate__a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(streets, "street", broken)
    with pytest.raises(KeyboardInterrupt):
        demo_data.generate(tmp_path / "data", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_generate__replaces_its_own_folder_and_only_that(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    demo_data.generate(folder, 1, **SMALL)  # an empty folder is free
    first = tree_hash(folder)
    demo_data.generate(folder, 2, **SMALL)
    assert tree_hash(folder) != first and [path.name for path in tmp_path.iterdir()] == ["data"]

    mine = folder / "photos" / "holiday.jpg"
    mine.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"found photos/holiday\.jpg, which is new or changed: move it away"):
        demo_data.generate(folder, 2, **SMALL)
    assert mine.read_bytes() == b"mine"
    mine.unlink()

    (folder / "photos" / "0000.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"found photos/0000\.jpg, which is new or changed"):
        demo_data.generate(folder, 2, **SMALL)


def test_generate__refuses_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"expected a new or empty folder, .* found other files in .*: choose another"):
        demo_data.generate(tmp_path, **SMALL)
    with pytest.raises(UserError, match=r"found a file at .*notes\.txt: choose another --output"):
        demo_data.generate(tmp_path / "notes.txt", **SMALL)
    text = r"--output .*notes\.txt: expected a folder, found that it cannot be made \(File exists\)"
    with pytest.raises(UserError, match=text):
        demo_data.generate(tmp_path / "notes.txt" / "data", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("options", "text"), [
    ({"train": 0}, "expected at least 1 for train, found 0"), ({"seed": -1}, "expected a seed of 0 or more, found -1"),
])
def test_generate__refuses_impossible_counts(tmp_path: Path, options: dict, text: str) -> None:
    with pytest.raises(UserError, match=text):
        demo_data.generate(tmp_path / "data", **options)


def test_main__says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    demo_data.main(["--output", str(tmp_path / "data"), "--photos", "1", "--train", "1", "--val", "2"])
    assert capsys.readouterr().out == (
        f"demo data written to {tmp_path / 'data'}: 1 photos, 1 + 2 images each of objects, people and streets\n")


# COCO


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco__form_boxes_areas_and_special_cases(made: Path, split: str) -> None:
    truth = load(made / "coco" / "annotations" / f"instances_{split}.json")
    assert set(truth.dataset) == {"info", "licenses", "images", "annotations", "categories"}
    assert truth.getCatIds() == [2, 5, 17, 44]
    owned = {}
    for one in truth.anns.values():
        mask = truth.annToMask(one).astype(bool)
        rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
        x, y = columns[0], rows[0]
        assert one["bbox"] == [x, y, columns[-1] + 1 - x, rows[-1] + 1 - y] and one["area"] == mask.sum()
        # Visible regions: nobody shares a pixel.
        before = owned.setdefault(one["image_id"], np.zeros_like(mask))
        assert not (before & mask).any()
        before |= mask
        assert one["iscrowd"] or one["area"] > 140
    crowds = [one for one in truth.anns.values() if one["iscrowd"]]
    assert crowds and all(isinstance(one["segmentation"]["counts"], list) and one["area"] > 300 for one in crowds)
    pieces = [len(one["segmentation"]) for one in truth.anns.values() if not one["iscrowd"]]
    assert max(pieces) >= 2 and min(pieces) == 1
    assert min(Counter({number: len(found) for number, found in truth.imgToAnns.items()}).values()) >= 1
    assert sum(number not in truth.imgToAnns for number in truth.imgs) == 1
    for image in truth.imgs.values():
        with Image.open(made / "coco" / "images" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco__perfect_against_itself(made: Path, kind: str) -> None:
    assert precision_against_itself(load(made / "coco" / "annotations" / "instances_val.json"), kind) == 1.0


def test_coco__splits_share_no_picture_and_no_number(made: Path) -> None:
    train, val = (load(made / "coco" / "annotations" / f"instances_{split}.json") for split in ("train", "val"))
    assert not set(train.imgs) & set(val.imgs) and not set(train.anns) & set(val.anns) and 0 not in train.anns
    assert train.dataset["categories"] == val.dataset["categories"]


# Keypoints


def test_keypoints__visible_ones_lie_on_their_figure(made: Path) -> None:
    truth = load(made / "keypoints" / "annotations" / "person_keypoints_train.json")
    [category] = truth.cats.values()
    assert (category["id"], category["name"], len(category["keypoints"])) == (1, "person", 17)
    seen = Counter()
    for one in truth.anns.values():
        points = np.array(one["keypoints"]).reshape(17, 3)
        mask = truth.annToMask(one)
        x, y, width, height = one["bbox"]
        for column, row, state in points.tolist():
            seen[state] += 1
            if state == 2:
                assert mask[row, column] and x <= column < x + width and y <= row < y + height
            if state == 0:
                assert (column, row) == (0, 0)
        assert one["num_keypoints"] == (points[:, 2] > 0).sum() and (points[:, 2] == 2).sum() >= 5
    assert set(seen) == {0, 1, 2} and seen[2] > seen[1] > 0


def test_keypoints__left_is_on_the_right_of_a_figure_that_faces_us(made: Path) -> None:
    names = load(made / "keypoints" / "annotations" / "person_keypoints_train.json")
    order = names.cats[1]["keypoints"]
    for one in names.anns.values():
        points = dict(zip(order, np.array(one["keypoints"]).reshape(17, 3).tolist(), strict=True))
        for part in ("shoulder", "eye"):
            left, right = points[f"left_{part}"], points[f"right_{part}"]
            assert not (left[2] and right[2]) or left[0] > right[0]


@pytest.mark.parametrize("kind", ["keypoints", "bbox", "segm"])
def test_keypoints__perfect_against_itself(made: Path, kind: str) -> None:
    assert precision_against_itself(load(made / "keypoints" / "annotations" / "person_keypoints_val.json"), kind) == 1.0


# Cityscapes


def truths(made: Path, split: str) -> list[Path]:
    return sorted((made / "cityscapes" / "gtFine" / split).glob("*/*_gtFine_polygons.json"))


def sibling(path: Path, kind: str) -> np.ndarray:
    with Image.open(path.with_name(path.name.replace("polygons.json", f"{kind}.png"))) as image:
        return np.asarray(image)


@pytest.mark.parametrize("split", ["train", "val"])
def test_cityscapes__all_things_can_be_seen_in_each_split(made: Path, split: str) -> None:
    pixels: Counter = Counter()
    paths = truths(made, split)
    assert len(paths) == COUNTS[split]
    labels = set()
    for path in paths:
        instances = sibling(path, "instanceIds")
        assert instances.dtype == np.uint16 and (sibling(path, "labelIds") != 0).all()
        for number, count in zip(*np.unique(instances[instances >= 1000], return_counts=True), strict=True):
            assert count >= 100, path  # the evaluation ignores smaller ones
            pixels[THINGS[int(number) // 1000]] += int(count)
        labels |= {one["label"] for one in json.loads(path.read_text())["objects"]}
    assert set(pixels) == set(THINGS.values())
    assert labels >= {"road", "sidewalk", "sky", "building", "cargroup", *THINGS.values()}


def test_cityscapes__images_are_the_polygons_painted_in_order(made: Path) -> None:
    detectron2_compat.apply()
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    for path in truths(made, "train"):
        annotation = Annotation()
        annotation.fromJsonFile(str(path))
        instances, labels = sibling(path, "instanceIds"), sibling(path, "labelIds")
        assert np.array_equal(np.asarray(createInstanceImage(annotation, "ids")), instances)
        assert np.array_equal(np.asarray(createLabelImage(annotation, "ids")), labels)
        assert np.array_equal(np.where(instances >= 1000, instances // 1000, instances), labels)


def test_cityscapes__official_evaluation_gives_itself_full_marks(made: Path, tmp_path: Path) -> None:
    detectron2_compat.apply()
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as official

    truth_files, prediction_files = [], []
    for path in truths(made, "val"):
        instances = sibling(path, "instanceIds")
        name = path.name.removesuffix("_gtFine_polygons.json")
        lines = []
        for number in np.unique(instances[instances >= 1000]).tolist():
            Image.fromarray((instances == number).astype(np.uint8) * 255).save(tmp_path / f"{name}_{number}.png")
            lines.append(f"{name}_{number}.png {number // 1000} 0.9\n")
        (tmp_path / f"{name}_pred.txt").write_text("".join(lines))
        prediction_files.append(str(tmp_path / f"{name}_pred.txt"))
        truth_files.append(str(path.with_name(f"{name}_gtFine_instanceIds.png")))
    arguments = copy.copy(official.args)
    arguments.predictionPath, arguments.gtInstancesFile = str(tmp_path), str(tmp_path / "gtInstances.json")
    arguments.JSONOutput, arguments.quiet = False, True
    with contextlib.redirect_stdout(io.StringIO()):
        averages = official.evaluateImgLists(prediction_files, truth_files, arguments)["averages"]
    assert averages["allAp"] == averages["allAp50%"] == 1.0
    assert all(np.isfinite(one["ap"]) for one in averages["classes"].values())


# Pascal VOC and LVIS


def test_voc__boxes_hold_the_objects_and_crowds_are_difficult(made: Path) -> None:
    difficult = 0
    for split, lists in layouts.VOC_LISTS.items():
        listed = [made / "voc" / year / "ImageSets/Main" / f"{name}.txt" for year, name in lists]
        ids = [path.read_text().split() for path in listed]
        assert sum(map(len, ids)) == COUNTS[split] and max(map(len, ids)) - min(map(len, ids)) <= 1
        seen = set()
        for (year, _), names in zip(lists, ids, strict=True):
            for name in names:
                root = ElementTree.parse(made / "voc" / year / "Annotations" / f"{name}.xml").getroot()
                with Image.open(made / "voc" / year / "JPEGImages" / f"{name}.jpg") as image:
                    assert image.size == tuple(int(root.findtext(f"size/{side}")) for side in ("width", "height"))
                for element in root.iter("object"):
                    x0, y0, x1, y1 = (int(element.findtext(f"bndbox/{side}"))
                                      for side in ("xmin", "ymin", "xmax", "ymax"))
                    assert 1 <= x0 < x1 <= image.width and 1 <= y0 < y1 <= image.height
                    seen.add(element.findtext("name"))
                    difficult += int(element.findtext("difficult"))
        assert len(seen) >= 3 and seen <= set(layouts.VOC_NAMES.values())
    assert difficult == 3  # images 0 and 8 of train, 0 of val


def test_voc__box_counts_from_one_and_holds_its_last_pixel() -> None:
    found = {"category_id": 44, "bbox": [0.0, 4.0, 10.0, 6.0], "iscrowd": 0}
    root = ElementTree.fromstring(layouts.voc_annotation("a.jpg", "VOC2007", (20, 10), [found]))
    assert [root.findtext(f"object/bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")] == [
        "1", "5", "10", "10"]
    assert root.findtext("object/name") == "bird"


def test_lvis__is_the_coco_file_without_its_crowds(made: Path) -> None:
    for split in ("train", "val"):
        own = json.loads((made / "coco/annotations" / f"instances_{split}.json").read_text())
        content = json.loads((made / "lvis" / f"lvis_v1_{split}.json").read_text())
        assert [row["area"] for row in content["annotations"]] == [
            row["area"] for row in own["annotations"] if not row["iscrowd"]]
        assert [image["coco_url"].split("/")[-1] for image in content["images"]] == [
            image["file_name"] for image in own["images"]]
        assert [row["frequency"] for row in content["categories"]] == ["f", "f", "c", "r"]
        for image in content["images"]:
            classes = {row["category_id"] for row in content["annotations"] if row["image_id"] == image["id"]}
            assert not classes & set(image["neg_category_ids"])
        assert content["images"][0]["not_exhaustive_category_ids"] == [1]  # the crowd of discs


# detectron2


@pytest.mark.parametrize(("kind", "stem"), [("coco", "instances"), ("keypoints", "person_keypoints")])
def test_detectron2__loads_the_coco_files(made: Path, kind: str, stem: str) -> None:
    from detectron2.data.datasets.coco import load_coco_json

    path = made / kind / "annotations" / f"{stem}_train.json"
    records = load_coco_json(str(path), str(made / kind / "images"), f"demo_data_test_{kind}")
    content = json.loads(path.read_text())
    assert len(records) == COUNTS["train"]
    assert sum(len(record["annotations"]) for record in records) == len(content["annotations"])
    ids = {one["category_id"] for record in records for one in record["annotations"]}
    assert ids == set(range(len(content["categories"])))
    assert all(Path(record["file_name"]).is_file() for record in records)


@pytest.mark.parametrize("from_json", [True, False])
def test_detectron2__loads_the_cityscapes_files(made: Path, from_json: bool) -> None:
    from detectron2.data.datasets import cityscapes

    root = made / "cityscapes"
    records = cityscapes.load_cityscapes_instances(
        str(root / "leftImg8bit" / "val"), str(root / "gtFine" / "val"), from_json=from_json)
    assert len(records) == COUNTS["val"]
    names = list(THINGS.values())
    for record in records:
        truth = root / "gtFine" / "val" / Path(record["file_name"]).parent.name
        polygons = truth / Path(record["file_name"]).name.replace("_leftImg8bit.png", "_gtFine_polygons.json")
        expected = Counter(
            one["label"] for one in json.loads(polygons.read_text())["objects"] if one["label"] in names)
        found = Counter(names[one["category_id"]] for one in record["annotations"] if not one["iscrowd"])
        assert found == expected
        # The loader's polygons together cover the painted things.
        painted = sibling(polygons, "instanceIds") >= 1000
        drawn = np.zeros(painted.shape, bool)
        for one in record["annotations"]:
            if not one["iscrowd"]:
                shapes = coco_mask.frPyObjects(one["segmentation"], *painted.shape)
                drawn |= coco_mask.decode(coco_mask.merge(shapes)).astype(bool)
        assert (drawn & painted).sum() / (drawn | painted).sum() > 0.85
