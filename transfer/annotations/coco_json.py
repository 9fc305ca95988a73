"""One COCO annotation file: read and checked.

What detectron2 and pycocotools would meet as a KeyError deep in the training is found here, before
anything runs. A function ...problems yields what is wrong, the first thing first; `raise_first`
raises it. Boxes are (x, y, width, height) in pixels of the image.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pretrain.common.errors import UserError, refuse
from pretrain.common.fields import is_number, is_whole
from transfer.annotations import agreement, plain_coco
from transfer.annotations.check_notes import remember
from transfer.annotations.plain_coco import own_id

# Boxes of real files stick out by rounding; more than this many pixels is another box format or
# another image.
OUTSIDE_PIXELS = 2.0
TOO_LARGE = 2.0**53  # numpy's arrays hold no whole number far above
LARGEST = 2 * 89_478_485  # pixels: PIL's limit, above which it takes an image for a decompression bomb

Field = tuple[str, Callable[[object], object]]  # what is expected, and whether a value is that
Fields = dict[str, Field]
Table = dict[str, Fields]  # of the lists of a file


def are_numbers(values: object) -> bool:
    """Whether `values` is a list of finite numbers.

    One sum: a file of COCO has millions of coordinates.
    """
    try:
        return isinstance(values, list) and abs(sum(values)) < TOO_LARGE
    except (TypeError, OverflowError):
        return False


WHOLE: Field = ("a whole number", is_whole)
TEXT: Field = ("a text", lambda value: isinstance(value, str) and value)
PIXELS: Field = ("a whole number of pixels", lambda value: is_whole(value, 1))
AREA: Field = ("a number of pixels", lambda value: is_number(value, 0))
BOX: Field = ("[x, y, width, height] in pixels", lambda value: are_numbers(value) and len(value) == 4)
FLAG: Field = ("0 or 1", lambda value: value in (0, 1) and not isinstance(value, float))
COCO: Table = {
    "images": {"id": WHOLE, "file_name": TEXT, "width": PIXELS, "height": PIXELS},
    "annotations": {"id": WHOLE, "image_id": WHOLE, "category_id": WHOLE, "bbox": BOX, "area": AREA, "iscrowd": FLAG},
    "categories": {"id": WHOLE, "name": TEXT},
}


@dataclass(frozen=True)
class CocoFile:
    """What a checked annotation file holds."""

    path: Path
    images: dict[str, list[int]]  # file name -> [width, height]
    categories: list[tuple[int, str]]  # (id, name), sorted by id
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()  # pairs of keypoint numbers, from 1
    has_masks: bool = False  # every object has one; False: none has, or they were not asked for
    has_rle: bool = False  # an object that is not a crowd has its mask as run lengths
    notes: tuple[str, ...] = ()  # what was changed to read it, and what is wrong with a few of its objects
    crowds_as_objects: bool = False  # whether its crowds were read as single objects
    plain: Path | None = None  # where its plain content stands, if it is not the file's own


def read(path: Path, keypoints: bool = False, evaluated: bool = True, crowds_as_objects: bool = False) -> CocoFile:
    """Read and check the annotation file at `path`: boxes and masks where there are some, or
    `keypoints`.

    `evaluated`: False for a file that is only trained on. Raises `UserError` naming the file and
    the first thing that is wrong with it. A file that was read before and is as it was is not read
    again, see `check_notes`.
    """
    options = keypoints, evaluated, crowds_as_objects
    file = noted(path, ["COCO", str(path), *options], lambda: _read(path, *options))
    if file.plain and not file.plain.is_file():  # the user emptied the cache in part
        return _read(path, *options)
    return file


def noted(path: Path, facts: list, check: Callable[[], CocoFile]) -> CocoFile:
    """What `check` finds in the file at `path`, or found when the file and `facts` were as they
    are."""
    found = remember([path], facts, lambda: vars(check()))
    # A note is JSON: lists where a `CocoFile` has tuples, text where it has a path.
    return CocoFile(**{
        **found, "path": path, "plain": found["plain"] and Path(found["plain"]),
        "categories": [tuple(category) for category in found["categories"]],
        "keypoint_names": tuple(found["keypoint_names"]), "skeleton": tuple(map(tuple, found["skeleton"])),
        "notes": tuple(found["notes"])})


def _read(path: Path, keypoints: bool, evaluated: bool, crowds_as_objects: bool) -> CocoFile:
    content = load(path)
    changed = plain_coco.make_plain(content, crowds_as_objects)
    raise_first(_problems(content, keypoints, evaluated), path)
    objects = agreement.compare(content["annotations"], by_id(content["images"]), evaluated, keypoints)
    objects.check(path)
    notes = [f"{path}: {line}" for line in changed] + [f"warning: {path}: {line}" for line in objects.notes()]
    file = replace(of_content(path, content), notes=tuple(notes), crowds_as_objects=crowds_as_objects)
    if changed:
        file = replace(file, plain=plain_coco.write_plain(path, content))
    if keypoints:
        category = content["categories"][0]
        names = tuple(map(str, category["keypoints"]))
        skeleton = tuple(map(tuple, category.get("skeleton") or []))
        return replace(file, keypoint_names=names, skeleton=skeleton)
    masks = [row.get("segmentation") for row in content["annotations"] if not row["iscrowd"]]
    has_rle = any(isinstance(mask, dict) and "counts" in mask for mask in masks)
    return replace(file, has_masks=bool(masks[0]), has_rle=has_rle)


def of_content(path: Path, content: dict) -> CocoFile:
    """What the checked `content` of the file at `path` says of images and categories."""
    images = {image["file_name"]: [image["width"], image["height"]] for image in content["images"]}
    categories = sorted((category["id"], category["name"]) for category in content["categories"])
    return CocoFile(path, images, categories)


def load(path: Path, kind: str = "COCO") -> dict:
    """The JSON object at `path` with its three lists, which are there and not empty; `kind` names
    the format."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))  # as pycocotools reads it: a byte order mark is refused
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): expected a {kind} annotation file") from None
    expected = f"expected a {kind} annotation file, a JSON object with the non-empty lists {', '.join(COCO)}"
    refuse((not isinstance(content, dict),
            f"{path}: found a {type(content).__name__}: {expected} (a list alone is a file of "
            "results)"))
    for name in COCO:
        refuse((not isinstance(content.get(name), list) or not content[name],
                f"{path}: '{name}' is missing or empty: {expected}, found "
                f"{', '.join(content) or 'none'}"))
    return content


