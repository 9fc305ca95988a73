"""One COCO annotation file: read, checked, and told apart from everything that only looks like one.

What detectron2 and pycocotools would meet as a KeyError deep in the training is found here, before anything runs,
and said in one line. Boxes are (x, y, width, height) in pixels of the image.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pretrain.common.errors import UserError
from pretrain.common.fields import is_number, is_whole

ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
IMAGE_KEYS = ("id", "file_name", "width", "height")
_whole, _text = ("a whole number", is_whole), ("a text", lambda v: isinstance(v, str) and v)
_length = ("a whole number of pixels", lambda value: is_whole(value, 1))
# What stands in a field, in words and as a check; a field that is not named here is checked where it is used.
FIELDS: dict[str, tuple[str, Callable[[object], object]]] = {
    "id": _whole, "image_id": _whole, "category_id": _whole, "file_name": _text, "name": _text, "width": _length,
    "height": _length, "iscrowd": ("0 or 1", lambda value: value in (0, 1) and not isinstance(value, float)),
    "neg_category_ids": ("a list", lambda value: isinstance(value, list)),
    "not_exhaustive_category_ids": ("a list", lambda value: isinstance(value, list)),
    "area": ("a number of pixels", lambda value: is_number(value, 0))}
Categories = tuple[tuple[int, str], ...]
# Boxes of real files stick out by rounding; more than this many pixels is another box format or another image.
OUTSIDE_PIXELS = 2.0


@dataclass(frozen=True)
class CocoFile:
    """What a checked annotation file holds."""

    path: Path
    file_names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]  # (width, height) of each image
    categories: Categories  # sorted by id
    keypoint_names: tuple[str, ...]  # empty without keypoints
    skeleton: tuple[tuple[int, int], ...]  # pairs of keypoint numbers, from 1
    has_masks: bool  # every object has one; False: none has, or they were not asked for
    has_rle: bool  # an object that is no crowd has its mask as run lengths
    annotations: int


def read(path: Path, keypoints: bool = False, evaluated: bool = True) -> CocoFile:
    """Read and check the annotation file at `path`: boxes and masks where there are some, or `keypoints`.

    `evaluated`: False for a file that is only trained on. Raises `UserError` naming the file and the first thing that
    is wrong with it.
    """
    content = load(path)
    for key, wanted in (("images", IMAGE_KEYS), ("annotations", ANNOTATION_KEYS), ("categories", ("id", "name"))):
        check_rows(path, key, content[key], wanted)
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category for category in content["categories"]}
    check_unique(path, "images", len(images), content["images"])
    check_unique(path, "categories", len(categories), content["categories"])
    check_unique(path, "annotations", len({row["id"] for row in content["annotations"]}), content["annotations"])
    if evaluated:
        check_no_zero(path, content["annotations"])
    if len({category["name"] for category in content["categories"]}) < len(categories):
        raise UserError(f"{path}: names in 'categories' are not unique: expected a name of its own for each class")
    names = _keypoint_names(path, content["categories"]) if keypoints else ()
    has_masks = not keypoints and _have_masks(path, content["annotations"])
    has_rle, usable = False, 0
    for row in content["annotations"]:
        where = f"{path}: annotation {row['id']}"
        check_links(where, row, images, categories)
        if row.get("ignore"):
            raise UserError(f"{where} has 'ignore' set, which detectron2 cannot read: use 'iscrowd' or remove it")
        check_box(where, row["bbox"], images[row["image_id"]])
        crowd = bool(row["iscrowd"])
        if crowd and not evaluated:
            continue  # left out of the training
        if has_masks:
            has_rle |= _check_mask(where, row, images[row["image_id"]]) and not crowd
        usable += not crowd and (not keypoints or _check_keypoints(where, row, len(names)))
    if not usable:
        what = "object with a labelled keypoint" if keypoints else "object that is no crowd"
        raise UserError(f"{path} has {len(content['annotations'])} annotations but no {what}: "
                        "expected at least one to train on and to evaluate against")
    first = content["categories"][0]
    return CocoFile(
        path=path,
        file_names=tuple(image["file_name"] for image in content["images"]),
        sizes=tuple((image["width"], image["height"]) for image in content["images"]),
        categories=tuple((number, categories[number]["name"]) for number in sorted(categories)),
        keypoint_names=names,
        skeleton=_skeleton(path, first.get("skeleton") or [], len(names)) if names else (),
        has_masks=has_masks,
        has_rle=has_rle,
        annotations=len(content["annotations"]),
    )


def load(path: Path, kind: str = "COCO") -> dict:
    """The JSON object at `path` with its three lists, which are there and not empty; `kind` names the format."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))  # as pycocotools reads it: a byte order mark is refused
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): expected a {kind} annotation file") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}: expected a {kind} annotation file, a JSON object "
                        "with the lists 'images', 'annotations' and 'categories' (a list alone is a file of results)")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list) or not content[key]:
            found = ", ".join(sorted(map(str, content))) or "nothing"
            raise UserError(f"{path} has no '{key}': expected a {kind} annotation file with the non-empty lists "
                            f"'images', 'annotations' and 'categories', found {found}")
    return content


