"""Training images held out: an annotation file in two, so that nothing is chosen by looking at the validation images.

  python -m transfer hold-out DATA/annotations/instances_train.json --share 0.25 --output HELD

writes HELD/train.json and HELD/val.json, which `--train-annotations` and `--val-annotations` take. The images held out
are those whose names have the largest SHA-256, so that the split is the same on every machine. Standard library only.
"""

import argparse
import json
from pathlib import Path

from pretrain.atomic import make_folder, write_text
from pretrain.errors import UserError
from transfer.train_share import order


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="annotations of the training images, in COCO's format")
    parser.add_argument("--share", type=float, default=0.25, metavar="SHARE",
                        help="of the images that is held out (default: 0.25)")
    parser.add_argument("--output", required=True, metavar="DIR", type=Path, help="for train.json and val.json")


def run(args: argparse.Namespace) -> int:
    kept, held = split(args.file, args.share)
    make_folder(args.output)
    for name, part in (("train", kept), ("val", held)):
        write_text(args.output / f"{name}.json", json.dumps(part))
        print(f"{args.output / name}.json: {len(part['images'])} images, {len(part['annotations'])} objects")
    return 0


def split(file: Path, share: float) -> tuple[dict, dict]:
    """Two contents of annotation files: the images that are kept, and the `share` of them that is held out.

    Raises `UserError` when the file is not one of COCO's format, or nothing is left on one side.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        names = [image["file_name"] for image in content["images"]]
        image_ids = [row["image_id"] for row in content["annotations"]]
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): expected an annotation file") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: expected an annotation file in COCO's format, with images that have a file_name and "
                        "annotations that have an image_id") from None
    count = round(share * len(names))
    if not 0 < count < len(names):
        raise UserError(f"--share {share:g} of {len(names)} images holds out {count}: expected at least one, and one "
                        "that is kept")
    held_places = set(order(names)[-count:])
    held_ids = {image["id"] for place, image in enumerate(content["images"]) if place in held_places}
    parts = []
    for is_held in (False, True):
        images = [image for image in content["images"] if (image["id"] in held_ids) == is_held]
        rows = [row for row, image_id in zip(content["annotations"], image_ids, strict=True)
                if (image_id in held_ids) == is_held]
        parts.append(content | {"images": images, "annotations": rows})
    return parts[0], parts[1]
