"""One picture of a model: its predictions beside the ground truth on a few validation images."""

from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from pretrain.atomic import atomic_path

SCORE = 0.5  # predictions below are not drawn, unless there is none above
FALLBACK = 3  # then this many best ones are
WIDTH = 480  # of each of the two columns, in pixels
BAR = 22  # height of the caption over an image, in pixels


def draw(model: nn.Module, cfg: CfgNode, path: str | Path, number: int = 4) -> None:
    """Write a PNG to `path`: for the first `number` validation images with objects, ground truth left, model right.

    Images of the dataset are in pixels of the file; boxes, masks and keypoints are drawn in them.
    """
    name = cfg.DATASETS.TEST[0]
    meta = MetadataCatalog.get(name)
    mapper = DatasetMapper(cfg, is_train=False)
    records = [record for record in DatasetCatalog.get(name) if record["annotations"]][:number]
    rows = []
    model.eval()
    for record in records:
        with torch.no_grad():
            instances = model([mapper(record)])[0]["instances"].to("cpu")
        shown, rule = choose(instances)
        pixels = read_image(record["file_name"], format="RGB")
        scale = WIDTH / pixels.shape[1]
        truth = Visualizer(pixels, meta, scale=scale).draw_dataset_dict(record).get_image()
        predicted = Visualizer(pixels, meta, scale=scale).draw_instance_predictions(shown).get_image()
        left = _captioned(truth, f"ground truth: {len(record['annotations'])} objects")
        rows.append(np.concatenate([left, _captioned(predicted, rule)], axis=1))
    with atomic_path(path) as sibling:
        Image.fromarray(np.concatenate(rows, axis=0)).save(sibling)


def choose(instances: Instances) -> tuple[Instances, str]:
    """(the predictions to draw, the rule in words)."""
    sure = instances.scores >= SCORE
    if sure.any():
        return instances[sure], f"predicted: {int(sure.sum())} with a score from {SCORE}"
    if not len(instances):
        return instances, "predicted: nothing"
    best = instances.scores.argsort(descending=True)[:FALLBACK]
    return instances[best], f"predicted: no score from {SCORE}; the {len(best)} best of {len(instances)}"


def _captioned(pixels: np.ndarray, text: str) -> np.ndarray:
    canvas = Image.new("RGB", (WIDTH, pixels.shape[0] + BAR), "white")
    canvas.paste(Image.fromarray(pixels), (0, BAR))
    ImageDraw.Draw(canvas).text((6, 4), text, fill="black", font=ImageFont.load_default(size=12))
    return np.asarray(canvas)
