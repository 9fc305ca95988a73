"""Small made-up data in the layouts of the real one, so that the whole pipeline can run anywhere in minutes.

`photos/` (unlabelled pictures), `coco/` (objects), `keypoints/` (people) and `cityscapes/` (street scenes); `voc/` and
`lvis/` are the pictures of `coco/` in those layouts. Every picture comes from its own random generator, so the same
seed gives the same bytes.

    python -m benchmarks.demo_data --output DIR [--seed S --photos N --train N --val N]
"""

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.demo import figures, lvis_files, photos, scenes, streets, voc_files
from pretrain.atomic import make_folder, sha256_file
from pretrain.errors import UserError, run_cli

MANIFEST = "demo_data.json"
SPLITS = ("train", "val")
CITIES = {"train": ("ashmere", "brookfield"), "val": ("cedarhaven",)}  # not real ones
PHOTOS, COCO, KEYPOINTS, CITYSCAPES = range(4)


def generate(output: Path, seed: int = 0, *, photos: int = 48, train: int = 24, val: int = 8) -> None:
    """Write the demo data to the folder `output`, whole or not at all.

    `photos` counts the unlabelled pictures, `train` and `val` those of each labelled set. Each split has
    a crowd and, from two pictures on, all eight Cityscapes things; from four on, a picture without objects too.
    A folder that an earlier call wrote is replaced; `UserError` for any other one, and for counts below 1.
    """
    output = Path(output).resolve()
    for name, count in (("photos", photos), ("train", train), ("val", val)):
        if count < 1:
            raise UserError(f"expected at least 1 for {name}, found {count}: there must be something to learn from")
    if seed < 0:
        raise UserError(f"expected a seed of 0 or more, found {seed}")
    _check_own(output)
    make_folder(output.parent)
    making, former = (output.with_name(f".{output.name}.{os.getpid()}.{word}") for word in ("part", "former"))
    shutil.rmtree(making, ignore_errors=True)
    try:
        make_folder(making)
        _photos(making / "photos", seed, photos)
        counts = {"train": train, "val": val}
        _coco(making / "coco", (seed, COCO), counts, scenes.scene, "instances", scenes.CATEGORIES)
        people = "person_keypoints"
        _coco(making / "keypoints", (seed, KEYPOINTS), counts, figures.group, people, [figures.CATEGORY])
        _cityscapes(making / "cityscapes", seed, counts)
        _voc(making / "voc", making / "coco")
        _lvis(making / "lvis", making / "coco")
        made = {"made_by": "benchmarks.demo_data", "seed": seed, "photos": photos, **counts}
        _write_json(making / MANIFEST, {**made, "files": _files(making)})
        if output.exists():
            output.rename(former)
        making.rename(output)
    finally:
        if former.exists() and not output.exists():
            former.rename(output)
        shutil.rmtree(making, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def _rng(seed: int, kind: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, kind, SPLITS.index(split), index])


def _photos(folder: Path, seed: int, count: int) -> None:
    """Every fourth picture lies in a subfolder: real collections are nested."""
    for index in range(count):
        picture = photos.photo(_rng(seed, PHOTOS, "train", index), index)
        _save(picture, folder / ("more" if index % 4 == 3 else "") / f"{index:04}.jpg")


def _coco(
    folder: Path, seeds: tuple[int, int], counts: dict[str, int],
    make: Callable[[np.random.Generator, int], tuple[Image.Image, list[dict]]], stem: str, categories: list[dict],
) -> None:
    for split in SPLITS:
        images, annotations = [], []
        for index in range(counts[split]):
            number = 1 + index + 100_000 * SPLITS.index(split)
            picture, found = make(_rng(*seeds, split, index), index)
            name = f"{number:012}.jpg"
            _save(picture, folder / "images" / name)
            size = {"height": picture.height, "width": picture.width}
            images.append({"license": 1, "file_name": name, **size, "id": number})
            for annotation in found:
                # Numbers from 1, and none in both splits: pycocotools takes 0 for "no match".
                identity = 1 + len(annotations) + 1_000_000 * SPLITS.index(split)
                annotations.append({"id": identity, "image_id": number, **annotation})
        _write_json(folder / "annotations" / f"{stem}_{split}.json", {
            "info": {"description": "made-up demo data", "version": "1.0", "year": 2026},
            "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
            "images": images, "annotations": annotations, "categories": categories,
        })


