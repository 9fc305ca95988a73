"""What the names of keypoints say: which change places in a mirror, and whether they are those of COCO's persons.

Standard library only, but for COCO's tolerances.
"""

import itertools
import re

# In COCO's order, to which its sigmas belong.
COCO_PERSON = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)
OTHER_SIGMA = 0.05  # of each keypoint if they are not those of COCO's persons: near COCO's mean of 0.062
SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}


def plain(name: str) -> str:
    """The lower-case words of a name in any style: left_eye, Left-Eye, leftEye, L_Eye, eye.R."""
    return " ".join(re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+", name)).lower()


def is_coco_person(names: tuple[str, ...]) -> bool:
    """Whether these are the keypoints of COCO's persons, in their order."""
    return tuple(plain(name) for name in names) == COCO_PERSON


def sigmas(names: tuple[str, ...]) -> list[float]:
    """The tolerance of each keypoint in the evaluation (object keypoint similarity)."""
    if is_coco_person(names):
        from pycocotools.cocoeval import Params

        return Params("keypoints").kpt_oks_sigmas.tolist()
    return [OTHER_SIGMA] * len(names)


def flip_pairs(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """(left, right) of the keypoints that change places when an image is mirrored.

    In the order of the left ones.
    """
    sides, pairs = _sides(names), []
    for name, (side, rest) in zip(names, sides, strict=True):
        partner = ("right", rest)
        if side == "left" and sides.count((side, rest)) == sides.count(partner) == 1:
            pairs.append((name, names[sides.index(partner)]))
    return pairs


def without_partner(names: tuple[str, ...]) -> list[str]:
    """Names of a left or right side that have no name, or several, on the other side."""
    paired = set(itertools.chain(*flip_pairs(names)))
    sides = zip(names, _sides(names), strict=True)
    return [name for name, (side, _) in sides if side and name not in paired]


def _sides(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """("left" or "right", the rest) of each name, by its first or last word; ("", name) for
    neither.

    In one word, as in lefteye or lknee, the side only counts where the other one is there too: a
    cleft is on no side.
    """
    together = {plain(name).replace(" ", "") for name in names}
    found = []
    for name in names:
        first, _, after = plain(name).partition(" ")
        before, _, last = plain(name).rpartition(" ")
        if first in SIDES:
            found.append((SIDES[first], after))
        elif last in SIDES:
            found.append((SIDES[last], before))
        else:
            found.append(_side_of_one_word(plain(name).replace(" ", ""), together))
    return found


def _side_of_one_word(word: str, together: set[str]) -> tuple[str, str]:
    for side, other in (("left", "right"), ("right", "left"), ("l", "r"), ("r", "l")):
        if word.startswith(side) and other + word.removeprefix(side) in together:
            return SIDES[side], word.removeprefix(side)
        if word.endswith(side) and word.removesuffix(side) + other in together:
            return SIDES[side], word.removesuffix(side)
    return "", word