def check_rows(path: Path, kind: str, rows: list, keys: Iterable[str]) -> None:
    """Raise unless each entry of the list `kind` is an object with `keys`, and these are what `FIELDS` says."""
    checks = [(key, *FIELDS[key]) for key in keys if key in FIELDS]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{path}: entry {number} of '{kind}' is a {type(row).__name__}: expected an object")
        for key in keys:
            if key not in row:
                named = f" (id {row['id']})" if "id" in row else ""
                raise UserError(f"{path}: entry {number}{named} of '{kind}' has no '{key}': "
                                f"expected {', '.join(keys)} in each")
        for key, wanted, fits in checks:
            if not fits(row[key]):
                raise UserError(f"{path}: entry {number} (id {row['id']!r:.40}) of '{kind}' has {key} "
                                f"{row[key]!r:.40}: expected {wanted}")


def check_unique(path: Path, kind: str, unique: int, rows: list) -> None:
    """Raise unless the `unique` ids of the list `kind` are as many as its entries."""
    if unique < len(rows):
        raise UserError(f"{path}: ids in '{kind}' are not unique ({len(rows)} entries, {unique} ids)")


def check_no_zero(path: Path, annotations: list) -> None:
    """Raise when an annotation that detections are matched with has the id 0."""
    if any(row["id"] == 0 for row in annotations):
        raise UserError(f"{path}: an annotation has the id 0, which pycocotools takes for 'not matched', so that an "
                        "object that was found would count as missed: number the annotations from 1")


def check_links(where: str, row: dict, images: dict, categories: dict) -> None:
    """Raise unless the image and the category of an annotation are there."""
    if row["image_id"] not in images:
        raise UserError(f"{where} has image_id {row['image_id']}, which no entry of 'images' has")
    if row["category_id"] not in categories:
        raise UserError(f"{where} has category_id {row['category_id']}, which no entry of 'categories' has")


def check_box(where: str, box: object, image: dict) -> None:
    """Raise unless `box` is [x, y, width, height] inside its image."""
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        raise UserError(f"{where} has bbox {box}: expected [x, y, width, height] in pixels")
    x, y, width, height = box
    slack = OUTSIDE_PIXELS
    inside = (x >= -slack and y >= -slack and width >= 0 and height >= 0
              and x + width <= image["width"] + slack and y + height <= image["height"] + slack)
    if not inside:  # written so that NaN fails too
        raise UserError(f"{where} has bbox {box} outside its image {image['file_name']} ({image['width']} x "
                        f"{image['height']} pixels): expected [x, y, width, height], not corner coordinates")


