"""Cityscapes by folder: its files listed and checked, its instances in detectron2's form.

The reading of one image's annotation is detectron2's own (polygons, later ones in front of earlier
ones, group regions as crowd), without its worker pool: a pool of at least four processes is no help
on two cores and forks after CUDA has started.
"""

import functools
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pretrain.common.atomic import sha256_file
from pretrain.common.errors import UserError, refuse

NAME = re.compile(r"[^_]+_[^_]+_[^_]+_leftImg8bit\.png")
IMAGE_SUFFIX = "leftImg8bit.png"
SUFFIXES = ("gtFine_instanceIds.png", "gtFine_labelIds.png", "gtFine_polygons.json")


@functools.cache
def instance_labels() -> tuple:
    """Cityscapes' labels that have instances and are evaluated, in the order of its evaluation:
    eight."""
    try:
        from cityscapesscripts.helpers.labels import labels
    except ImportError:
        raise UserError("task cityscapes needs cityscapesscripts, which is not installed: run "
                        "`pip install --no-deps cityscapesscripts`") from None
    return tuple(label for label in labels if label.hasInstances and not label.ignoreInEval)


def list_files(image_root: Path, annotation_root: Path) -> list[tuple[str, str, str, str]]:
    """(image, instanceIds, labelIds, polygons) of every image, sorted, at least one.

    Raises `UserError` for a name or file that does not fit.
    """
    files = []
    for image in sorted(image_root.glob("*/*.png")):
        stem = annotation_root / image.parent.name / image.name.removesuffix(IMAGE_SUFFIX)
        annotations = [f"{stem}{suffix}" for suffix in SUFFIXES]
        refuse((not NAME.fullmatch(image.name),
                f"{image_root}: {image} is not named as Cityscapes names images: expected "
                f"CITY_SEQUENCE_FRAME_{IMAGE_SUFFIX} with no further underscore"))
        for path in annotations:
            refuse((not Path(path).is_file(),
                    f"{image_root}: {path} is missing, the annotation of {image}: expected "
                    "instanceIds, labelIds and polygons for every image"))
        files.append((str(image), *annotations))
    refuse((not files, f"{image_root}: no image: expected CITY/CITY_SEQUENCE_FRAME_{IMAGE_SUFFIX}"))
    listed = {instances for _, instances, *_ in files}
    for path in sorted(annotation_root.glob(f"*/*{SUFFIXES[0]}")):
        refuse((str(path) not in listed,
                f"{image_root}: annotation {path} has no image there: the evaluation goes over "
                "every annotation"))
    return files


def digest(annotation_root: Path) -> str:
    """One SHA-256 over the names and contents of all annotation files of a split."""
    total = hashlib.sha256()
    for path in sorted(annotation_root.glob("*/*")):
        if path.name.endswith(("_instanceIds.png", "_labelIds.png", "_polygons.json")):
            total.update(f"{path.relative_to(annotation_root).as_posix()} {sha256_file(path)}\n".encode())
    return total.hexdigest()


def load(image_root: Path, annotation_root: Path) -> list[dict]:
    """All images of a split in detectron2's form: XYXY boxes and polygons in pixels, classes 0 to
    7."""
    # Before the threads: shapely's modules import each other, and a thread that imports them while
    # another one does finds them half made.
    import detectron2.data.datasets.cityscapes  # noqa: F401
    import shapely.errors
    import shapely.geometry  # noqa: F401

    contiguous = {label.id: number for number, label in enumerate(instance_labels())}
    files = list_files(image_root, annotation_root)
    with ThreadPoolExecutor() as pool:  # shapely works outside the interpreter lock
        records = list(pool.map(_read, files))
    for record in records:
        for row in record["annotations"]:
            row["category_id"] = contiguous[row["category_id"]]
    return records


def _read(files: tuple[str, str, str, str]) -> dict:
    """One image in detectron2's form, with Cityscapes' label ids."""
    from detectron2.data.datasets.cityscapes import _cityscapes_files_to_dict
    from shapely.errors import ShapelyError

    try:
        return _cityscapes_files_to_dict(files, from_json=True, to_polygons=True)
    except (KeyError, TypeError, ValueError, NotImplementedError, ShapelyError) as error:
        raise UserError(f"{files[3]} cannot be read by detectron2 ({type(error).__name__}: "
                        f"{error}): replace it or take the image out") from None
