"""Pascal VOC by folder: its lists and annotations read and checked, its objects in detectron2's form.

What detectron2's loader and its VOC evaluation would meet as an AttributeError after the training is found here and
said in one line. A box of the files counts pixels from 1 and includes its last one; detectron2's form is
(x0, y0, x1, y1) in pixels from 0 with the end outside, so 1 is taken from the first two (as detectron2's loader does).
"""

import hashlib
import os
from pathlib import Path
from xml.etree import ElementTree

from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from detectron2.structures import BoxMode

from pretrain.common.atomic import sha256_file
from pretrain.common.errors import UserError

# The literature's split: both years' trainval, 2007's test, whose figures take the 11-point metric of that year.
PARTS = {"train": (("VOC2007", "trainval"), ("VOC2012", "trainval")), "val": (("VOC2007", "test"),)}
YEAR = 2007
OUTSIDE_PIXELS = 2.0  # boxes of the real files stick out by rounding
EVALUATED = ("pose", "truncated", "difficult")  # detectron2's evaluation reads these of every object


def list_images(root: Path, split: str) -> list[tuple[Path, Path]]:
    """(image, annotation) of every image that the lists of `split` name; `UserError` for a list or file missing."""
    found = []
    for year, name in PARTS[split]:
        listed = root / year / "ImageSets" / "Main" / f"{name}.txt"
        if not listed.is_file():
            raise UserError(f"{listed} is missing: expected the list of the images of {year} {name}")
        try:
            ids = listed.read_text(encoding="utf-8").split()
        except UnicodeDecodeError as error:
            raise UserError(f"{listed} is not text ({error}): expected one identifier a line") from None
        if not ids:
            raise UserError(f"{listed} names no image: expected one identifier a line")
        repeated = len(ids) - len(set(ids))
        if repeated:
            raise UserError(f"{listed} names {repeated} images more than once: expected each identifier once (a list "
                            "with -1, 0 or 1 behind each is one class's, not the whole)")
        for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
            place = root / year / folder
            there = set(os.listdir(place)) if place.is_dir() else set()
            missing = [f"{word}{suffix}" for word in ids if f"{word}{suffix}" not in there]
            if missing:
                more = ", ..." if len(missing) > 3 else ""
                raise UserError(f"{len(missing)} of the {len(ids)} files that {listed} asks for are not in {place}: "
                                f"{', '.join(missing[:3])}{more}")
        found += [(root / year / "JPEGImages" / f"{word}.jpg", root / year / "Annotations" / f"{word}.xml")
                  for word in ids]
    return found


def load(root: Path, split: str) -> list[dict]:
    """All images of a split in detectron2's form; "difficult" objects are there, as in the literature's training.

    Raises `UserError` naming the first file that is not as it should be.
    """
    records, counted = [], 0
    for image, annotation in list_images(root, split):
        tree = _parse(annotation)
        width, height = (_number(tree, f"size/{side}", annotation) for side in ("width", "height"))
        rows = []
        for number, element in enumerate(tree.iter("object")):
            where = f"{annotation}: object {number}"
            label = (element.findtext("name") or "").strip()
            if label not in CLASS_NAMES:
                raise UserError(f"{where} is a '{label}', none of Pascal VOC's 20 classes ({', '.join(CLASS_NAMES)})")
            box = _box(where, element, width, height)
            if split == "val":
                counted += _check_evaluated(where, element)
            rows.append({"category_id": CLASS_NAMES.index(label), "bbox": box, "bbox_mode": BoxMode.XYXY_ABS})
        records.append({"file_name": str(image), "image_id": image.stem, "width": int(width), "height": int(height),
                        "annotations": rows})
    if not any(record["annotations"] for record in records):
        raise UserError(f"{root}: {len(records)} {split} images without an object: expected some")
    if split == "val" and not counted:
        raise UserError(f"{root}: no object of {len(records)} validation images is one to find (all 'difficult', or "
                        "none): expected at least one to evaluate against")
    return records


def digest(root: Path, split: str) -> str:
    """One SHA-256 over the names and contents of all annotations of a split, in the order of the lists."""
    total = hashlib.sha256()
    for _, annotation in list_images(root, split):
        total.update(f"{annotation.relative_to(root).as_posix()} {sha256_file(annotation)}\n".encode())
    return total.hexdigest()


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not XML ({error}): expected a Pascal VOC annotation") from None


def _number(element: ElementTree.Element, name: str, where: object) -> float:
    text = element.findtext(name)
    try:
        return float(text)
    except (TypeError, ValueError):
        found = "nothing" if text is None else f"'{text}'"
        raise UserError(f"{where}: {name} is {found}: expected a number, as in Pascal VOC's annotations") from None


def _box(where: str, element: ElementTree.Element, width: float, height: float) -> list[float]:
    x0, y0, x1, y1 = (_number(element, f"bndbox/{side}", where) for side in ("xmin", "ymin", "xmax", "ymax"))
    inside = (1 - OUTSIDE_PIXELS <= x0 <= x1 <= width + OUTSIDE_PIXELS
              and 1 - OUTSIDE_PIXELS <= y0 <= y1 <= height + OUTSIDE_PIXELS)
    if not inside:  # written so that NaN fails too
        raise UserError(f"{where} has the box {x0:g}, {y0:g}, {x1:g}, {y1:g} in an image of {width:g} x {height:g} "
                        "pixels: expected xmin, ymin, xmax, ymax inside it, counted from 1")
    return [x0 - 1, y0 - 1, x1, y1]


def _check_evaluated(where: str, element: ElementTree.Element) -> bool:
    """Whether the object is one to find; raises for what detectron2's evaluation could not read."""
    for name in EVALUATED:
        if element.findtext(name) is None:
            raise UserError(f"{where} has no '{name}': expected {', '.join(EVALUATED)} in each object of the test set")
    flags = [_number(element, name, where) for name in EVALUATED[1:]]
    sides = [_number(element, f"bndbox/{side}", where) for side in ("xmin", "ymin", "xmax", "ymax")]
    if not all(value.is_integer() for value in (*flags, *sides)):
        raise UserError(f"{where}: expected whole numbers in the box and the flags of the test set, found "
                        f"{', '.join(f'{value:g}' for value in (*flags, *sides))}")
    return flags[1] == 0
