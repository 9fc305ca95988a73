"""Boxes, masks, keypoints and images agree: every kind of disagreement, in one object and in most of them."""

from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as run_lengths

from pretrain.common.errors import UserError
from transfer.annotations import agreement

FILE = Path("a.json")
IMAGES = {1: {"width": 60, "height": 40}}
SQUARE = [[10, 5, 30, 5, 30, 25, 10, 25]]  # x 10 to 30, y 5 to 25


def annotation(number: int = 1, **values: object) -> dict:
    return {"id": number, "image_id": 1, "iscrowd": 0, "bbox": [10, 5, 20, 20], "area": 400, "segmentation": SQUARE,
            **values}


def rle(pixels: np.ndarray, compressed: bool) -> dict:
    """Run lengths down the columns of (H, W) 0/1 `pixels`."""
    encoded = run_lengths.encode(np.asfortranarray(pixels.astype(np.uint8)))
    counts = encoded["counts"].decode()
    return {"size": list(pixels.shape), "counts": counts if compressed else agreement.runs_of(counts)}


def filled(shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    pixels = np.zeros(shape, bool)
    pixels[5:25, 10:30] = True
    return pixels


def compared(*rows: dict, decode: bool = True, **words: object) -> agreement.Agreement:
    return agreement.compare(rows, IMAGES, decode, **words)


def problem(found: agreement.Agreement) -> str:
    with pytest.raises(UserError) as caught:
        found.check(FILE)
    return str(caught.value)


@pytest.mark.parametrize("mask", [SQUARE, rle(filled(), True), rle(filled(), False)], ids=["polygon", "text", "list"])
@pytest.mark.parametrize("decode", [True, False])
def test_compare__all_agrees(mask: object, decode: bool) -> None:
    found = compared(annotation(segmentation=mask), decode=decode)
    found.check(FILE)
    assert not found.notes() and found.objects == 1


def test_compare__boxes_alone_and_a_crowd() -> None:
    crowd = annotation(2, iscrowd=1, bbox=[0, 0, 60, 40], segmentation=rle(filled(), False))
    found = compared(annotation(segmentation=[]), crowd)
    found.check(FILE)
    assert not found.notes() and found.objects == 1


@pytest.mark.parametrize(("values", "what"), [
    ({"bbox": [10, 5, 0, 20], "segmentation": None},
     "a box below one pixel (annotation 9): it is left out of the training"),
    ({"segmentation": [[50, 5, 70, 5, 70, 25]], "bbox": [50, 5, 10, 20], "area": 100},
     "a mask outside of its image (annotation 9): what lies outside is cut off"),
    ({"bbox": [10, 5, 20, 17]}, "a box that is not the extent of its mask (annotation 9): box AP and mask AP"),
    ({"area": 250}, "an 'area' that is not that of its mask (annotation 9): it counts as small, medium or large"),
])
def test_notes__one_object_is_named_with_what_it_does(values: dict, what: str) -> None:
    found = compared(*(annotation(number) for number in range(1, 9)), annotation(9, **values))
    found.check(FILE)
    assert any(line.startswith(f"1 of 9 objects have {what}") for line in found.notes()), found.notes()


def test_notes__two_pixels_are_rounding() -> None:
    assert not compared(annotation(bbox=[8, 7, 22, 18])).notes()
    assert compared(annotation(bbox=[7.9, 5, 22.1, 20])).notes()


@pytest.mark.parametrize(("values", "text"), [
    ({"bbox": [0.1, 0.1, 0.4, 0.4]}, "They look like shares of width and height, from 0 to 1: multiply them"),
    ({"segmentation": [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]}, "They look like shares of width and height"),
    ({"segmentation": rle(filled().ravel().reshape((40, 60), order="F"), False)}, "The run lengths look row-major"),
    ({"segmentation": [[30, 5, 50, 5, 50, 25, 30, 25]]}, "3 of 3 objects have a box that is not the extent of its mask "
                                                         "(the first is annotation 1): expected boxes, masks"),
])
def test_check__most_objects_wrong_in_the_same_way(values: dict, text: str) -> None:
    assert text in problem(compared(*(annotation(number, **values) for number in (1, 2, 3))))


def test_check__the_area_of_the_box_in_all_objects_is_only_said() -> None:
    """As many exports have it."""
    found = compared(*(annotation(number, segmentation=[[10, 5, 30, 5, 10, 25]]) for number in (1, 2, 3)))
    found.check(FILE)
    assert "3 of 3 objects have an 'area' that is not" in found.notes()[0]


@pytest.mark.parametrize(("mask", "text"), [
    ({"size": [40, 60], "counts": "not run lengths"}, "'t' is not a letter of compressed run lengths"),
    ({"size": [40, 60], "counts": rle(np.ones((400, 600)), True)["counts"]},
     "its run lengths add up to 240000: expected 2400, height times width"),
    ({"size": [40, 60], "counts": rle(np.ones((4, 6)), True)["counts"]}, "its run lengths add up to 24"),
    ({"size": [40, 60], "counts": rle(filled(), True)["counts"][:-1]}, "run lengths"),
])
def test_check__a_mask_that_cannot_be_read_is_named(mask: object, text: str) -> None:
    line = problem(compared(annotation(), annotation(7, segmentation=mask)))
    assert line.startswith("a.json: annotation 7 has a mask that cannot be read (") and text in line


def test_runs_of__is_what_pycocotools_reads() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        pixels = random.random((random.integers(1, 40), random.integers(1, 40))) < random.random()
        runs = agreement.runs_of(rle(pixels, True)["counts"])
        flat = np.repeat(np.arange(len(runs)) % 2, runs)
        assert (flat.reshape(pixels.shape, order="F") == pixels).all()


def test_compare__keypoints() -> None:
    inside, outside = [5, 5, 2, 300, 300, 0], [5, 5, 2, 63, 5, 1]
    assert not compared(annotation(keypoints=inside), keypoints=True).notes()
    found = compared(annotation(1, keypoints=inside), annotation(2, keypoints=outside), keypoints=True)
    assert "1 of 2 objects have a labelled keypoint outside of its image (annotation 2)" in found.notes()[0]
    shares = [0.2, 0.3, 2, 0.4, 0.4, 2]
    found = compared(*(annotation(number, keypoints=shares) for number in (1, 2, 3)), keypoints=True)
    assert "labelled keypoints in the first pixel" in problem(found)
    assert "They look like shares of width and height" in problem(found)


def test_check__masks_without_a_pixel_are_not_taken_for_shares() -> None:
    empty = {"size": [40, 60], "counts": [2400]}
    line = problem(compared(*(annotation(number, segmentation=empty) for number in (1, 2, 3))))
    assert line.startswith("a.json: 3 of 3 objects have a box that is not the extent of its mask")
    assert line.endswith("in pixels of the image")
