"""COCO files as annotation tools export them, made plain: what detectron2 and pycocotools can read.

Ids from 0 (Label Studio, Roboflow), as text (VIA) or as floats; polygons that are not in a list
(VIA); brush masks as crowds (CVAT). An annotation of the id 0 counts as not found in pycocotools'
evaluation. What gets another id keeps that of its file under OWN_ID, for messages and for
predictions.
"""

import contextlib
import hashlib
import io
import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.common.atomic import sha256_file, write_text
from pretrain.common.errors import UserError
from transfer.annotations import keypoint_names
from transfer.annotations.user_cache import cache_folder

if TYPE_CHECKING:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

OWN_ID = "id_in_its_file"
WHOLE = re.compile(r"0|-?[1-9][0-9]*")
REFERENCES = {"images": "image_id", "categories": "category_id"}  # of annotations


def make_plain(content: dict, crowds_as_objects: bool = False) -> list[str]:
    """Change the lists of a COCO file in place; returns what was changed, in words.

    crowds_as_objects: read what is marked as a crowd as a single object.
    """
    rows, changed, flat, crowds = content["annotations"], [], False, 0
    for row in itertools.chain(content["images"], content["categories"], rows):
        if not isinstance(row, dict):
            return []  # the checks name it
    if _whole_ids(content):
        changed.append("ids that are text or floats are read as whole numbers")
    if _count_from_one(rows):
        changed.append("annotation ids count from 0 and are read as counting from 1")
    for row in rows:
        mask = row.get("segmentation")
        if isinstance(mask, list) and mask and isinstance(mask[0], int | float):
            row["segmentation"], flat = [mask], True
        if crowds_as_objects and row.get("iscrowd") == 1:
            row["iscrowd"] = 0
            crowds += 1
    if flat:
        changed.append("polygons that are not in a list are read as lists of one")
    if crowds:
        changed.append(f"{crowds} of {len(rows)} annotations are crowds and are read as single "
                       "objects")
    return changed


def sha256(path: Path, crowds_as_objects: bool) -> str:
    """What identifies the annotations in the file at `path`: its SHA-256, another one if its crowds
    are objects."""
    found = sha256_file(path)
    if crowds_as_objects:
        return hashlib.sha256(f"{found} crowds as objects".encode()).hexdigest()
    return found


def own_id(row: dict) -> object:
    """The id that an entry has in its file."""
    return row.get(OWN_ID, row.get("id"))


def own_ids(plain: Path) -> dict[str, object]:
    """What kept predictions need of a file that `write_plain` wrote: `image_ids`, {id: id in the
    file that was read}, and `category_ids`, the latter in the order of the classes."""
    content = json.loads(plain.read_text(encoding="utf-8"))
    categories = sorted(content["categories"], key=lambda row: row["id"])
    return {"image_ids": {row["id"]: own_id(row) for row in content["images"]},
            "category_ids": [own_id(row) for row in categories]}


def write_plain(path: Path, content: dict) -> Path:
    """The plain `content` of the file at `path` as a file of its own, in the user's cache."""
    text = json.dumps(content)
    plain = cache_folder() / "annotations" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    try:
        write_text(plain, text)
    except OSError as error:
        raise UserError(f"{plain} cannot be written ({error.strerror}): expected a folder for a "
                        f"copy of {path} with plain ids; name one in XDG_CACHE_HOME") from None
    return plain


def read_truth(path: Path, predictions: list[dict], crowds_as_objects: bool = False) -> "tuple[COCO, list[dict]]":
    """The ground truth of the annotation file `path`, made plain, and `predictions` (COCO's result
    format, the ids of the file) with its ids: what pycocotools evaluates."""
    from pycocotools.coco import COCO

    content = json.loads(path.read_text(encoding="utf-8"))
    make_plain(content, crowds_as_objects)
    truth = COCO()
    truth.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    predictions = [{**row} for row in predictions]
    for name, key in REFERENCES.items():
        _renumber(predictions, key, {id_text(own_id(row)): row["id"] for row in content[name]})
    return truth, predictions


def evaluation_of(truth: "COCO", found: "COCO", iou_type: str) -> "COCOeval":
    """pycocotools' evaluation; of keypoints with the tolerances that belong to their names."""
    import numpy as np
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(truth, found, iou_type)
    names = truth.dataset["categories"][0].get("keypoints")
    if iou_type == "keypoints" and names:
        evaluation.params.kpt_oks_sigmas = np.array(keypoint_names.sigmas(tuple(map(str, names))))
    return evaluation


def id_text(own: object) -> str | None:
    """An id as text, the same for 7, 7.0 and "7"; None for what is none."""
    if isinstance(own, float) and own.is_integer():
        own = int(own)
    return str(own) if isinstance(own, str | int) and not isinstance(own, bool) else None


def _whole_ids(content: dict) -> bool:
    """Make all ids, and what refers to them, whole numbers; returns whether one was none."""
    changed = False
    for name in ("images", "categories", "annotations"):
        numbers = _numbers(content[name])
        changed |= _renumber(content[name], "id", numbers)
        if name in REFERENCES:
            changed |= _renumber(content["annotations"], REFERENCES[name], numbers)
    return changed


def _numbers(rows: list[dict]) -> dict[str, int]:
    """A number for each id of a list, as text: the one that it is, or counted from 1 where one is
    no number.

    None at all where an entry has nothing that can be an id: the checks name it.
    """
    own = [id_text(row.get("id")) for row in rows]
    if None in own:
        return {}
    if all(WHOLE.fullmatch(text) for text in own):
        return {text: int(text) for text in own}
    return {text: number for number, text in enumerate(dict.fromkeys(own), start=1)}


def _renumber(rows: list[dict], key: str, numbers: dict[str, int]) -> bool:
    """Replace the ids under `key` by their numbers; returns whether one was another."""
    changed = False
    for row in rows:
        own = row.get(key)
        number = numbers.get(id_text(own), own)
        if number is own or (type(own) is int and number == own):
            continue
        if key == "id":
            row[OWN_ID] = own
        row[key], changed = number, True
    return changed


def _count_from_one(rows: list[dict]) -> bool:
    """Let whole ids count from 1 if one of them is 0."""
    numbers = [row.get("id") for row in rows]
    if 0 not in numbers or not all(type(number) is int for number in numbers):
        return False
    less = min(numbers) - 1
    for row in rows:
        row.setdefault(OWN_ID, row["id"])
        row["id"] -= less
    return True
