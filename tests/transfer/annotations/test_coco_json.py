"""A COCO annotation file is read, and what is wrong with it is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.common.errors import UserError
from tests.transfer.coco_files import POLYGON, content
from transfer.annotations import coco_json


def _drop(key: str) -> Callable[[dict], None]:
    return lambda values: values["annotations"][1].pop(key)


def _set(key: str, value: object) -> Callable[[dict], None]:
    return lambda values: values["annotations"][1].update({key: value})


@pytest.mark.parametrize(("spoil", "text"), [
    *[(_drop(key), f"entry 1 .*of 'annotations' has no '{key}': expected id, image_id, category_id, bbox, area, "
       "iscrowd in each") for key in ("image_id", "category_id", "bbox", "area", "iscrowd")],
    (lambda values: values.pop("images"), "'images' is missing or empty: expected a COCO annotation file"),
    (lambda values: values.update(annotations=[]), "'annotations' is missing or empty: expected"),
    (lambda values: values.update(annotations={}), "'annotations' is missing or empty: expected"),
    (lambda values: values["annotations"].append(5), "entry 2 of 'annotations' is a int: expected an object"),
    (lambda values: values["images"][0].pop("width"), "entry 0 .*of 'images' has no 'width'"),
    (_set("image_id", 99), "annotation 2 has image_id 99, which no entry of 'images' has"),
    (_set("category_id", 99), "annotation 2 has category_id 99, which no entry of 'categories' has"),
    (_set("id", 1), "2 entries of 'annotations' have id 1: expected a different one in each"),
    (_set("id", 1.5), r"entry 1 \(id 1.5\) of 'annotations' has id 1.5: expected a whole number"),
    (_set("image_id", [1]), r"of 'annotations' has image_id \[1\]: expected a whole number"),
    (_set("category_id", 3.5), r"of 'annotations' has category_id 3.5: expected a whole number"),
    (_set("iscrowd", "0"), "of 'annotations' has iscrowd '0': expected 0 or 1"),
    (_set("area", None), "of 'annotations' has area None: expected a number of pixels"),
    (lambda values: values["images"][0].update(width=30.0), "of 'images' has width 30.0: expected a whole number of"),
    (lambda values: values["images"][1].update(file_name="./a.png"), "2 entries of 'images' have file_name 'a.png'"),
    (lambda values: values["images"][0].update(file_name=None), "of 'images' has file_name None: expected a text"),
    (lambda values: values["categories"][0].update(name=3), "of 'categories' has name 3: expected a text"),
    (lambda values: values["categories"][0].update(name="disc"),
     "2 entries of 'categories' have name 'disc': expected a diff"),
    (_set("segmentation", {"size": [30, 20], "counts": [600]}), r"annotation 2 has run lengths that are not those of"),
    (_set("segmentation", {"size": [20, 30], "counts": [9]}), r"expected size \[20, 30\] and counts that add up to"),
    (_set("segmentation", [[1, 2, 3, 4, 5, float("nan")]]), "annotation 2 has no mask"),
    (lambda values: values["annotations"][1].update(iscrowd=1, segmentation=None), "annotation 2 has no mask"),
    (_set("ignore", 1), "annotation 2 has 'ignore' set"),
    (_set("ignore", None), "annotation 2 has 'ignore' set"),  # detectron2 takes what is not 0 for set
    (_set("keypoints", ["1", 2, 2]), r"annotation 2 has keypoints \['1', 2, 2\]: expected a list of numbers"),
    (_set("segmentation", [[2, 2, 1e8, 2, 12, 12]]),  # filling it takes gigabytes, or ends the process
     r"annotation 2 has a mask that cannot be read \(it reaches to 1e\+08, in an image of 30 x 20 pixels\)"),
    (lambda values: values["images"][0].update(width=10**6, height=10**6),
     "image a.png has 1000000 x 1000000 pixels: expected at most 178956970, larger ones are not opened"),
    (_set("bbox", [20, 5, 28, 18]), r"bbox \[20, 5, 28, 18\] outside its image b.png \(30 x 20 pixels\)"),
    (_set("bbox", [-9, 5, 5, 5]), "outside its image"),
    (_set("bbox", [5, 5, -2, 5]), "outside its image"),
    (_set("bbox", [5, 5, float("nan"), 5]), r"has bbox \[5, 5, nan, 5\]: expected \[x, y, width, height\] in pixels"),
    (_set("bbox", [5, 5, 5]), r"has bbox \[5, 5, 5\]: expected \[x, y, width, height\] in pixels"),
    *[(change, r"1 objects have a mask and 1 have none \(the first is annotation 2\): expected 'segmentation' in each")
      for change in (_set("segmentation", []), _set("segmentation", None), _drop("segmentation"))],
    (_set("segmentation", [[1, 2, 3, 4]]), "annotation 2 has no mask"),
    (lambda values: [row.update(iscrowd=1) for row in values["annotations"]],
     "all 2 annotations are crowds: expected at least"),
])
def test_read__names_what_is_not_coco(spoil: Callable[[dict], None], text: str, tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    values = content()
    path.write_text(json.dumps(values))
    assert len(coco_json.read(path).images) == 2
    spoil(values)
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=text) as caught:
        coco_json.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("written", "text"), [("{", "is not JSON"), ("[" * 99_999, "is not JSON"),
                                               ("\xef\xbb\xbf{}", "is not JSON .Unexpected UTF-8 BOM"),
                                               ("[]", "found a list: expected a COCO"),
                                               ("\xff", "is not JSON")])
def test_read__names_what_is_not_even_an_object(written: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_bytes(written.encode("latin-1"))
    with pytest.raises(UserError, match=text):
        coco_json.read(path)


@pytest.mark.parametrize(("spoil", "text"), [
    (lambda values: [row.pop("keypoints") for row in values["categories"]],
     "no keypoints: expected 'keypoints' .their names"),
    (lambda values: values["categories"][0].update(keypoints=["nose"]), "the categories have different keypoints"),
    (_drop("keypoints"), "annotation 2 has no 'keypoints': expected keypoints, num_keypoints in each"),
    (_set("keypoints", [1, 2, 2]), r"annotation 2 has keypoints \[1, 2, 2\]: expected 6 numbers"),
    (_set("keypoints", [1, 10**30, 2, 0, 0, 0]), "annotation 2 has keypoints .*: expected 6 numbers"),
    (_drop("num_keypoints"), "annotation 2 has no 'num_keypoints'"),
    (_set("num_keypoints", "1"), "annotation 2 has num_keypoints '1': expected the number of labelled"),
    (_set("keypoints", [1, 2, "2", 0, 0, 0]),
     "annotation 2 has keypoints .*: expected 6 numbers, x, y and visibility for each of the 2"),
    (lambda values: values["categories"][0].update(skeleton=[[1, 3]]), r"'skeleton' in 'categories' is \[\[1, 3\]\]: "),
    (lambda values: values["categories"][0].update(skeleton=[[1]]), "expected pairs of keypoint numbers from 1 to 2"),
    (lambda values: [row.update(num_keypoints=0, keypoints=[0] * 6) for row in values["annotations"]],
     "none of 2 objects has a labelled keypoint"),
    (lambda values: values["annotations"][1].update(num_keypoints=3),
     "annotation 2 has num_keypoints 3: expected 1, the number of its keypoints with a visibility above 0"),
    (lambda values: values["images"][1].update(file_name="a.png"), "2 entries of 'images' have file_name 'a.png'"),
    (lambda values: (_set("iscrowd", 1)(values), _drop("keypoints")(values)),  # the evaluation reads those of crowds
     "annotation 2 has no 'keypoints': expected keypoints, num_keypoints in each"),
    (_set("segmentation", {"size": [20, 31], "counts": [620]}),
     r"annotation 2 has a mask that cannot be read \(its size is \[20, 31\]: expected that of its image, \[20, 30\]\)"),
    (_set("segmentation", [[2, 2, float("nan"), 2, 12, 12]]), "annotation 2 has a mask that cannot be read"),
    (_set("segmentation", {"counts": [600]}), "annotation 2 has a mask that cannot be read .'size'"),
])
def test_read__names_what_is_wrong_with_keypoints(spoil: Callable[[dict], None], text: str, tmp_path: Path) -> None:
    path = tmp_path / "person_keypoints.json"
    values = content(keypoints=True)
    path.write_text(json.dumps(values))
    assert coco_json.read(path, keypoints=True).keypoint_names == ("left_eye", "right_eye")
    spoil(values)
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=text):
        coco_json.read(path, keypoints=True)


def test_read__boxes_may_stick_out_by_rounding(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    values = content()
    values["annotations"][0] |= {"bbox": [-0.5, 0, 31, 20.4], "segmentation": [[0, 0, 30, 0, 30, 20, 0, 20]]}
    values["annotations"][1]["bbox"] = [4, 4, 0, 3]  # COCO itself has boxes without width
    path.write_text(json.dumps(values))
    assert len(coco_json.read(path).images) == 2


@pytest.mark.parametrize("change", [
    _set("segmentation", [*POLYGON, [2, 2, 12, 2]]),  # detectron2 leaves such parts out of a training
    _set("segmentation", [*POLYGON, []]),
    _set("segmentation", [*POLYGON, [30, 2, 12, 2, 12, 12, 1]]),
    lambda values: values["annotations"][1].update(iscrowd=1, segmentation=[[2, 2, 12, 2]]),  # and crowds
    lambda values: values["annotations"][1].update(iscrowd=1, segmentation={"size": [20, 30], "counts": "not"}),
], ids=["two points", "nothing", "an odd number", "a crowd", "rubbish of a crowd"])
def test_read__what_a_training_leaves_out_is_refused_for_an_evaluation(change: Callable[[dict], None],
                                                                      tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    values = content()
    change(values)
    path.write_text(json.dumps(values))
    file = coco_json.read(path, evaluated=False)
    assert len(file.images) == 2 and file.notes == ()
    with pytest.raises(UserError, match="annotation 2 has"):
        coco_json.read(path)


@pytest.mark.parametrize("mask", [
    {"size": [20, 31], "counts": [620]}, {"size": [20], "counts": [600]}, {"counts": [600]},
    {"size": [20, 30], "counts": [599, "1"]}, {"size": [20, 30], "counts": [-1, 601]}, 5, [[1, 2], 3]])
@pytest.mark.parametrize("keypoints", [False, True])
def test_read__what_detectron2_opens_of_a_crowd_is_checked_for_a_training_too(
        mask: object, keypoints: bool, tmp_path: Path) -> None:
    values = content(keypoints=keypoints)
    values["annotations"][1] |= {"iscrowd": 1, "segmentation": mask}
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="annotation 2 has a mask that cannot be read"):
        coco_json.read(path, keypoints, evaluated=False)
