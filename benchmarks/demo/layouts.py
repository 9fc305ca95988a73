"""The layouts of the demo data (`Task.demo_layout`): each generator writes one folder.

A generator is called with the folder of the whole demo data, the seed and the number of images of
each split; those of `voc` and `lvis` are the pictures of `coco`, which comes before them.
"""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from benchmarks.demo import figures, scenes, streets

SPLITS = ("train", "val")
CITIES = {"train": ("ashmere", "brookfield"), "val": ("cedarhaven",)}  # not real ones
# The class names of Pascal VOC are fixed, so the shapes borrow four of them: by COCO category (disc, plank, triangle,
# star). Its lists: the training images are dealt to both years in turn.
VOC_NAMES = {2: "bottle", 5: "train", 17: "sheep", 44: "bird"}
VOC_LISTS = {"train": (("VOC2007", "trainval"), ("VOC2012", "trainval")), "val": (("VOC2007", "test"),)}
LVIS_FREQUENCIES = ("f", "f", "c", "r")  # a long tail, in the order of the COCO ids
PHOTOS, SCENES, PEOPLE, STREETS = range(4)  # each kind of picture has generators of its own


def rng(seed: int, kind: int, split: str, index: int) -> np.random.Generator:
    """The generator of one picture: the same bytes whatever else is made."""
    return np.random.default_rng([seed, kind, SPLITS.index(split), index])


class _Kind(NamedTuple):
    """What a folder in COCO's layout holds."""

    folder: str
    number: int  # of its random generators
    make: Callable[[np.random.Generator, int], tuple[Image.Image, list[dict]]]
    stem: str  # of its annotation files
    categories: list[dict]


def _coco(kind: _Kind, data: Path, seed: int, counts: dict[str, int]) -> None:
    folder = data / kind.folder
    for split in SPLITS:
        images, annotations = [], []
        for index in range(counts[split]):
            number = 1 + index + 100_000 * SPLITS.index(split)
            picture, found = kind.make(rng(seed, kind.number, split, index), index)
            name = f"{number:012}.jpg"
            save(picture, folder / "images" / name)
            size = {"height": picture.height, "width": picture.width}
            images.append({"license": 1, "file_name": name, **size, "id": number})
            for annotation in found:
                # Numbers from 1, and none in both splits: pycocotools takes 0 for "no match".
                identity = 1 + len(annotations) + 1_000_000 * SPLITS.index(split)
                annotations.append({"id": identity, "image_id": number, **annotation})
        write_json(folder / "annotations" / f"{kind.stem}_{split}.json", {
            "info": {"description": "made-up demo data", "version": "1.0", "year": 2026},
            "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
            "images": images, "annotations": annotations, "categories": kind.categories,
        })