def raise_first(problems: Iterator[str], place: Path) -> None:
    """Raise `UserError` for the first of `problems`, of the file `place`, if there is one.

    The iterator is not continued: what it does after a problem may assume that there was none.
    """
    problem = next(problems, None)
    if problem is not None:
        raise UserError(f"{place}: {problem}")


def table_problems(content: dict, table: Table) -> Iterator[str]:
    """Entries of the lists in `table` that do not have its fields, and ids that two entries share.
    """
    for name, fields in table.items():
        for number, row in enumerate(content[name]):
            if not isinstance(row, dict):
                yield f"entry {number} of '{name}' is a {type(row).__name__}: expected an object"
            problem = _field_problem(row, fields)
            if problem:
                yield f"entry {number} (id {own_id(row)!r:.40}) of '{name}' {problem}"
        if "id" in fields:
            yield from repeated(content, name, "id")


def _field_problem(row: dict, fields: Fields) -> str | None:
    for key, (expected, fits) in fields.items():
        if key not in row:
            return f"has no '{key}': expected {', '.join(fields)} in each"
        if not fits(row[key]):
            return f"has {key} {row[key]!r:.40}: expected {expected}"
    return None


def repeated(content: dict, name: str, key: str) -> Iterator[str]:
    """A value of `key` that several entries of the list `name` have; ./a.png is the file a.png."""
    values = [row[key] for row in content[name]]
    if key == "file_name":
        values = map(os.path.normpath, values)
    value, times = Counter(values).most_common(1)[0]
    if times > 1:
        if key == "id":
            value = next(own_id(row) for row in content[name] if row[key] == value)
        yield f"{times} entries of '{name}' have {key} {value!r}: expected a different one in each"


