"""COCO files as annotation tools export them, made plain: what detectron2 and pycocotools can read.

Ids from 0 (Label Studio, Roboflow), as text (VIA) or as floats; polygons that are not in a list (VIA). An annotation of
the id 0 counts as not found in pycocotools' evaluation.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from pretrain.common.atomic import sha256_file, write_text


def make_plain(content: dict) -> list[str]:
    """Change the lists of a COCO file in place; returns what was changed, in words."""
    changed = []
    if _change(content, {"images": ("id",), "categories": ("id",), "annotations": ("id", "image_id", "category_id")},
               _as_whole):
        changed.append("ids that are text or floats are read as whole numbers")
    if any(row.get("id") == 0 for row in content["annotations"] if isinstance(row, dict)):
        _change(content, {"annotations": ("id",)}, lambda number: number + 1)
        changed.append("annotation ids count from 0 and are read as counting from 1")
    if _change(content, {"annotations": ("segmentation",)}, _in_a_list):
        changed.append("polygons that are not in a list are read as lists of one")
    return changed


def write_plain(path: Path, content: dict) -> Path:
    """The plain `content` of the file at `path` as a file of its own, in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    plain = cache / "clove-suite" / "annotations" / f"{sha256_file(path)}.json"
    write_text(plain, json.dumps(content))
    return plain


def _change(content: dict, keys: dict[str, tuple[str, ...]], change: Callable) -> bool:
    """Replace the values under `keys` ({list: keys of its entries}); returns whether one became another."""
    changed = False
    for name, own in keys.items():
        for row in content[name]:
            for key in own:
                if isinstance(row, dict) and key in row:
                    before, row[key] = row[key], change(row[key])
                    changed = changed or before is not row[key]
    return changed


def _as_whole(value: object) -> object:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _in_a_list(mask: object) -> object:
    flat = isinstance(mask, list) and mask and all(isinstance(number, int | float) for number in mask)
    return [mask] if flat else mask
