"""examples.json: a few validation images with their objects and what a model finds of them, small enough for a report.

{"schema", "task", "annotations_sha256" of the validation set, "images"}. Each image: "file" (its name), "width" and
"height" in pixels of "pixels", a data address; "truth" and "predicted", lists of {"box": x0 y0 x1 y1 in those pixels,
"class"}, predictions with their "score" too, the surest first. Crowds are left out: no detection has to find one.
"""

import base64
import io
import json
from collections.abc import Iterable
from pathlib import Path

from detectron2.structures import BoxMode, Instances
from PIL import Image

from pretrain.common.atomic import write_text
from pretrain.data.pixels import read_pixels
from transfer.data.dataset import Dataset

SCHEMA = 1
WIDEST = 480  # pixels, of the stored images
MOST = 100  # predictions of an image


def write(path: Path, dataset: Dataset, seen: Iterable[tuple[dict, Instances]]) -> None:
    """Write the file, whole or not at all. `seen`: detectron2's records, each with the model's predictions on the
    CPU, in pixels of the image file."""
    images = [_example(record, instances, dataset.classes) for record, instances in seen]
    content = {"schema": SCHEMA, "task": dataset.task, "annotations_sha256": dataset.val.annotations_sha256,
               "images": images}
    write_text(path, json.dumps(content, allow_nan=False) + "\n")


def _example(record: dict, instances: Instances, classes: tuple[str, ...]) -> dict:
    image = Image.fromarray(read_pixels(record["file_name"]))
    shrunk = min(WIDEST / image.width, 1.0)
    size = (round(image.width * shrunk), max(round(image.height * shrunk), 1))
    file = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(file, "WEBP", quality=80)
    truth = []
    for one in record["annotations"]:
        if not one.get("iscrowd"):
            box = BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYXY_ABS)
            truth.append({"box": _scaled(box, shrunk), "class": classes[one["category_id"]]})
    predicted = []
    for place in instances.scores.argsort(descending=True)[:MOST].tolist():
        predicted.append({"box": _scaled(instances.pred_boxes.tensor[place].tolist(), shrunk),
                          "class": classes[int(instances.pred_classes[place])],
                          "score": round(float(instances.scores[place]), 4)})
    return {"file": Path(record["file_name"]).name, "width": size[0], "height": size[1],
            "pixels": "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii"),
            "truth": truth, "predicted": predicted}


def _scaled(box: list[float], shrunk: float) -> list[float]:
    return [round(float(value) * shrunk, 1) for value in box]