def annotation_problems(content: dict, evaluated: bool = True) -> Iterator[str]:
    """Images that nobody can open, annotations whose image or category is not there, boxes outside
    their image."""
    images, categories = by_id(content["images"]), by_id(content["categories"])
    for image in content["images"]:
        if image["width"] * image["height"] > LARGEST:
            yield (f"image {image['file_name']} has {image['width']} x {image['height']} pixels: "
                   f"expected at most {LARGEST}, larger ones are not opened")
    for row in content["annotations"]:
        where = f"annotation {own_id(row)} has"
        if evaluated and row["id"] == 0:
            yield (f"{where} the id 0, which pycocotools takes for 'not matched', so that an "
                   "object that was found would count as missed: number the annotations from 1")
        for key, name, there in (("image_id", "images", images), ("category_id", "categories", categories)):
            if row[key] not in there:
                yield f"{where} {key} {row[key]}, which no entry of '{name}' has"
        image = images[row["image_id"]]
        x, y, width, height = row["bbox"]
        inside = (x >= -OUTSIDE_PIXELS and y >= -OUTSIDE_PIXELS and width >= 0 and height >= 0
                  and x + width <= image["width"] + OUTSIDE_PIXELS and y + height <= image["height"] + OUTSIDE_PIXELS)
        if not inside:
            yield (f"{where} bbox {row['bbox']} outside its image {image['file_name']} "
                   f"({image['width']} x {image['height']} pixels): expected [x, y, width, "
                   "height], not corner coordinates")


def by_id(rows: list[dict]) -> dict[int, dict]:
    return {row["id"]: row for row in rows}


def _problems(content: dict, keypoints: bool, evaluated: bool) -> Iterator[str]:
    yield from table_problems(content, COCO)
    yield from repeated(content, "categories", "name")
    yield from repeated(content, "images", "file_name")
    yield from annotation_problems(content, evaluated)
    rows = content["annotations"]
    for row in rows:
        if row.get("ignore", 0) != 0:
            yield f"annotation {own_id(row)} has 'ignore' set, which detectron2 cannot read: use 'iscrowd' or remove it"
    objects = [row for row in rows if not row["iscrowd"]]
    if not objects:
        yield (f"all {len(rows)} annotations are crowds: expected at least one object to train on "
               "and to evaluate; if they are brush masks of single objects, as CVAT writes them, "
               "--crowds-as-objects reads them so")
    used = rows if evaluated else objects  # crowds are left out of a training
    if keypoints:
        yield from _keypoint_problems(content, used)
    else:
        yield from _mask_problems(content, objects, used, evaluated)
    for row in rows:  # detectron2 reads them whatever the task
        if row.get("keypoints") and not are_numbers(row["keypoints"]):
            yield f"annotation {own_id(row)} has keypoints {row['keypoints']!r:.40}: expected a list of numbers"


def _mask_problems(content: dict, objects: list[dict], used: list[dict], evaluated: bool) -> Iterator[str]:
    """`used`: the annotations whose masks are read, in an evaluation crowds too."""
    without = [own_id(row) for row in objects if not row.get("segmentation")]
    if len(without) == len(objects):
        return  # boxes alone
    if without:
        yield (f"{len(objects) - len(without)} objects have a mask and {len(without)} have none "
               f"(the first is annotation {without[0]}): expected 'segmentation' in each, for "
               "boxes and masks, or in none, for boxes alone")
    images = by_id(content["images"])
    for row in used:
        image = images[row["image_id"]]
        problem = _mask_problem(row.get("segmentation"), [image["height"], image["width"]], evaluated)
        if problem:
            yield f"annotation {own_id(row)} has {problem}"


