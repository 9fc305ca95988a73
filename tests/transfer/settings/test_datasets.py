"""Layouts are found, faults are named, and nothing else is let through."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from pretrain.common.atomic import sha256_file
from pretrain.common.errors import UserError
from tests.transfer.coco_files import RLE, content, write
from tests.transfer.resolved import resolve
from transfer import tasks
from transfer.annotations import keypoint_names
from transfer.settings import datasets
from transfer.tasks import Where


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write(tmp_path / "data", {"instances_train.json": content(), "instances_val.json": content(("c.png",))})


@pytest.mark.parametrize("images", ["images", "images/{split}", "{split}", "{split}2017", "images/{split}2017"])
def test_find__coco_images_where_they_may_lie(images: str, tmp_path: Path) -> None:
    files = {"instances_train2017.json": content(), "instances_val2017.json": content(("c.png",)),
             "captions_train2017.json": content()}
    found = datasets.find(write(tmp_path, files, images), "coco")
    assert (found.train.images, found.val.images, found.classes) == (2, 1, ("disc", "plank"))
    assert found.train.image_root == tmp_path / images.format(split="train")


def test_find__coco_below_and_any_name(tmp_path: Path) -> None:
    write(tmp_path / "coco", {"my_train.json": content(), "my_VAL.json": content(("c.png",))})
    assert datasets.find(tmp_path, "coco").train.annotations == tmp_path / "coco/annotations/my_train.json"


def test_find__coco_and_keypoints_from_one_folder(tmp_path: Path) -> None:
    write(tmp_path, {"instances_train.json": content(), "instances_val.json": content(("c.png",)),
                     "person_keypoints_train.json": content(keypoints=True),
                     "person_keypoints_val.json": content(("c.png",), keypoints=True)})
    assert datasets.find(tmp_path, "coco").keypoint_names == ()
    found = datasets.find(tmp_path, "keypoints")
    assert found.keypoint_names == ("left_eye", "right_eye") and found.skeleton == ((1, 2),)
    assert found.train.annotations.name == "person_keypoints_train.json"


def test_find__run_lengths_are_seen_unless_they_are_crowds(coco: Path) -> None:
    path = coco / "annotations/instances_train.json"
    values = content()
    values["annotations"][0] |= {"segmentation": RLE, "iscrowd": 1}
    path.write_text(json.dumps(values))
    assert not datasets.find(coco, "coco").has_rle
    values["annotations"][0]["iscrowd"] = 0
    path.write_text(json.dumps(values))
    assert datasets.find(coco, "coco").has_rle


def test_find__own_coco_file_wins_over_another_year(tmp_path: Path) -> None:
    names = ("instances_train2014.json", "instances_train2017.json", "instances_val2014.json", "instances_val2017.json")
    files = {name: content() if "train" in name else content(("c.png",)) for name in names}
    found = datasets.find(write(tmp_path, files), "coco")
    assert (found.train.annotations.name, found.val.annotations.name) == (names[1], names[3])


def test_find__several_candidates_are_named(coco: Path) -> None:
    shutil.copy(coco / "annotations/instances_train.json", coco / "annotations/instances_train_b.json")
    two = "annotations/instances_train.json, annotations/instances_train_b.json"
    with pytest.raises(UserError, match=f"expected one annotation file for train, .*; found {two}; keep the one that"):
        datasets.find(coco, "coco")


def test_find__evaluated_images_among_the_training_images(tmp_path: Path) -> None:
    folder = write(tmp_path, {"train.json": content(), "val.json": content(("b.png", "c.png"))})
    note, = datasets.find(folder, "coco").notes
    assert "1 of the 2 images that are evaluated are training images (b.png)" in note
    shutil.copy(folder / "annotations/train.json", folder / "annotations/val.json")
    with pytest.raises(UserError, match=r"val.json: all of its 2 images are in .*train.json too: .* --same-images"):
        datasets.find(folder, "coco")
    note, = datasets.find(Where(folder, same_images=True), "coco").notes
    assert note.startswith("warning: 2 of the 2 images")


def test_find__copies_of_the_training_images_in_another_folder(tmp_path: Path) -> None:
    folder = write(tmp_path, {"train.json": content(), "val.json": content()})
    for half in ("train2017", "val2017"):
        shutil.copytree(folder / "images", folder / half)
    shutil.rmtree(folder / "images")
    with pytest.raises(UserError, match=r"val.json: all of its 2 images are in .*train.json too: .* --same-images"):
        datasets.find(folder, "coco")
    Image.new("RGB", Image.open(folder / "val2017/a.png").size, "red").save(folder / "val2017/a.png")
    note, = datasets.find(folder, "coco").notes
    assert "1 of the 2 images that are evaluated are training images (b.png)" in note


def test_find__missing_images_are_counted_and_named(coco: Path) -> None:
    (coco / "images/a.png").unlink()
    with pytest.raises(UserError, match=r"instances_train.json: 1 of the 2 files that it lists are not in .*: a.png"):
        datasets.find(coco, "coco")


def test_find__unreadable_and_resized_images_are_named(coco: Path) -> None:
    (coco / "images/c.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"c\.png cannot be read as an image"):
        datasets.find(coco, "coco")
    Image.new("RGB", (15, 10)).save(coco / "images/c.png")
    with pytest.raises(UserError, match=r"c\.png is 15 x 10 pixels but the annotations say 30 x 20"):
        datasets.find(coco, "coco")


def test_find__categories_that_differ_are_named(coco: Path) -> None:
    values = content(("c.png",))
    values["categories"][0]["name"] = "star"
    (coco / "annotations/instances_val.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="categories that differ from those of .*: expected the same ids and names in "
                                        "both, found 7 plank only in train and 7 star only in val"):
        datasets.find(coco, "coco")


@pytest.mark.parametrize("task", tuple(tasks.TASKS))
def test_find__empty_folder_gets_the_layout(task: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        datasets.find(tmp_path, task)
    assert tasks.get(task).layout in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is not a folder: expected the data of task"):
        datasets.find(tmp_path / "none", task)


def test_register__classes_are_those_of_the_file_and_the_last_dataset_counts(coco: Path, tmp_path: Path) -> None:
    first = datasets.register(datasets.find(coco, "coco"))
    other = write(tmp_path / "other", {"a_train.json": content(("x.png",)), "a_val.json": content(("y.png",))})
    names = datasets.register(datasets.find(other, "coco"))
    assert first == names == ("coco_train", "coco_val")
    records = DatasetCatalog.get("coco_train")
    assert [Path(record["file_name"]).name for record in records] == ["x.png"]
    assert records[0]["annotations"][0]["category_id"] == 0  # id 3 is the first class
    assert MetadataCatalog.get("coco_val").thing_classes == ["disc", "plank"]


def test_register__keypoints_know_what_a_mirror_does(tmp_path: Path) -> None:
    write(tmp_path, {"train.json": content(keypoints=True), "val.json": content(("c.png",), keypoints=True)})
    _, name = datasets.register(datasets.find(tmp_path, "keypoints"))
    assert MetadataCatalog.get(name).keypoint_flip_map == [("left_eye", "right_eye")]


def test_describe__counts_classes_and_hashes(coco: Path) -> None:
    first = datasets.describe(datasets.find(coco, "coco"))
    assert first["classes"] == ["disc", "plank"] and first["val"]["images"] == 1
    assert re.fullmatch("[0-9a-f]{64}", first["train"]["annotations_sha256"])
    path = coco / "annotations/instances_train.json"
    path.write_text(path.read_text() + " ")
    assert datasets.describe(datasets.find(coco, "coco"))["train"] != first["train"]
    assert datasets.describe(datasets.find(coco, "coco"))["val"] == first["val"]


def test_find__real_data(shared_data: Path) -> None:
    found = {name: datasets.find(shared_data / name, task) for name, task in
             (("coco_mini", "coco"), ("nuclei", "coco"), ("keypoints_mini", "keypoints"))}
    assert {name: (data.train.images, data.val.images, len(data.classes)) for name, data in found.items()} == {
        "coco_mini": (48, 48, 80), "nuclei": (220, 60, 1), "keypoints_mini": (93, 46, 1)}
    assert len(keypoint_names.flip_pairs(found["keypoints_mini"].keypoint_names)) == 8


def without_masks(names: tuple[str, ...] = ("a.png", "b.png"), empty: object = None) -> dict:
    values = content(names)
    for number, row in enumerate(values["annotations"]):
        del row["segmentation"]
        if number % 2 and empty is not None:
            row["segmentation"] = empty
    return values


@pytest.mark.parametrize("empty", [None, []])
@pytest.mark.parametrize("task", ["coco", "coco-c4"])
def test_find__objects_without_masks_are_boxes_and_it_is_said(task: str, empty: object, tmp_path: Path) -> None:
    write(tmp_path, {"train.json": without_masks(empty=empty), "val.json": without_masks(("c.png",))})
    found = datasets.find(tmp_path, task)
    assert found.parts == ("boxes",) and not found.has_rle
    assert found.notes == (f"{found.train.annotations} has boxes and no masks: Faster R-CNN by the same protocol, no "
                           "mask head; AP_mb, AP50_mb, AP75_mb stay empty",)
    cfg = resolve(found, tasks.get(task).default_heads, "full")
    assert not cfg.MODEL.MASK_ON
    _, name = datasets.register(found)
    assert tasks.get(task).evaluator(found, cfg)._tasks == ("bbox",)
    assert all("segmentation" not in row for record in DatasetCatalog.get(name) for row in record["annotations"])


def test_find__with_masks_is_as_before(coco: Path) -> None:
    found = datasets.find(coco, "coco")
    assert found.parts == ("boxes", "masks") and found.notes == ()
    assert resolve(found, "2fc", "full").MODEL.MASK_ON


def test_find__crowds_do_not_make_a_file_one_with_masks(tmp_path: Path) -> None:
    values = without_masks()
    values["annotations"].append({**content()["annotations"][0], "id": 9, "iscrowd": 1, "segmentation": RLE})
    write(tmp_path, {"train.json": values, "val.json": without_masks(("c.png",))})
    assert datasets.find(tmp_path, "coco").parts == ("boxes",)


@pytest.mark.parametrize("first", ["train", "val"])
def test_find__masks_in_one_half_alone_are_refused(first: str, tmp_path: Path) -> None:
    files = {"train.json": content(), "val.json": content(("c.png",))}
    files[f"{first}.json"] = without_masks(("a.png", "b.png") if first == "train" else ("c.png",))
    write(tmp_path, files)
    other = "val" if first == "train" else "train"
    with pytest.raises(UserError, match=rf"{other}.json have masks, those of \S*{first}.json have none"):
        datasets.find(tmp_path, "coco")


@pytest.mark.parametrize("inside", ["", "train", "train2017"])
def test_find__files_that_lie_otherwise(inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, values in (("a.json", content()), ("b.json", content(("c.png",)))):
        Path(name).write_text(json.dumps(values))
        half = "train" if name == "a.json" else "val"
        for row in values["images"]:
            place = Path("elsewhere", inside.replace("train", half), row["file_name"])
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30, 20)).save(place)
    where = Where(None, Path("a.json"), Path("b.json"), Path("elsewhere"))
    found = datasets.find(where, "coco")
    assert (found.train.images, found.val.images) == (2, 1)
    assert found.train.image_root == Path("elsewhere", inside)
    assert found.train.annotations_sha256 == sha256_file(Path("a.json"))
    tasks.get("coco").excerpt(found, tmp_path / "part", 1, 1)
    assert datasets.find(tmp_path / "part", "coco").train.images == 1


@pytest.mark.parametrize(("where", "text"), [
    (Where(None), "no --data DIR and no --train-annotations, --val-annotations, --images: expected a folder laid out"),
    (Where(None, Path("a"), None, Path(".")), "no --data DIR and no --val-annotations: expected a folder laid out as"),
    (Where(Path("."), Path("none.json")), "--train-annotations none.json is not a file: expected an annotation file"),
    (Where(Path("."), None, Path(".")), "--val-annotations . is not a file: expected an annotation file"),
    (Where(Path("."), None, None, Path("none")), "--images none is not a folder: expected the folder of the images"),
    (Where(Path("none"), Path("a.json")), "none is not a folder: expected the data of task coco, laid out as"),
    (Where(Path("."), train_share=0), "--train-share 0: expected a share of the training images, above 0 and at most"),
    (Where(Path("."), train_share=1.5), "--train-share 1.5: expected a share of the training images"),
    (Where(Path("."), train_share=float("nan")), "--train-share nan: expected a share of the training images"),
])
def test_find__what_is_wrong_with_the_options_is_one_line(where: Where, text: str, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        datasets.find(where, "coco")
    assert str(caught.value).startswith(text) and "\n" not in str(caught.value)


def test_find__one_file_for_each_half_is_not_every_tasks_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--val-annotations: the annotations of task cityscapes are not one file for"):
        datasets.find(Where(tmp_path, val_annotations=tmp_path / "a.json"), "cityscapes")


def test_find__a_share_of_the_training_images(tmp_path: Path) -> None:
    names = tuple(f"{number}.png" for number in range(10))
    values = content(names)
    write(tmp_path, {"train.json": values, "val.json": content(("c.png",))})
    found = datasets.find(Where(tmp_path, train_share=0.3), "coco")
    first = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:3]
    assert (found.train.images, found.val.images, found.train_share) == (3, 1, 0.3)
    assert found.notes == ("--train-share 0.3: 3 of 10 training images, 3 of them with objects",)
    assert datasets.describe(found)["train_share"] == {"share": 0.3, "images": 3}
    assert "train_share" not in datasets.describe(datasets.find(tmp_path, "coco"))
    name, _ = datasets.register(found)
    assert {Path(record["file_name"]).name for record in DatasetCatalog.get(name)} == set(first)


def test_find__a_share_without_an_object_is_refused(tmp_path: Path) -> None:
    names = tuple(f"{number}.png" for number in range(10))
    values = content(names)
    first = min(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    row = values["annotations"][names.index(first)]
    row.update(iscrowd=1, segmentation=RLE)
    write(tmp_path, {"train.json": values, "val.json": content(("c.png",))})
    with pytest.raises(UserError, match="--train-share 0.1: none of the 1 images that it takes from .* has an"):
        datasets.find(Where(tmp_path, train_share=0.1), "coco")
    assert datasets.find(Where(tmp_path, train_share=0.2), "coco").notes == (
        "--train-share 0.2: 2 of 10 training images, 1 of them with objects",)


def test_find__a_share_leaves_detectron2s_catalog_alone(coco: Path, tmp_path: Path) -> None:
    name, _ = datasets.register(datasets.find(coco, "coco"))
    before, records = MetadataCatalog.get(name), DatasetCatalog.get(name)
    values = content()
    values["categories"][0]["name"] = "star"
    write(tmp_path / "other", {"train.json": values, "val.json": {**content(("c.png",)), "categories":
                                                                   values["categories"]}})
    datasets.find(Where(tmp_path / "other", train_share=0.5), "coco")
    assert MetadataCatalog.get(name) is before and DatasetCatalog.get(name) is records
    assert before.thing_classes == ["disc", "plank"]