def _cityscapes(folder: Path, seed: int, counts: dict[str, int]) -> None:
    for split in SPLITS:
        for index in range(counts[split]):
            picture, objects = streets.street(_rng(seed, CITYSCAPES, split, index), index, counts[split])
            city = CITIES[split][index % len(CITIES[split])]
            name = f"{city}_{index:06}_000019"
            _save(picture, folder / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
            truth = folder / "gtFine" / split / city
            instances = streets.paint_ids(objects, instances=True)
            labels = streets.paint_ids(objects, instances=False).astype(np.uint8)
            _save(Image.fromarray(instances), truth / f"{name}_gtFine_instanceIds.png")
            _save(Image.fromarray(labels), truth / f"{name}_gtFine_labelIds.png")
            _write_json(truth / f"{name}_gtFine_polygons.json", {
                "imgHeight": picture.height, "imgWidth": picture.width,
                "objects": [{"label": label, "polygon": corners} for label, corners in objects],
            })


def _voc(folder: Path, coco: Path) -> None:
    """The pictures of `coco`; those for training are dealt to both years in turn, at least one to each."""
    for split in SPLITS:
        content = json.loads((coco / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))
        lists = voc_files.LISTS[split]
        for number, (year, listed) in enumerate(lists):
            ids = []
            for image in content["images"][number::len(lists)] or content["images"][:1]:
                name = Path(image["file_name"]).stem[-6:]  # six digits, as in VOC
                rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
                picture = folder / year / "JPEGImages" / f"{name}.jpg"
                picture.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(coco / "images" / image["file_name"], picture)
                _write(folder / year / "Annotations" / f"{name}.xml",
                       voc_files.annotation(picture.name, year, (image["width"], image["height"]), rows))
                ids.append(name)
            _write(folder / year / "ImageSets" / "Main" / f"{listed}.txt", "\n".join(ids) + "\n")


def _lvis(folder: Path, coco: Path) -> None:
    for split in SPLITS:
        content = json.loads((coco / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))
        _write_json(folder / f"lvis_v1_{split}.json", lvis_files.from_coco(content))


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **({"quality": 92} if path.suffix == ".jpg" else {}))


def _write_json(path: Path, content: dict) -> None:
    _write(path, json.dumps(content))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _files(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below `folder`, in sorted order, without the manifest."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    return {name: sha256_file(paths[name]) for name in sorted(paths) if name != MANIFEST}


def _check_own(output: Path) -> None:
    """Refuse a place where something stands that an earlier call did not write."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"expected a folder for the demo data, found a file at {output}: choose another --output")
    if not any(output.iterdir()):
        return
    try:
        own = json.loads((output / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"expected a new or empty folder, or one with earlier demo data, found other files in {output}: "
            "choose another --output, or move them away"
        ) from None
    for name, digest in _files(output).items():
        if own.get(name) != digest:
            raise UserError(
                f"expected only generated files in {output}, found {name}, which is new or changed: "
                "move it away, or choose another --output"
            )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_data", description="Make small demo data.")
    parser.add_argument("--output", type=Path, required=True, help="folder; earlier demo data there is replaced")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default: %(default)s)")
    parser.add_argument("--photos", type=int, default=48, help="unlabelled pictures (default: %(default)s)")
    parser.add_argument("--train", type=int, default=24, help="training pictures of each set (default: %(default)s)")
    parser.add_argument("--val", type=int, default=8, help="validation pictures of each set (default: %(default)s)")
    options = parser.parse_args(arguments)
    generate(options.output, options.seed, photos=options.photos, train=options.train, val=options.val)
    print(f"demo data written to {options.output}: {options.photos} photos, "
          f"{options.train} + {options.val} pictures each of objects, people and streets")


if __name__ == "__main__":
    run_cli(main)
