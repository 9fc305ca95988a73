"""Training images held out: an annotation file in two, so that nothing is chosen by looking at the validation images.

  clove hold-out DATA/annotations/instances_train.json --share 0.25 --output HELD

writes HELD/train.json and HELD/val.json, which `--train-annotations` and `--val-annotations` take.
The images held out are those whose names have the largest SHA-256, so that the split is the same on
every machine. Standard library only.
"""

import argparse
import json
from pathlib import Path

from pretrain.common.atomic import make_folder, write_text
from pretrain.common.errors import refuse
from transfer.annotations import coco_json
from transfer.annotations.plain_coco import id_text
from transfer.data.train_share import order

ID: coco_json.Field = ("a whole number or a text", id_text)  # as annotation tools export them
# What is read of the file: it may lack what else COCO's format has.
READ: coco_json.Table = {"images": {"id": ID, "file_name": coco_json.TEXT}, "annotations": {"image_id": ID}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="annotations of the training images, in COCO's format")
    parser.add_argument("--share", type=float, default=0.25, metavar="SHARE",
                        help="of the images that is held out (default: 0.25)")
    parser.add_argument("--output", required=True, metavar="DIR", type=Path, help="for train.json and val.json")


def run(args: argparse.Namespace) -> int:
    train, val = args.output / "train.json", args.output / "val.json"
    refuse(
        (not args.file.is_file(),
         f"{args.file} is not a file: expected annotations of the training images, in COCO's format"),
        (args.file.resolve() in (train.resolve(), val.resolve()),
         f"--output {args.output}: {args.file} itself would be replaced there: choose another "
         "folder"),
        (not 0 <= args.share <= 1,  # written so that NaN fails too
         f"--share {args.share:g}: expected a share of the images, from 0 to 1"))
    parts = split(args.file, args.share)
    make_folder(args.output)
    for place, part in zip((train, val), parts, strict=True):
        write_text(place, json.dumps(part))
        print(f"{place}: {len(part['images'])} images, {len(part['annotations'])} objects")
    return 0


def split(file: Path, share: float) -> tuple[dict, dict]:
    """Two contents of annotation files: the images that are kept, and the `share` of them that is
    held out.

    Raises `UserError` when the file is not one of COCO's format, or nothing is left on one side.
    """
    content = coco_json.load(file)
    coco_json.raise_first(coco_json.table_problems(content, READ), file)
    # Else one image could be on both sides.
    coco_json.raise_first(coco_json.repeated(content, "images", "file_name"), file)
    images = len(content["images"])
    refuse((not 0 < round(share * images) < images,
            f"{file}: --share {share:g} of {images} images holds out {round(share * images)}: "
            "expected at least one, and one that is kept"))
    names = [image["file_name"] for image in content["images"]]
    held = {id_text(content["images"][place]["id"]) for place in order(names)[-round(share * images):]}
    kept_part = {**content, "images": [], "annotations": []}
    held_part = {**content, "images": [], "annotations": []}
    for name, key in (("images", "id"), ("annotations", "image_id")):
        for row in content[name]:
            part = held_part if id_text(row[key]) in held else kept_part
            part[name].append(row)
    return kept_part, held_part
