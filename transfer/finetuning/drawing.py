"""One figure of a model: its predictions on a few images, beside the ground truth where there is
one.

Boxes, masks and keypoints are in pixels of the image file. Every object is labelled with its class,
every prediction with its score in percent as well. Of several classes each has a colour; of one
class, each object.
"""

from collections.abc import Iterable, Iterator
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
from transfer.finetuning.evaluate import mapped
from transfer.finetuning.mapper import Mapper, sixteen_bit

SCORE = 0.5  # predictions below are not drawn, unless there is none above
FALLBACK = 3  # then this many best ones are
WIDTH = 480  # of each column, in pixels
TALLEST = 640  # of an image, in pixels: a taller one becomes narrower than its column
FONT = 12  # points, of a label on a large object; half of it and more on small ones
TITLE = 28  # height of the title, in pixels
DPI = 100  # of detectron2's figures
LETTER = 0.72  # width of a letter as a share of the font's height
BAR = 22  # height of the caption over an image, in pixels
Seen = list[tuple[dict, Instances]]  # records of detectron2, each with what a model predicts of it


def choose(instances: Instances, score: float | None = None) -> tuple[Instances, str]:
    """(the predictions to draw, the rule in words): those from `score`; None: from `SCORE`, or the best few when none
    reaches it."""
    least = SCORE if score is None else score
    sure = instances.scores >= least
    if sure.any():
        return instances[sure], f"predicted: {int(sure.sum())} with a score from {least:g}"
    if not len(instances):
        return instances, "predicted: nothing"
    if score is not None:
        return instances[sure], f"predicted: none of {len(instances)} with a score from {least:g}"
    best = instances.scores.argsort(descending=True)[:FALLBACK]
    return instances[best], f"predicted: no score from {least:g}; the {len(best)} best of {len(instances)}"


def draw(model: nn.Module, cfg: CfgNode, path: str | Path, title: str, number: int = 4) -> Seen:
    """Write a PNG of the first `number` validation images with objects under a title: ground truth
    left, predictions right. Returns what was drawn."""
    name = cfg.DATASETS.TEST[0]
    records = [record for record in DatasetCatalog.get(name) if record["annotations"]]
    seen = list(predicted(model, cfg, records[:number]))
    drawn = draw_predicted(seen, cfg, MetadataCatalog.get(name))
    titled = Image.new("RGB", (drawn.width, drawn.height + TITLE), "white")
    titled.paste(drawn, (0, TITLE))
    ImageDraw.Draw(titled).text((6, 5), title, fill="black", font=ImageFont.load_default(size=16))
    write(titled, path)
    return seen


def write(image: Image.Image, path: str | Path) -> None:
    with atomic_path(path) as sibling:
        image.save(sibling)


def predicted(model: nn.Module, cfg: CfgNode, records: Iterable[dict]) -> Iterator[tuple[dict, Instances]]:
    """Each of detectron2's `records` with what the model predicts of it, on the CPU."""
    reading = cfg.clone()
    reading.defrost()
    reading.MODEL.KEYPOINT_ON = False  # else the mapper wants names for a flip that never happens
    mapper = Mapper(reading, is_train=False)
    model.eval()
    for record in records:
        with torch.no_grad():
            yield record, model([mapped(mapper, record)])[0]["instances"].to("cpu")


def draw_predicted(
    seen: Iterable[tuple[dict, Instances]], cfg: CfgNode, meta: Metadata, score: float | None = None
) -> Image.Image:
    """An image with a row for each record that is `predicted`: the ground truth left where it has `annotations`.

    `meta` has the names of classes and keypoints; `score` as in `choose`.
    """
    names = meta.get("thing_classes")
    kind = f" ({names[0]})" if len(names) == 1 else ""  # one class: said once, not on every object
    rows = []
    for record, instances in seen:
        shown, rule = choose(instances, score)
        pixels = read_pixels(record["file_name"], sixteen_bit(cfg))
        columns = []
        if "annotations" in record:
            count = len(record["annotations"])
            drawn = _Canvas(pixels, meta, _classes(record)).draw_dataset_dict(record)
            objects = "object" if count == 1 else "objects"
            columns.append(_captioned(drawn.get_image(), f"ground truth: {count} {objects}{kind}"))
        drawn = _Canvas(pixels, meta, shown.pred_classes.tolist()).draw_instance_predictions(shown)
        columns.append(_captioned(drawn.get_image(), rule + kind))
        rows.append(np.concatenate(columns, axis=1))
    return Image.fromarray(np.concatenate(rows, axis=0))


def draw_truth(records: Iterable[dict], meta: Metadata, columns: int) -> Image.Image:
    """The ground truth of detectron2's `records`, each under its file name, in rows of `columns`."""
    tiles = []
    for record in records:
        canvas = _Canvas(read_pixels(record["file_name"]), meta, _classes(record))
        tiles.append(_captioned(canvas.draw_dataset_dict(record).get_image(), Path(record["file_name"]).name))
    tallest = max(map(len, tiles))
    sheet = Image.new("RGB", (WIDTH * columns, tallest * -(-len(tiles) // columns)), "white")
    for place, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (place % columns * WIDTH, place // columns * tallest))
    return sheet


class _Canvas(Visualizer):
    """detectron2's visualizer for objects of these `classes`, with colours that are the same each
    time, and labels inside the image."""

    def __init__(self, pixels: np.ndarray, meta: Metadata, classes: list[int]) -> None:
        scale = min(WIDTH / pixels.shape[1], TALLEST / pixels.shape[0])
        super().__init__(pixels, meta, scale=scale)
        self._default_font_size = FONT / scale  # the same in every figure, whatever the resolution
        table = colormaps["tab20"].colors[::2] + colormaps["tab20"].colors[1::2]
        self.one_class = len(meta.get("thing_classes")) == 1
        numbers = range(len(classes)) if self.one_class else classes
        self.colours = [table[number % len(table)] for number in numbers]

    def overlay_instances(self, *, labels: list[str] | None = None, **others: object) -> object:
        """As detectron2's; with one class a label is the score alone."""
        if self.one_class and labels is not None:
            labels = [label.split(" ")[-1] if label.endswith("%") else "" for label in labels]
        return super().overlay_instances(labels=labels, **{**others, "assigned_colors": self.colours})

    def draw_text(self, text: str, position: tuple[float, float], **others: object) -> object:
        """As detectron2's, moved left or up where the text would leave the image."""
        points = others.get("font_size") or self._default_font_size
        height = points * DPI / 72  # in pixels of the file, as `position`
        x = min(position[0], self.output.width - LETTER * height * len(text))
        y = min(position[1], self.output.height - 1.2 * height)
        return super().draw_text(text, (max(x, 0), max(y, 0)), **others)


def _classes(record: dict) -> list[int]:
    return [one["category_id"] for one in record["annotations"]]


def _captioned(pixels: np.ndarray, text: str) -> np.ndarray:
    canvas = Image.new("RGB", (WIDTH, pixels.shape[0] + BAR), "white")
    canvas.paste(Image.fromarray(pixels), ((WIDTH - pixels.shape[1]) // 2, BAR))
    ImageDraw.Draw(canvas).text((6, 4), text, fill="black", font=ImageFont.load_default(size=12))
    return np.asarray(canvas)
