"""A small dataset in COCO's format for the tests: the content of its files, and the files with their images."""

import json
from pathlib import Path

from PIL import Image

POLYGON = [[2, 2, 12, 2, 12, 12]]
RLE = {"size": [20, 30], "counts": [0, 5, 595]}


def content(names: tuple[str, ...] = ("a.png", "b.png"), keypoints: bool = False) -> dict:
    """A small valid annotation file: two images of 30 x 20 pixels, one object each, classes 3 and 7."""
    points = {"keypoints": [5, 5, 2, 0, 0, 0], "num_keypoints": 1} if keypoints else {}
    named = {"keypoints": ["left_eye", "right_eye"], "skeleton": [[1, 2]]} if keypoints else {}
    return {
        "images": [{"id": number, "file_name": name, "width": 30, "height": 20} for number, name in enumerate(names)],
        "annotations": [{"id": number + 1, "image_id": number, "category_id": 3, "bbox": [2, 2, 10, 10], "area": 50,
                         "iscrowd": 0, "segmentation": POLYGON, **points} for number in range(len(names))],
        "categories": [{"id": 7, "name": "plank", **named}, {"id": 3, "name": "disc", **named}],
    }


def write(folder: Path, files: dict[str, dict], images: str = "images") -> Path:
    for name, values in files.items():
        path = folder / "annotations" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
        split = "train" if "train" in name else "val"
        for row in values["images"]:
            place = folder / images.format(split=split) / row["file_name"]
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (row["width"], row["height"])).save(place)
    return folder
