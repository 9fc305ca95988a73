"""Pascal VOC by folder: its lists and annotations read and checked, its objects in detectron2's form.

What detectron2's loader and its VOC evaluation would meet as an AttributeError after the training
is found here and said in one line. A box of the files counts pixels from 1 and includes its last
one; detectron2's form is (x0, y0, x1, y1) in pixels from 0 with the end outside, so 1 is taken from
the first two (as detectron2's loader does).
"""

import hashlib
import math
from pathlib import Path
from xml.etree import ElementTree

from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from detectron2.structures import BoxMode

from pretrain.common.atomic import sha256_file
from pretrain.common.errors import UserError, refuse
from transfer.annotations.check_notes import remember
from transfer.data.image_check import missing, refuse_missing

# The literature's split: both years' trainval, 2007's test, whose figures take the 11-point metric
# of that year.
PARTS = {"train": (("VOC2007", "trainval"), ("VOC2012", "trainval")), "val": (("VOC2007", "test"),)}
YEAR = 2007
LISTS, IMAGES, XML = "ImageSets/Main", "JPEGImages", "Annotations"
OUTSIDE_PIXELS = 2.0  # boxes of the real files stick out by rounding


def list_images(root: Path, split: str) -> list[tuple[Path, Path]]:
    """(image, annotation) of every image that the lists of `split` name; `UserError` for a list or
    file missing."""
    found = []
    for year, name in PARTS[split]:
        listed, images, annotations = root / year / LISTS / f"{name}.txt", root / year / IMAGES, root / year / XML
        try:
            names = listed.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{listed} cannot be read ({error}): expected the list of the images "
                            f"of {year} {name}, one identifier per line") from None
        repeated = len(names) - len(set(names))
        refuse(
            (not names, f"{listed}: no image: expected one identifier per line"),
            (repeated, f"{listed}: {repeated} images are named more than once: expected each "
                       "identifier once (a list with -1, 0 or 1 behind each is one class's, not "
                       "the whole)"))
        for folder, suffix in ((images, ".jpg"), (annotations, ".xml")):
            files = [f"{name}{suffix}" for name in names]
            refuse_missing(listed, folder, missing(folder, files), files)
        for stem in names:
            found.append((images / f"{stem}.jpg", annotations / f"{stem}.xml"))
    return found


def load(root: Path, split: str) -> list[dict]:
    """All images of a split in detectron2's form; "difficult" objects are there, as in the
    literature's training.

    Raises `UserError` naming the first file that is not as it should be.
    """
    records, counted = [], 0
    for image, annotation in list_images(root, split):
        try:
            tree = ElementTree.parse(annotation).getroot()
        except ElementTree.ParseError as error:
            raise UserError(f"{annotation} is not XML ({error}): expected a Pascal VOC annotation") from None
        width, height = _number(tree, "size/width"), _number(tree, "size/height")
        refuse((not (width > 0 and height > 0),  # written so that NaN fails too
                f"{annotation}: size is {width:g} x {height:g}: expected width and height in pixels"))
        rows = []
        for number, element in enumerate(tree.iter("object")):
            where = f"{annotation}: object {number}"
            rows.append(_read_object(element, where, (width, height), evaluated=split == "val"))
            counted += split == "train" or _number(element, "difficult") == 0
        records.append({"file_name": str(image), "image_id": image.stem, "width": int(width), "height": int(height),
                        "annotations": rows})
    refuse((not counted, f"{root}: no object to find in {len(records)} {split} images (none at "
                         "all, or all of val 'difficult'): expected at least one"))
    return records


def check(root: Path, split: str) -> tuple[list[tuple[Path, tuple[int, int]]], str]:
    """Every (image, (width, height)) of a split, and the `digest` of its annotations, all of them
    read and checked.

    Annotations that were checked before and are as they were are not read again, see `check_notes`.
    """
    images, annotations = zip(*list_images(root, split), strict=True)
    found = remember(annotations, ["VOC", split], lambda: {
        "sizes": [(record["width"], record["height"]) for record in load(root, split)], "digest": digest(root, split)})
    return list(zip(images, map(tuple, found["sizes"]), strict=True)), found["digest"]


def digest(root: Path, split: str) -> str:
    """One SHA-256 over the names and contents of all annotations of a split, in the order of the
    lists."""
    total = hashlib.sha256()
    for _, annotation in list_images(root, split):
        total.update(f"{annotation.relative_to(root).as_posix()} {sha256_file(annotation)}\n".encode())
    return total.hexdigest()


def _read_object(element: ElementTree.Element, where: str, size: tuple[float, float], evaluated: bool) -> dict:
    """One object in detectron2's form, of an image of `size` (width, height); `where` names it.

    `evaluated`: whether detectron2's evaluation reads it too.
    """
    (width, height), label = size, element.findtext("name", "").strip()
    box = [_number(element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    x0, y0, x1, y1 = box
    inside = (1 - OUTSIDE_PIXELS <= x0 <= x1 <= width + OUTSIDE_PIXELS
              and 1 - OUTSIDE_PIXELS <= y0 <= y1 <= height + OUTSIDE_PIXELS)
    flags = [_number(element, "truncated"), _number(element, "difficult")]
    whole = all(value.is_integer() for value in [*flags, *box])
    refuse(
        (label not in CLASS_NAMES,
         f"{where} is a '{label}', none of Pascal VOC's 20 classes ({', '.join(CLASS_NAMES)})"),
        (not inside,
         f"{where} has the box {x0:g}, {y0:g}, {x1:g}, {y1:g} in an image of {width:g} x "
         f"{height:g} pixels: expected numbers for xmin, ymin, xmax, ymax inside it, counted from 1"),
        (evaluated and (not whole or element.find("pose") is None),
         f"{where}: expected whole numbers in the box, in 'truncated' and 'difficult', and a "
         f"'pose', as the evaluation reads them; found {flags}, box {box}, pose "
         f"{element.findtext('pose')}"))
    return {"category_id": CLASS_NAMES.index(label), "bbox": [x0 - 1, y0 - 1, x1, y1],
            "bbox_mode": BoxMode.XYXY_ABS}


def _number(element: ElementTree.Element, name: str) -> float:
    """The number that `element` has in `name`, NaN where there is none."""
    try:
        return float(element.findtext(name, ""))
    except ValueError:
        return math.nan
