"""Training images held out: an annotation file in two, so that nothing is chosen by looking at the validation images.

  python -m transfer hold-out DATA/annotations/instances_train.json --share 0.25 --output HELD

writes HELD/train.json and HELD/val.json, which `--train-annotations` and `--val-annotations` take. The images held out
are those whose names have the largest SHA-256, so that the split is the same on every machine. Standard library only.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from pretrain.common.atomic import make_folder, write_text
from pretrain.common.errors import UserError
from transfer.data import coco_json
from transfer.data.train_share import order


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="annotations of the training images, in COCO's format")
    parser.add_argument("--share", type=float, default=0.25, metavar="SHARE",
                        help="of the images that is held out (default: 0.25)")
    parser.add_argument("--output", required=True, metavar="DIR", type=Path, help="for train.json and val.json")


def run(args: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code."""
    places = [args.output / "train.json", args.output / "val.json"]
    if args.file.resolve() in [place.resolve() for place in places]:
        raise UserError(f"--output {args.output}: {args.file} itself would be replaced there: choose another folder")
    parts = split(args.file, args.share)
    make_folder(args.output)
    for place, part in zip(places, parts, strict=True):
        write_text(place, json.dumps(part))
        print(f"{place}: {len(part['images'])} images, {len(part['annotations'])} objects")
    return 0


def split(file: Path, share: float) -> tuple[dict, dict]:
    """Two contents of annotation files: the images that are kept, and the `share` of them that is held out.

    Raises `UserError` when the file is not one of COCO's format, or nothing is left on one side.
    """
    if not 0 <= share <= 1:  # written so that NaN fails too
        raise UserError(f"--share {share:g}: expected a share of the images, from 0 to 1")
    try:
        content = coco_json.load(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): expected an annotation file") from None
    images = content["images"]
    coco_json.check_rows(file, "images", images, ("id", "file_name"))
    coco_json.check_rows(file, "annotations", content["annotations"], ("image_id",))
    coco_json.check_unique(file, "images", len({image["id"] for image in images}), images)
    names = [image["file_name"] for image in images]
    repeated, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise UserError(f"{file} names the image {repeated} {times} times: expected each once, so that none is on both "
                        "sides")
    count = round(share * len(names))
    if not 0 < count < len(names):
        raise UserError(f"--share {share:g} of {len(names)} images holds out {count}: expected at least one, and one "
                        "that is kept")
    held = {images[place]["id"] for place in order(names)[-count:]}
    parts = []
    for is_held in (False, True):
        parts.append(content | {
            "images": [image for image in images if (image["id"] in held) == is_held],
            "annotations": [row for row in content["annotations"] if (row["image_id"] in held) == is_held]})
    return parts[0], parts[1]