def _cityscapes(data: Path, seed: int, counts: dict[str, int]) -> None:
    folder = data / "cityscapes"
    for split in SPLITS:
        for index in range(counts[split]):
            picture, objects = streets.street(rng(seed, STREETS, split, index), index, counts[split])
            city = CITIES[split][index % len(CITIES[split])]
            name = f"{city}_{index:06}_000019"
            save(picture, folder / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
            truth = folder / "gtFine" / split / city
            instances = streets.paint_ids(objects, instances=True)
            labels = streets.paint_ids(objects, instances=False).astype(np.uint8)
            save(Image.fromarray(instances), truth / f"{name}_gtFine_instanceIds.png")
            save(Image.fromarray(labels), truth / f"{name}_gtFine_labelIds.png")
            write_json(truth / f"{name}_gtFine_polygons.json", {
                "imgHeight": picture.height, "imgWidth": picture.width,
                "objects": [{"label": label, "polygon": corners} for label, corners in objects],
            })


def _voc(data: Path, *_: object) -> None:
    """Each list has at least one picture of `coco`."""
    folder, coco = data / "voc", data / "coco"
    for split in SPLITS:
        content = _coco_file(data, split)
        lists = VOC_LISTS[split]
        for number, (year, listed) in enumerate(lists):
            ids = []
            for image in content["images"][number::len(lists)] or content["images"][:1]:
                name = Path(image["file_name"]).stem[-6:]  # six digits, as in VOC
                rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
                picture = folder / year / "JPEGImages" / f"{name}.jpg"
                picture.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(coco / "images" / image["file_name"], picture)
                _write(folder / year / "Annotations" / f"{name}.xml",
                       voc_annotation(picture.name, year, (image["width"], image["height"]), rows))
                ids.append(name)
            _write(folder / year / "ImageSets" / "Main" / f"{listed}.txt", "\n".join(ids) + "\n")


def voc_annotation(file_name: str, folder: str, size: tuple[int, int], objects: list[dict]) -> str:
    """The XML of one image of `size` (width, height) with COCO annotations `objects`: boxes of
    whole numbers that count from 1. A crowd is difficult: found or not, it does not count."""
    lines = ["<annotation>", f"<folder>{escape(folder)}</folder>", f"<filename>{escape(file_name)}</filename>",
             f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>",
             "<segmented>0</segmented>"]
    for found in objects:
        x, y, width, height = found["bbox"]
        sides = {"xmin": math.floor(x) + 1, "ymin": math.floor(y) + 1, "xmax": math.ceil(x + width),
                 "ymax": math.ceil(y + height)}
        box = "".join(f"<{name}>{value}</{name}>" for name, value in sides.items())
        lines.append(f"<object><name>{VOC_NAMES[found['category_id']]}</name><pose>Unspecified</pose>"
                     f"<truncated>0</truncated><difficult>{found['iscrowd']}</difficult><bndbox>{box}</bndbox></object>")
    return "\n".join([*lines, "</annotation>"]) + "\n"


def _lvis(data: Path, *_: object) -> None:
    """Classes are numbered from 1 and have a frequency; each image says which classes are not in it, and of which not
    every object is marked: that of a crowd, which LVIS has not."""
    for split in SPLITS:
        content = _coco_file(data, split)
        numbers = {category["id"]: number for number, category in enumerate(content["categories"], 1)}
        rows, images, annotations = content["annotations"], [], []
        instances, images_with = Counter(), Counter()
        for image in content["images"]:
            marked, crowded = set(), set()
            for row in rows:
                number = numbers[row["category_id"]]
                if row["image_id"] != image["id"]:
                    continue
                if row["iscrowd"]:
                    crowded.add(number)
                    continue
                marked.add(number)
                instances[number] += 1
                kept = {key: row[key] for key in ("id", "image_id", "bbox", "area", "segmentation")}
                annotations.append({**kept, "category_id": number})
            images_with.update(marked)
            images.append({
                "id": image["id"], "width": image["width"], "height": image["height"], "license": image["license"],
                "coco_url": f"http://example.org/images/{image['file_name']}",
                "neg_category_ids": sorted(set(numbers.values()) - marked - crowded),
                "not_exhaustive_category_ids": sorted(crowded)})
        categories = []
        for category, frequency in zip(content["categories"], LVIS_FREQUENCIES, strict=True):
            number, name = numbers[category["id"]], category["name"]
            categories.append({"id": number, "name": name, "synonyms": [name], "synset": f"{name}.n.01", "def": name,
                               "frequency": frequency, "image_count": images_with[number],
                               "instance_count": instances[number]})
        write_json(data / "lvis" / f"lvis_v1_{split}.json", {
            "info": content["info"], "licenses": content["licenses"], "images": images, "annotations": annotations,
            "categories": categories})


def _coco_file(data: Path, split: str) -> dict:
    return json.loads((data / "coco" / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))


def save(picture: Image.Image, path: Path) -> None:
    """With its folder; JPEG where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=92)  # which only JPEG looks at


def write_json(path: Path, content: dict) -> None:
    """With its folder."""
    _write(path, json.dumps(content))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# Another layout is another line here: the folder of the demo's data that it makes, and what writes it.
LAYOUTS: dict[str, Callable[[Path, int, dict[str, int]], None]] = {
    "coco": partial(_coco, _Kind("coco", SCENES, scenes.scene, "instances", scenes.CATEGORIES)),
    "keypoints": partial(_coco, _Kind("keypoints", PEOPLE, figures.group, "person_keypoints", [figures.CATEGORY])),
    "cityscapes": _cityscapes, "voc": _voc, "lvis": _lvis}
