"""Small made-up data in the layouts of the real one: the whole pipeline runs anywhere in minutes.

`photos/` (unlabelled images), `coco/` (objects), `keypoints/` (people) and `cityscapes/` (street
scenes); `voc/` and `lvis/` are the images of `coco/` in those layouts. Every image comes from its
own random generator, so the same seed gives the same bytes.

    python -m benchmarks.demo.demo_data --output DIR [--seed S --photos N --train N --val N]
"""

import argparse
import json
import os
import shutil
from pathlib import Path

from benchmarks.demo import layouts
from benchmarks.demo.photos import photo
from pretrain.common.atomic import make_folder, sha256_file
from pretrain.common.errors import UserError, refuse, run_cli

MANIFEST = "demo_data.json"


def generate(output: Path, seed: int = 0, *, photos: int = 48, train: int = 24, val: int = 8) -> None:
    """Write the demo data to the folder `output`, whole or not at all.

    `photos` counts the unlabelled images, `train` and `val` those of each labelled set. Each split
    has a crowd and, from two images on, all eight Cityscapes things; from four on, an image
    without objects too. A folder that an earlier call wrote is replaced; `UserError` for any other
    one, and for counts below 1.
    """
    output = Path(output).resolve()
    refuse((seed < 0, f"expected a seed of 0 or more, found {seed}"))
    for name, count in {"photos": photos, "train": train, "val": val}.items():
        refuse((count < 1, f"expected at least 1 for {name}, found {count}: there must be "
                           "something to learn from"))
    _check_own(output)
    make_folder(output.parent)
    making = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        make_folder(making)
        for index in range(photos):
            below = "more" if index % 4 == 3 else ""  # real collections are nested
            image = photo(layouts.rng(seed, layouts.PHOTOS, "train", index), index)
            layouts.save(image, making / "photos" / below / f"{index:04}.jpg")
        counts = {"train": train, "val": val}
        for write in layouts.LAYOUTS.values():
            write(making, seed, counts)
        made = {"made_by": "benchmarks.demo.demo_data", "seed": seed, "photos": photos, **counts}
        layouts.write_json(making / MANIFEST, {**made, "files": _files(making)})
        if output.exists():
            shutil.rmtree(output)  # can be made again
        making.rename(output)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _files(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below `folder`, in sorted order, without the
    manifest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name != MANIFEST:
            found[name] = sha256_file(path)
    return found


def _check_own(output: Path) -> None:
    """Refuse a place where something stands that an earlier call did not write."""
    refuse((output.exists() and not output.is_dir(),
            f"expected a folder for the demo data, found a file at {output}: choose another "
            "--output"))
    if not output.exists() or not any(output.iterdir()):
        return
    try:
        own = json.loads((output / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            "expected a new or empty folder, or one with earlier demo data, found other files in "
            f"{output}: choose another --output, or move them away"
        ) from None
    for name, digest in _files(output).items():
        refuse((own.get(name) != digest,
                f"expected only generated files in {output}, found {name}, which is new or "
                "changed: move it away, or choose another --output"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo.demo_data",
                                     description="Make small demo data.")
    parser.add_argument("--output", type=Path, required=True,
                        help="folder; earlier demo data there is replaced")
    parser.add_argument("--seed", type=int, default=0,
                        help="the same seed gives the same bytes (default: %(default)s)")
    parser.add_argument("--photos", type=int, default=48,
                        help="unlabelled images (default: %(default)s)")
    parser.add_argument("--train", type=int, default=24,
                        help="training images of each set (default: %(default)s)")
    parser.add_argument("--val", type=int, default=8,
                        help="validation images of each set (default: %(default)s)")
    options = parser.parse_args(arguments)
    generate(options.output, options.seed, photos=options.photos, train=options.train, val=options.val)
    print(f"demo data written to {options.output}: {options.photos} photos, "
          f"{options.train} + {options.val} images each of objects, people and streets")


if __name__ == "__main__":
    run_cli(main)
