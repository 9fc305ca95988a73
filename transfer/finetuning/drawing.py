"""One picture of a model: what it predicts on a few images, beside the ground truth where there is one.

Images are in pixels of the file; boxes, masks and keypoints are drawn in them. Every object is labelled with its class,
every prediction with its score in percent as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from pretrain.common.atomic import atomic_path
from pretrain.data.pixels import read_pixels
from transfer.finetuning.mapper import Mapper, sixteen_bit

SCORE = 0.5  # predictions below are not drawn, unless there is none above
FALLBACK = 3  # then this many best ones are
WIDTH = 480  # of each column, in pixels
TALLEST = 640  # of an image, in pixels: a taller one becomes narrower than its column
FONT = 12  # size of a label on a large object, in points of the picture; half of it and more on small ones
BAR = 22  # height of the caption over an image, in pixels


@dataclass(frozen=True)
class Choice:
    """Which predictions are drawn: those from `score`; with `fallback`, the best few when none reaches it."""

    score: float = SCORE
    fallback: bool = True

    def __call__(self, instances: Instances) -> tuple[Instances, str]:
        """(the predictions to draw, the rule in words)."""
        sure = instances.scores >= self.score
        if sure.any():
            return instances[sure], f"predicted: {int(sure.sum())} with a score from {self.score:g}"
        if not len(instances):
            return instances, "predicted: nothing"
        if not self.fallback:
            return instances[sure], f"predicted: none of {len(instances)} with a score from {self.score:g}"
        best = instances.scores.argsort(descending=True)[:FALLBACK]
        return instances[best], f"predicted: no score from {self.score:g}; the {len(best)} best of {len(instances)}"


def draw(model: nn.Module, cfg: CfgNode, path: str | Path, number: int = 4) -> None:
    """Write a PNG to `path`: for the first `number` validation images with objects, ground truth left, model right."""
    name = cfg.DATASETS.TEST[0]
    records = [record for record in DatasetCatalog.get(name) if record["annotations"]][:number]
    draw_records(model, cfg, records, MetadataCatalog.get(name), path)


def draw_records(model: nn.Module, cfg: CfgNode, records: list[dict], meta: Metadata, path: str | Path,
                 choice: Choice | None = None, step: Callable[[], None] = lambda: None) -> None:
    """Write a PNG to `path`: a row for each of detectron2's `records`.

    The ground truth stands left of the predictions where a record has `annotations`. `meta` has the names of classes
    and keypoints. `step` is called after each image.
    """
    reading = cfg.clone()
    reading.defrost()
    reading.MODEL.KEYPOINT_ON = False  # else the mapper wants the training set's names, to flip what it never reads
    choice, mapper, rows = choice or Choice(), Mapper(reading, is_train=False), []
    names = meta.get("thing_classes")
    kind = f" ({names[0]})" if len(names) == 1 else ""  # one class: said once, not on every object
    model.eval()
    for record in records:
        with torch.no_grad():
            instances = model([mapper({**record})])[0]["instances"].to("cpu")
        shown, rule = choice(instances)
        pixels = read_pixels(record["file_name"], sixteen_bit(cfg))
        columns = []
        if "annotations" in record:
            canvas = _Canvas(pixels, meta, len(record["annotations"]))
            count = len(record["annotations"])
            text = f"ground truth: {count} object{'' if count == 1 else 's'}{kind}"
            columns.append(_captioned(canvas.draw_dataset_dict(record).get_image(), text))
        canvas = _Canvas(pixels, meta, len(shown))
        columns.append(_captioned(canvas.draw_instance_predictions(shown).get_image(), rule + kind))
        rows.append(np.concatenate(columns, axis=1))
        step()
    with atomic_path(path) as sibling:
        Image.fromarray(np.concatenate(rows, axis=0)).save(sibling)


class _Canvas(Visualizer):
    """detectron2's visualizer with colours that are the same each time, for `number` objects."""

    def __init__(self, pixels: np.ndarray, meta: Metadata, number: int) -> None:
        scale = min(WIDTH / pixels.shape[1], TALLEST / pixels.shape[0])
        # A font of one size in every picture, whatever the resolution of the image.
        super().__init__(pixels, meta, scale=scale)
        self._default_font_size = FONT / scale
        table = colormaps["tab20"].colors[::2] + colormaps["tab20"].colors[1::2]
        self.colours = [table[place % len(table)] for place in range(number)]
        self.one_class = len(meta.get("thing_classes")) == 1

    def overlay_instances(self, *, labels: list[str] | None = None, **words: object) -> object:
        """As detectron2's; with one class a label is the score alone."""
        if self.one_class and labels is not None:
            labels = [label.split(" ")[-1] if label.endswith("%") else "" for label in labels]
        return super().overlay_instances(labels=labels, **{**words, "assigned_colors": self.colours})


def _captioned(pixels: np.ndarray, text: str) -> np.ndarray:
    canvas = Image.new("RGB", (WIDTH, pixels.shape[0] + BAR), "white")
    canvas.paste(Image.fromarray(pixels), ((WIDTH - pixels.shape[1]) // 2, BAR))
    ImageDraw.Draw(canvas).text((6, 4), text, fill="black", font=ImageFont.load_default(size=12))
    return np.asarray(canvas)
