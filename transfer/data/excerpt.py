"""A few images of a dataset, for an excerpt in the same layout, which a preflight trains on: see `Task.excerpt`.

Those with the most objects are taken: what fits with them fits.
"""

import heapq
import json
from collections import Counter
from pathlib import Path


def fullest_of_file(source: Path, target: Path, count: int) -> None:
    """Write the `count` fullest images of the COCO or LVIS file `source` as a file of their own."""
    content = json.loads(source.read_text(encoding="utf-8"))
    # Without keypoints or as a crowd a row does not make an image one to train on.
    objects = Counter()
    for row in content["annotations"]:
        if not row.get("iscrowd") and row.get("num_keypoints", 1):
            objects[row["image_id"]] += 1
    content["images"] = heapq.nlargest(count, content["images"], lambda image: objects[image["id"]])
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content), encoding="utf-8")