def _mask_problem(mask: object, size: list[int], evaluated: bool) -> str | None:
    """`size`: [height, width] of the image. detectron2 leaves parts of fewer than three points out
    of a training; the evaluator takes four numbers for a box."""
    if isinstance(mask, dict) and "counts" in mask and "size" in mask:
        counts = mask["counts"]
        whole = isinstance(counts, str) or (are_numbers(counts) and sum(counts) == math.prod(size))
        if mask["size"] == size and whole:
            return None
        return (f"run lengths that are not those of its image: expected size {size} and counts "
                f"that add up to {math.prod(size)}, found size {mask['size']!r:.40}")
    if isinstance(mask, list):
        polygons = [part for part in mask if isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0]
        whole = len(polygons) == len(mask) or not evaluated
        if polygons and whole and all(map(are_numbers, mask)):
            return None
    return (f"no mask ('segmentation' is {str(mask)[:40]}): expected polygons of at least three "
            "points each, or run lengths, for every object")


def _keypoint_problems(content: dict, used: list[dict]) -> Iterator[str]:
    """`used`: the annotations that are read, in an evaluation crowds too."""
    first, *others = content["categories"]
    names = first.get("keypoints")
    if not isinstance(names, list) or not names:
        yield ("no keypoints: expected 'keypoints' (their names) in 'categories', as in COCO's "
               "person_keypoints_train2017.json")
    for other in others:
        if other.get("keypoints") != names:
            yield "the categories have different keypoints: expected one list of names for all of them"
    skeleton = first.get("skeleton") or []
    if not isinstance(skeleton, list) or not all(_is_bone(pair, len(names)) for pair in skeleton):
        yield (f"'skeleton' in 'categories' is {str(skeleton)[:40]}: expected pairs of keypoint "
               f"numbers from 1 to {len(names)}")
    fields: Fields = {
        "keypoints": (f"{3 * len(names)} numbers, x, y and visibility for each of the {len(names)} "
                      "names",
                      lambda points: are_numbers(points) and len(points) == 3 * len(names)),
        "num_keypoints": ("the number of labelled keypoints", is_whole),
    }
    learned = 0
    for row in used:
        problem = _field_problem(row, fields)
        if problem:
            yield f"annotation {own_id(row)} {problem}"
        labelled = sum(flag > 0 for flag in row["keypoints"][2::3])
        if labelled != row["num_keypoints"]:
            yield (f"annotation {own_id(row)} has num_keypoints {row['num_keypoints']}: expected "
                   f"{labelled}, the number of its keypoints with a visibility above 0")
        learned += labelled > 0 and not row["iscrowd"]
    if not learned:
        yield f"none of {len(used)} objects has a labelled keypoint: expected at least one"


def _is_bone(pair: object, keypoints: int) -> bool:
    if not isinstance(pair, list) or len(pair) != 2:
        return False
    return all(is_whole(end, 1) and end <= keypoints for end in pair)


def raise_unless_alike(train: CocoFile, val: CocoFile) -> None:
    """Raise `UserError` unless both halves of a dataset have the same categories, keypoints and
    parts."""
    only_train, only_val = _without(train.categories, val.categories), _without(val.categories, train.categories)
    has_none, has = sorted((train, val), key=lambda file: file.has_masks)
    refuse(
        (train.categories != val.categories,
         f"{val.path}: categories that differ from those of {train.path}: expected the same ids "
         f"and names in both, found {only_train} only in train and {only_val} only in val"),
        (train.keypoint_names != val.keypoint_names,
         f"{val.path}: keypoints {', '.join(val.keypoint_names)}: expected those of {train.path}, "
         f"{', '.join(train.keypoint_names)}"),
        (train.has_masks != val.has_masks,
         f"{val.path}: the objects of {has.path} have masks, those of {has_none.path} have none: "
         "expected masks in both, or boxes alone in both"))


def _without(categories: list, others: list) -> str:
    return ", ".join(f"{number} {name}" for number, name in sorted(set(categories) - set(others))) or "none"
