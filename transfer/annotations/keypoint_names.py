"""What the names of keypoints say: which change places in a mirror, and whether they are those of COCO's persons.

Standard library only.
"""

import re

# In COCO's order, to which its sigmas belong.
COCO_PERSON = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)
# The tolerance of each: pycocotools' own, which it takes for any 17 keypoints.
COCO_SIGMAS = tuple(tenths / 10 for tenths in (
    0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89))
OTHER_SIGMA = 0.05  # of each keypoint if they are not those of COCO's persons: near COCO's mean of 0.062
SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}


def words(name: str) -> tuple[str, ...]:
    """The lower-case words of a name in any style: left_eye, Left-Eye, leftEye, "left eye", L_Eye, eye.R."""
    return tuple(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+", name))


def is_coco_person(names: tuple[str, ...]) -> bool:
    """Whether these are the keypoints of COCO's persons, in their order."""
    return tuple(" ".join(words(name)) for name in names) == COCO_PERSON


def sigmas(names: tuple[str, ...]) -> list[float]:
    """The tolerance of each keypoint in the evaluation (object keypoint similarity)."""
    return list(COCO_SIGMAS) if is_coco_person(names) else [OTHER_SIGMA] * len(names)


def flip_pairs(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """(left, right) of the keypoints that change places when an image is mirrored, in the order of the left ones."""
    sides = _sides(names)
    pairs = []
    for name in names:
        side, rest = sides[name]
        left, right = ([other for other in names if sides[other] == (one, rest)] for one in ("left", "right"))
        if side == "left" and len(left) == len(right) == 1:
            pairs.append((name, right[0]))
    return pairs


def without_partner(names: tuple[str, ...]) -> list[str]:
    """Names of a left or right side that have no name, or several, on the other side."""
    sides, paired = _sides(names), {name for pair in flip_pairs(names) for name in pair}
    return [name for name in names if sides[name][0] and name not in paired]


def _sides(names: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """{name: ("left" or "right", the rest)}, by the first or last word; ("", name) for neither.

    In one word, as in lefteye or lknee, the side only counts where the other one is there too: a cleft is on no side.
    """
    together = {"".join(words(name)) for name in names}
    found = {}
    for name in names:
        own = words(name)
        joined = "".join(own)
        if own and own[0] in SIDES:
            found[name] = SIDES[own[0]], " ".join(own[1:])
        elif own and own[-1] in SIDES:
            found[name] = SIDES[own[-1]], " ".join(own[:-1])
        else:
            found[name] = _side_of_one_word(joined, together) or ("", joined)
    return found


def _side_of_one_word(word: str, together: set[str]) -> tuple[str, str] | None:
    for side, other in (("left", "right"), ("right", "left"), ("l", "r"), ("r", "l")):
        if word.startswith(side) and other + word.removeprefix(side) in together:
            return SIDES[side], word.removeprefix(side)
        if word.endswith(side) and word.removesuffix(side) + other in together:
            return SIDES[side], word.removesuffix(side)
    return None