def check_same_categories(train_path: Path, train: Categories, val_path: Path, val: Categories) -> None:
    """Raise unless the categories, (id, name) of each, of two annotation files are the same."""
    if train == val:
        return
    differ = []
    for half, extra in (("train", set(train) - set(val)), ("val", set(val) - set(train))):
        if extra:
            differ.append(f"only {half} has {', '.join(f'{number} {label}' for number, label in sorted(extra))}")
    raise UserError(f"the categories of {train_path} and {val_path} differ: {'; '.join(differ)}; expected the same ids "
                    "and names in both")


def _have_masks(path: Path, annotations: list[dict]) -> bool:
    """Whether the objects have masks; raises when some have and some have not. Crowds follow the objects."""
    objects = [row for row in annotations if not row["iscrowd"]]
    with_mask = sum(bool(row.get("segmentation")) for row in objects)
    if 0 < with_mask < len(objects):
        without = next(row for row in objects if not row.get("segmentation"))
        raise UserError(f"{path}: {with_mask} objects have a mask and {len(objects) - with_mask} have none (the first "
                        f"is annotation {without['id']}): expected 'segmentation' in each, for boxes and masks, or in "
                        "none, for boxes alone")
    return with_mask > 0


def _check_mask(where: str, row: dict, image: dict) -> bool:
    """Whether the mask is run lengths; raises when there is none, or one of another image."""
    mask = row.get("segmentation")
    if isinstance(mask, dict) and "counts" in mask and "size" in mask:
        counts, size = mask["counts"], [image["height"], image["width"]]
        whole = isinstance(counts, str) or (_are_numbers(counts) and sum(counts) == math.prod(size))
        if mask["size"] != size or not whole:
            raise UserError(f"{where} has run lengths that are not those of its image: expected size {size} and counts "
                            f"that add up to {math.prod(size)}, found size {mask['size']!r:.40}")
        return True
    polygons = [part for part in mask if isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0] \
        if isinstance(mask, list) else []
    if not polygons or not all(_are_numbers(part) for part in polygons):
        raise UserError(f"{where} has no mask ('segmentation' is {str(mask)[:40]}): Mask R-CNN needs a polygon of at "
                        "least three points, or run lengths, for every object")
    return False


def _are_numbers(values: object) -> bool:
    """Whether `values` is a list of finite numbers."""
    try:
        return isinstance(values, list) and math.isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def _keypoint_names(path: Path, categories: list[dict]) -> tuple[str, ...]:
    lists = {tuple(map(str, category.get("keypoints") or ())) for category in categories}
    if lists == {()}:
        raise UserError(f"{path} has no keypoints: task keypoints expects 'keypoints' (their names) in 'categories', "
                        "as in COCO's person_keypoints_train2017.json")
    if len(lists) > 1:
        raise UserError(f"{path}: the categories have different keypoints: expected one list of names for all of them")
    return lists.pop()


def _skeleton(path: Path, pairs: object, number: int) -> tuple[tuple[int, int], ...]:
    """The pairs of keypoint numbers, from 1; raises when they are none of the `number` keypoints."""
    try:
        found = tuple((a, b) for a, b in pairs)
        if all(is_whole(end, 1) and end <= number for pair in found for end in pair):
            return found
    except (TypeError, ValueError):
        pass
    raise UserError(f"{path}: 'skeleton' in 'categories' is {str(pairs)[:40]}: expected pairs of keypoint numbers from "
                    f"1 to {number}")


def _check_keypoints(where: str, row: dict, number: int) -> bool:
    """Whether at least one keypoint is labelled; raises when the list is not (x, y, visibility) per name."""
    points = row.get("keypoints")
    if not isinstance(points, list) or len(points) != 3 * number:
        found = f"{len(points)} values" if isinstance(points, list) else "none"
        raise UserError(f"{where} has keypoints with {found}: expected {3 * number}, x, y and visibility for each of "
                        f"the {number} names of its category")
    if not _are_numbers(points):
        raise UserError(f"{where} has keypoints that are no numbers: expected x, y and visibility of each")
    if type(row.get("num_keypoints")) is not int:
        raise UserError(f"{where} has no 'num_keypoints': expected the number of labelled keypoints, as COCO has it")
    return row["num_keypoints"] > 0
