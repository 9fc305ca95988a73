"""A fixed share of the training images, the same on every machine, for comparisons with few labels.

The images are ordered by the SHA-256 of their names, and the first round(share * n) are taken (at
least one): a count that is exact where a threshold on the hash would only be near, and a smaller
share's images are among a larger one's. The name is the path below the image folder, as annotation
files have it, so that neither the machine nor the order in the file matters. All images are
counted, also those without an object: correcting an annotation moves no other image in or out. What
the training then leaves out (images without an object) it leaves out of the share too.
"""

import hashlib
from pathlib import Path
from typing import Any

from transfer.data.dataset import Reader, Records


def choose(records: Records, image_root: Path, share: float) -> Records:
    """Those of detectron2's `records` that are taken, in their order; `image_root` is what names
    are relative to."""
    names = []
    for record in records:
        path = Path(record["file_name"])
        # An annotation file may name images elsewhere, by their whole path, which is another one on
        # another machine.
        inside = path.is_relative_to(image_root)
        names.append(path.relative_to(image_root).as_posix() if inside else path.name)
    count = max(1, round(share * len(names)))
    return [records[place] for place in sorted(order(names)[:count])]


def read(all_records: Reader, image_root: Path, share: float) -> Records:
    """`choose` from what `all_records` reads."""
    return choose(all_records(), image_root, share)


def order(names: list[str]) -> list[int]:
    """Places of the names by their SHA-256, smallest first."""
    def rank(place: int) -> tuple[bytes, str]:
        return hashlib.sha256(names[place].encode("utf-8", "surrogateescape")).digest(), names[place]

    return sorted(range(len(names)), key=rank)


def teaches(record: dict[str, Any]) -> bool:
    """Whether a record has an object to learn from: one that is no crowd and, where there are
    keypoints, has one."""
    for row in record["annotations"]:
        points = row.get("keypoints")
        if not row.get("iscrowd") and (points is None or any(points[2::3])):
            return True
    return False
