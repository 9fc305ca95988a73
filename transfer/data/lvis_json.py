"""One LVIS v1 annotation file: read and checked, and what its evaluation needs.

LVIS looks like COCO with three differences that matter here: an image is named by the end of its `coco_url`
(train2017/NAME or val2017/NAME, whichever split of LVIS it is in); each image says which classes were looked for and
not found, and which were not marked to the last; there are no crowds.
"""

from dataclasses import dataclass
from pathlib import Path

from pretrain.common.errors import UserError
from transfer import detectron2_compat
from transfer.data import coco_json

IMAGE_KEYS = ("id", "coco_url", "width", "height", "neg_category_ids", "not_exhaustive_category_ids")
ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area", "segmentation")
CATEGORY_KEYS = ("id", "name", "frequency")
FREQUENCIES = ("r", "c", "f")  # rare, common, frequent


@dataclass(frozen=True)
class LvisFile:
    """What a checked annotation file holds."""

    path: Path
    file_names: tuple[str, ...]  # train2017/NAME or val2017/NAME
    sizes: tuple[tuple[int, int], ...]  # (width, height) of each image
    categories: tuple[tuple[int, str], ...]  # sorted by id, from 1


def require() -> None:
    """Make the package lvis ready, or raise `UserError`."""
    try:
        detectron2_compat.import_lvis()
    except ImportError:
        raise UserError("task lvis needs the package lvis, which is not installed: run `pip install --no-deps lvis` "
                        "(with its dependencies it would replace opencv-python-headless)") from None


def read(path: Path) -> LvisFile:
    """Read and check the annotation file at `path`; raises `UserError` naming the first thing that is wrong."""
    content = coco_json.load(path, "LVIS v1")
    for key, wanted in (("images", IMAGE_KEYS), ("annotations", ANNOTATION_KEYS), ("categories", CATEGORY_KEYS)):
        coco_json.check_rows(path, key, content[key], wanted)
        coco_json.check_unique(path, key, len({row["id"] for row in content[key]}), content[key])
    coco_json.check_no_zero(path, content["annotations"])
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category for category in content["categories"]}
    if sorted(categories) != list(range(1, len(categories) + 1)):
        raise UserError(f"{path}: the ids of the {len(categories)} categories are not 1 to {len(categories)}: "
                        "expected LVIS's own, which detectron2 counts on")
    for category in content["categories"]:
        if category["frequency"] not in FREQUENCIES:
            raise UserError(f"{path}: category {category['id']} has frequency '{category['frequency']}': expected one "
                            f"of {', '.join(FREQUENCIES)} (rare, common, frequent)")
    for row in content["annotations"]:
        where = f"{path}: annotation {row['id']}"
        coco_json.check_links(where, row, images, categories)
        coco_json.check_box(where, row["bbox"], _named(images[row["image_id"]]))
        polygons = row["segmentation"]
        if not polygons or not all(len(part) >= 6 and len(part) % 2 == 0 for part in polygons):
            raise UserError(f"{where} has a mask that is not polygons of at least three points: expected those of "
                            "LVIS, which has no run lengths")
    return LvisFile(path, tuple(_named(image)["file_name"] for image in content["images"]),
                    tuple((image["width"], image["height"]) for image in content["images"]),
                    tuple((number, categories[number]["name"]) for number in sorted(categories)))


def _named(image: dict) -> dict:
    """`image` with the path below the image folder, as detectron2 takes it from the address."""
    return {**image, "file_name": "/".join(str(image["coco_url"]).split("/")[-2:])}
