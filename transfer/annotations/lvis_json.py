"""One LVIS v1 annotation file: read and checked.

LVIS looks like COCO with three differences that matter here: an image is named by the end of its
`coco_url` (train2017/NAME or val2017/NAME, whichever split of LVIS it is in); each image says which
classes were looked for and not found, and which were not marked to the last; there are no crowds.
"""

from dataclasses import replace
from pathlib import Path

from pretrain.common.errors import UserError, refuse
from transfer import detectron2_compat
from transfer.annotations import agreement, coco_json
from transfer.annotations.coco_json import AREA, BOX, PIXELS, TEXT, WHOLE, CocoFile, Field, Table, by_id, raise_first


def _are_polygons(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(coco_json.are_numbers(part) and len(part) >= 6 and len(part) % 2 == 0 for part in value)


LIST: Field = ("a list", lambda value: isinstance(value, list))
POLYGONS: Field = ("polygons of at least three points: LVIS has no run lengths", _are_polygons)
FREQUENCY: Field = ("one of r, c, f (rare, common, frequent)", lambda value: value in ("r", "c", "f"))
LVIS: Table = {
    "images": {"id": WHOLE, "coco_url": TEXT, "width": PIXELS, "height": PIXELS, "neg_category_ids": LIST,
               "not_exhaustive_category_ids": LIST},
    "annotations": {"id": WHOLE, "image_id": WHOLE, "category_id": WHOLE, "bbox": BOX, "area": AREA,
                    "segmentation": POLYGONS},
    "categories": {"id": WHOLE, "name": TEXT, "frequency": FREQUENCY},
}


def require() -> None:
    """Make the package lvis ready, or raise `UserError`."""
    try:
        detectron2_compat.import_lvis()
    except ImportError:
        raise UserError("task lvis needs the package lvis, which is not installed: run `pip "
                        "install --no-deps lvis` (with its dependencies it would replace "
                        "opencv-python-headless)") from None


def read(path: Path, evaluated: bool = True) -> CocoFile:
    """Read and check the annotation file at `path`; raises `UserError` naming the first thing that
    is wrong.

    `evaluated`: False for a file that is only trained on. What was checked is noted, as of COCO's
    files.
    """
    return coco_json.noted(path, ["LVIS", str(path), evaluated], lambda: _read(path, evaluated))


def _read(path: Path, evaluated: bool) -> CocoFile:
    content = coco_json.load(path, "LVIS v1")
    raise_first(coco_json.table_problems(content, LVIS), path)
    for image in content["images"]:
        # The path below the image folder, as detectron2 takes it from the address.
        image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
    number = len(content["categories"])
    refuse((by_id(content["categories"]).keys() != set(range(1, number + 1)),
            f"{path}: the ids of the {number} categories are not 1 to {number}: expected LVIS's "
            "own, which detectron2 counts on"))
    raise_first(coco_json.repeated(content, "images", "file_name"), path)
    raise_first(coco_json.annotation_problems(content), path)
    objects = agreement.compare(content["annotations"], by_id(content["images"]), evaluated)
    objects.check(path)
    notes = tuple(f"warning: {path}: {line}" for line in objects.notes())
    return replace(coco_json.of_content(path, content), notes=notes)
