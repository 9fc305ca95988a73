"""Names of keypoints in every style: their sides, their partners, and COCO's own."""

import pytest

from transfer.annotations import keypoint_names

ANIMAL = ("L_Eye", "R_Eye", "Nose", "Neck", "Tail root", "L_Shoulder", "L_Elbow", "L_F_Paw", "R_Shoulder", "R_Elbow",
          "R_F_Paw", "L_Hip", "L_Knee", "L_B_Paw", "R_Hip", "R_Knee", "R_B_Paw")


STYLES = ("left_eye right_eye", "Left_Eye Right_Eye", "LEFT_EYE RIGHT_EYE", "leftEye rightEye", "LeftEye RightEye",
          "left-eye right-eye", "L_Eye R_Eye", "l_eye r_eye", "eye-l eye-r", "eye_left eye_right", "eyeL eyeR",
          "eye.L eye.R", "lefteye righteye", "eyeleft eyeright", "leye reye", "eyel eyer", "LEye REye", "l.eye r.eye",
          "left_eye_1 right_eye_1", "left_eye RightEye")


@pytest.mark.parametrize("pair", [*(tuple(style.split()) for style in STYLES), ("left eye", "right eye")])
def test_flip_pairs__any_style(pair: tuple[str, str]) -> None:
    for names in (("nose", *pair), (*reversed(pair), "tail")):
        assert keypoint_names.flip_pairs(names) == [pair]
        assert keypoint_names.without_partner(names) == []


def test_flip_pairs__of_an_animal() -> None:
    pairs = keypoint_names.flip_pairs(ANIMAL)
    assert len(pairs) == 7 and all(right == "R" + left[1:] for left, right in pairs)


@pytest.mark.parametrize("names", [
    ("nose", "neck", "tail_root"), ("lip", "rib", "ear"), ("upper", "lower"), ("bright_spot", "cleft"),
    ("lip", "rear", "collar", "tail"),
])
def test_flip_pairs__letters_in_a_word_are_no_side(names: tuple[str, ...]) -> None:
    assert keypoint_names.flip_pairs(names) == [] and keypoint_names.without_partner(names) == []


def test_without_partner__one_side_alone_or_one_side_twice() -> None:
    assert keypoint_names.without_partner(("left_eye", "right_ear", "nose")) == ["left_eye", "right_ear"]
    twice = ("left_eye", "Left_Eye", "right_eye")
    assert keypoint_names.flip_pairs(twice) == [] and keypoint_names.without_partner(twice) == list(twice)


def test_is_coco_person__names_and_order() -> None:
    names = tuple(name.replace(" ", "_") for name in keypoint_names.COCO_PERSON)
    assert keypoint_names.is_coco_person(names)
    assert keypoint_names.is_coco_person(tuple(name.title() for name in keypoint_names.COCO_PERSON))
    assert not keypoint_names.is_coco_person((*names[:1], *names[2:3], *names[1:2], *names[3:]))
    assert not keypoint_names.is_coco_person(ANIMAL) and len(ANIMAL) == len(names)
