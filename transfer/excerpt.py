"""A few images of a dataset as a dataset of its own, in the same layout: new annotation files, links to the images.

Those with the most objects are taken: what fits with them fits.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transfer.datasets import Dataset, Split


def write(dataset: Dataset, folder: Path, train: int, val: int) -> None:
    """Write `train` and `val` images of `dataset` to the new `folder`; `datasets.find` reads it like the whole."""
    write_split = {"cityscapes": _cityscapes, "voc": _voc, "lvis": _lvis}.get(dataset.kind, _coco)
    for name, split, count in (("train", dataset.train, train), ("val", dataset.val, val)):
        write_split(folder, name, split, count)


def _fullest(keys: Iterable[Any], objects: Callable[[Any], int], count: int) -> list[Any]:
    return sorted(keys, key=objects, reverse=True)[:count]


def _json(folder: Path, name: str, split: Split, count: int) -> None:
    content = json.loads(split.annotations.read_text(encoding="utf-8"))
    # Without keypoints or as a crowd a row does not make an image one to train on.
    objects = Counter(row["image_id"] for row in content["annotations"]
                      if not row.get("iscrowd") and row.get("num_keypoints", 1))
    images = _fullest(content["images"], lambda image: objects[image["id"]], count)
    kept = {image["id"] for image in images}
    content |= {"images": images, "annotations": [row for row in content["annotations"] if row["image_id"] in kept]}
    path = folder / "annotations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _coco(folder: Path, name: str, split: Split, count: int) -> None:
    _json(folder, f"{name}.json", split, count)
    (folder / f"{name}2017").symlink_to(split.image_root.absolute())


def _lvis(folder: Path, name: str, split: Split, count: int) -> None:
    _json(folder, f"lvis_v1_{name}.json", split, count)
    images = folder / "images"
    if not images.is_symlink():  # the names hold train2017/ and val2017/: one place for both
        images.symlink_to(split.image_root.absolute())


def _cityscapes(folder: Path, name: str, split: Split, count: int) -> None:
    from transfer import cityscapes

    def objects(files: tuple[str, ...]) -> int:
        return len(json.loads(Path(files[3]).read_text(encoding="utf-8"))["objects"])

    for files in _fullest(cityscapes.list_files(split.image_root, split.annotations)[:100], objects, count):
        for file, kind in zip(files, ("leftImg8bit", "gtFine", "gtFine", "gtFine"), strict=True):
            link = folder / kind / name / Path(file).parent.name / Path(file).name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(file).absolute())


def _voc(folder: Path, name: str, split: Split, count: int) -> None:
    from transfer import voc

    by_list: dict[tuple[str, str], list[str]] = {part: [] for part in voc.PARTS[name]}
    records = {record["file_name"]: len(record["annotations"]) for record in voc.load(split.annotations, name)}
    for year, listed in by_list:
        mine = [path for path in records if Path(path).parent.parent.name == year]
        chosen = _fullest(mine, records.__getitem__, max(count // len(by_list), 1))
        root = folder / year
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{listed}.txt").write_text("".join(f"{Path(path).stem}\n" for path in chosen),
                                                                   encoding="utf-8")
        for part in ("JPEGImages", "Annotations"):
            if not (root / part).is_symlink():
                (root / part).symlink_to((split.annotations / year / part).absolute())
