"""Cityscapes' files against what detectron2 and cityscapesscripts read of them.

A fault there is a KeyError or a ValueError that names no file, most of them after the training.
"""

import functools
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from pretrain.common.errors import UserError, refuse
from pretrain.common.fields import is_whole
from transfer.annotations.check_notes import remember
from transfer.data.dataset import Opened
from transfer.data.image_check import in_threads, open_images

Files = tuple[str, str, str, str]  # image, instanceIds, labelIds, polygons
SIXTEEN_BITS, EIGHT_BITS = ("I;16", "I;16B", "I"), ("L", "P")  # PIL's names of images with one channel
GROUP = "group"  # ends the label of a region with several objects


def check_files(half: str, files: list[Files]) -> Opened:
    """Check images and annotations of a half; raises `UserError` naming the first file that cannot
    be used.

    Of what is evaluated ("val") everything is decoded; of the rest the headers, the polygons and a
    share of the images.
    """
    paths = [Path(path) for group in files for path in group]
    return Opened(**remember(paths, [half, "Cityscapes"], lambda: asdict(_check(half, files))))


def _check(half: str, files: list[Files]) -> Opened:
    rows, images = [], []
    for group in files:
        size = check_polygons(Path(group[-1]))
        rows.append((group, size))
        images.append((Path(group[0]), size))
    opened = open_images(half, images)
    check = functools.partial(_check_numbers, decode=half == "val")
    for _ in in_threads(check, rows, f"{half}: checking annotations", len(files)):
        pass
    return opened


def check_polygons(path: Path) -> tuple[int, int]:
    """Check the polygons of one image, which detectron2 trains on; returns (width, height) in
    pixels."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): expected the polygons of an image") from None
    refuse((not isinstance(content, dict) or not isinstance(content.get("objects"), list),
            f"{path}: expected an object with imgWidth, imgHeight and the list 'objects'"))
    for side in ("imgWidth", "imgHeight"):
        refuse((not is_whole(content.get(side), 1),
                f"{path}: {side} is {content.get(side)!r:.40}: expected a whole number of pixels"))
    numbers = _label_numbers()
    for place, row in enumerate(content["objects"]):
        refuse((not isinstance(row, dict) or not isinstance(row.get("label"), str),
                f"{path}: object {place} has no 'label': expected a name of Cityscapes' labels"))
        if "deleted" in row:
            continue  # detectron2 leaves it out
        label = row["label"]
        number = numbers.get(label, numbers.get(label.removesuffix(GROUP)))
        refuse(
            (number is None, f"{path}: object {place} is labelled '{label}': expected one of "
                             f"Cityscapes' labels, or one with '{GROUP}'"),
            (number is not None and number >= 0 and not _is_polygon(row.get("polygon")),
             f"{path}: object {place} ({label}) has the polygon {str(row.get('polygon'))[:40]}: "
             "expected at least three points [x, y]"))
    return content["imgWidth"], content["imgHeight"]


@functools.cache
def _label_numbers() -> dict[str, int]:
    from cityscapesscripts.helpers.labels import name2label

    return {name: label.id for name, label in name2label.items()}


def _is_polygon(points: object) -> bool:
    """Whether shapely, with which detectron2 reads it, makes a polygon of it."""
    from shapely.geometry import Polygon

    try:
        corners = np.asarray(points, dtype="f4")
        return corners.ndim == 2 and corners.shape[1] == 2 and bool(np.isfinite(corners).all() and Polygon(corners))
    except (TypeError, ValueError):
        return False


def _check_numbers(row: tuple[Files, tuple[int, int]], decode: bool) -> None:
    """Check the two files with a number for each pixel: what the evaluation and the probe read."""
    (_, instance_file, label_file, _), size = row
    instances = _numbers(Path(instance_file), SIXTEEN_BITS, "16 bits", size, decode)
    labels = _numbers(Path(label_file), EIGHT_BITS, "8 bits", size, decode)
    if not decode:
        return
    of_instances = np.where(instances >= 1000, instances // 1000, instances)
    wrong = instances[~np.isin(of_instances, list(_label_numbers().values()))]
    if wrong.size:
        raise UserError(f"{instance_file}: pixels have the number {wrong.min()}: expected a label "
                        "of Cityscapes, or 1000 times a label and the number of the object")
    refuse((2 * np.count_nonzero(of_instances == labels) < labels.size,
            f"{instance_file}: most pixels have other labels than in {label_file}: expected "
            "Cityscapes' label ids in both (not training ids)"))


def _numbers(path: Path, modes: tuple[str, ...], depth: str, size: tuple[int, int], decode: bool) -> np.ndarray:
    """(H, W) numbers, (0,) without `decode`; `modes` are those of PIL that have the `depth`."""
    try:
        with Image.open(path) as image:
            mode, found = image.mode, image.size
            numbers = np.array(image) if decode else np.empty(0)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): replace it or take it out") from None
    refuse(
        (mode not in modes,
         f"{path} has pixels of the kind {mode}: expected one channel of {depth}, as Cityscapes' "
         "own files have"),
        (found != size,
         f"{path} is {found[0]} x {found[1]} pixels but the polygons beside it say {size[0]} x "
         f"{size[1]}: expected one size"))
    return numbers
