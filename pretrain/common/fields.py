"""Checks of a field that was read from a file, which may be a stranger's. Standard library only."""

import math
import re

PRETRAINING_HASHES = ("recipe_sha256", "images_sha256")


def is_whole(value: object, least: float = -math.inf) -> bool:
    """A whole number from `least` on that fits 64 bits; true and false are none."""
    return type(value) is int and value >= least and -2**63 <= value < 2**63


def is_number(value: object, least: float = -math.inf, most: float = math.inf) -> bool:
    """A finite number from `least` to `most`; true and false are none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return least <= value <= most and abs(value) != math.inf  # false for NaN


def is_text(value: object) -> bool:
    """A printable text that is not empty."""
    return isinstance(value, str) and value.strip() != "" and value.isprintable()


def is_sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def is_pretraining(value: object) -> bool:
    """What `BackboneInfo.pretraining` holds: which pretraining of this project made a backbone."""
    return (isinstance(value, dict) and value.keys() == {"objective", "seed", *PRETRAINING_HASHES}
            and is_text(value["objective"]) and is_whole(value["seed"], 0)
            and all(is_sha256(value[key]) for key in PRETRAINING_HASHES))
