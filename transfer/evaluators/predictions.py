"""Predictions of a model kept in one file, whatever the task, so that metrics can be computed again from it.

predictions.json.gz: {"schema", "task", "annotations_sha256" of the validation set, "image_ids" of
all its images (also those without a detection), "categories": [{"id", "name"}], "predictions"}; the
last is a list in COCO's result format (image_id, category_id, score, bbox as XYWH in pixels of the
image; segmentation as run lengths, keypoints). For COCO's tasks and LVIS the ids are those of the
annotation file, as they stand in it. Cityscapes' and VOC's images are named by detectron2's ids, a
Cityscapes category has its label id; its masks are kept as run lengths too and not as the text and
PNG files that the official evaluation reads, which are made anew from the model for each
evaluation.
"""

import copy
import gzip
import hashlib
import itertools
import json
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

from pretrain.common.atomic import atomic_path
from transfer.data.dataset import Dataset

NAME = "predictions.json.gz"
SCHEMA = 1


class Keeper(DatasetEvaluator):
    """Stands before an evaluator and writes what the model predicted for the validation half of
    `dataset`, which is registered; has no metrics."""

    def __init__(self, path: Path, dataset: Dataset) -> None:
        self.path, self.task, self.dataset_name = path, dataset.task, dataset.name("val")
        self.sha256 = dataset.val.annotations_sha256
        self.rows: list[dict] = []

    def reset(self) -> None:
        self.rows = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Note the instances of a batch, of a copy: detectron2 moves the keypoints it is given by
        half a pixel."""
        for record, output in zip(inputs, outputs, strict=True):
            self.rows += instances_to_coco_json(copy.deepcopy(output["instances"].to("cpu")), record["image_id"])

    def evaluate(self) -> dict:
        """Write the file on the first process."""
        gathered = comm.gather(self.rows, dst=0)
        if comm.is_main_process():
            names = category_ids(self.dataset_name)
            images = [record["image_id"] for record in DatasetCatalog.get(self.dataset_name)]
            own = MetadataCatalog.get(self.dataset_name).get("image_ids") or dict(zip(images, images, strict=True))
            rows = []
            for row in itertools.chain(*gathered):
                rows.append({**row, "image_id": own[row["image_id"]], "category_id": names[row["category_id"]][0]})
            write(self.path, {
                "schema": SCHEMA, "task": self.task, "annotations_sha256": self.sha256,
                "image_ids": [own[number] for number in images],
                "categories": [{"id": number, "name": name} for number, name in names], "predictions": rows})
        return {}


def category_ids(dataset_name: str) -> list[tuple[int, str]]:
    """(id in the annotations, name) of each class, in the order of the model's classes."""
    meta = MetadataCatalog.get(dataset_name)
    names = list(meta.thing_classes)
    if (numbers := meta.get("category_ids")) is not None:  # the task says
        return list(zip(numbers, names, strict=True))
    own = {place: number for number, place in meta.get("thing_dataset_id_to_contiguous_id", {}).items()}
    return [(own.get(place, place), name) for place, name in enumerate(names)]


def write(path: Path, content: dict) -> None:
    """Write the file, whole or not at all; the same content gives the same bytes."""
    with atomic_path(path) as sibling:
        Path(sibling).write_bytes(gzip.compress(json.dumps(content, allow_nan=False).encode(), mtime=0))


def read(path: str | Path) -> dict:
    """The content of a file that `Keeper` wrote."""
    return json.loads(gzip.decompress(Path(path).read_bytes()))


def record(path: Path) -> dict:
    """The entry of result.json."""
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
