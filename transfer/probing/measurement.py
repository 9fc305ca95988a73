"""What one source of dense features is worth: the metrics of a probe, measured on training and validation images.

Training images teach (cells, their moments, the classifier); validation images are only measured.
Legend: N cells or images, C channels, H W pixels, h w feature grid.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from pretrain.common.errors import refuse
from pretrain.watch.knn import centre_crop
from pretrain.watch.probes import RetrievalProbe, retrieval_accuracy
from transfer.data import pixel_labels
from transfer.data.pixel_labels import DenseData, Labelled
from transfer.probing import segmentation
from transfer.probing.frozen_features import FrozenBackbone
from transfer.probing.segmentation import Cells, Fitted

RECALIBRATION_IMAGES, RECALIBRATION_BATCH = 64, 16
METRICS = ("knn_miou", "linear_miou", "knn_foreground_miou", "linear_foreground_miou", "knn_background_iou",
           "linear_background_iou", "knn_foreground_auc", "linear_foreground_auc", "retrieval")


@dataclass(frozen=True)
class Protocol:
    """What decides the metrics beside weights and data.

    Metrics of different protocols are not comparable.
    """

    layer: str = "res5"
    side: int = 320  # pixels of the shorter side of an image
    images: int = 500  # of each split, at most, evenly spaced
    cells: int = 20_000  # training cells, at most, drawn at random, the same number from each image
    batch_norm: str = "recalibrated"  # or stored: the file's own statistics
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """The metrics of one source of features, percent or None; `fitted` is what it learnt."""

    metrics: dict[str, float | None]
    details: dict
    fitted: Fitted


def recalibrate(features: FrozenBackbone, train: Labelled, protocol: Protocol, name: str) -> None:
    """Batch-norm statistics of centre crops of training images; without labels."""
    chosen = segmentation.evenly(len(train), min(RECALIBRATION_IMAGES, protocol.images))
    batches = torch.tensor(chosen).split(RECALIBRATION_BATCH)
    device = features.mean.device

    def crops() -> Iterator[Tensor]:
        for batch in _bar(batches, f"{name}: batch norm", "batch"):
            images = []
            for number in batch.tolist():
                pixels, _ = train.at(number, protocol.side)
                images.append(centre_crop(Image.fromarray(pixels), protocol.side))
            yield torch.from_numpy(np.stack(images)).to(device)

    features.recalibrate(crops(), len(batches))


@torch.no_grad()
def measure(features: nn.Module, data: DenseData, protocol: Protocol, name: str,
            examples: "Examples | None" = None) -> Measured:
    """All metrics but retrieval of one source of features: a module with `stride` that maps (N, 3,
    H, W) uint8 to (N, C, h, w). Raises `UserError` where nothing is labelled or the features are
    not finite."""
    fitted = segmentation.fit(training_cells(features, data, protocol, name), protocol.seed)
    classes = len(data.classes)
    counts = {way: np.zeros((classes, classes), np.int64) for way in ("knn", "linear")}
    objects: dict[str, list[np.ndarray]] = {"knn": [], "linear": [], "truth": []}
    chosen = segmentation.evenly(len(data.val), protocol.images)
    for number in _bar(chosen, f"{name}: val", "image"):
        pixels, labels = data.val.at(number, protocol.side)
        cells, grid = _cells(features, pixels)
        scores = {"knn": fitted.knn(cells), "linear": fitted.linear(cells)}
        for way, found in scores.items():
            predicted = segmentation.upsampled_classes(found, grid, labels.shape)
            counts[way] += segmentation.confusion(labels, predicted, classes)
            if examples is not None and way == "linear":
                examples.add(name, number, predicted)
        if data.background:
            shares = pixel_labels.cell_shares(labels, features.stride, classes)
            known = shares.sum(1) > 0
            objects["truth"].append(shares[known, 0] <= 0.5)
            for way, found in (("knn", scores["knn"]), ("linear", scores["linear"].softmax(1))):
                objects[way].append(1 - found[:, 0].cpu().numpy()[known])
    metrics = dict.fromkeys(METRICS)
    details: dict = {"cells": len(fitted.bank), "regularisation": fitted.chosen,
                     "held_out_cross_entropy": {str(key): round(value, 5) for key, value in fitted.losses.items()}}
    for way, matrix in counts.items():
        ious = segmentation.class_iou(matrix)
        refuse((not ious, "no validation pixel has a label: expected at least one class to measure"))
        metrics[f"{way}_miou"] = percent(np.mean(list(ious.values())))
        details[f"{way}_class_iou"] = {data.classes[number]: percent(value) for number, value in ious.items()}
        if data.background:
            metrics[f"{way}_background_iou"] = percent(ious.pop(0, None))
            if ious:
                metrics[f"{way}_foreground_miou"] = percent(np.mean(list(ious.values())))
            area = segmentation.auc(np.concatenate(objects[way]), np.concatenate(objects["truth"]))
            metrics[f"{way}_foreground_auc"] = percent(area)
    return Measured(metrics, details, fitted)


def training_cells(features: nn.Module, data: DenseData, protocol: Protocol, name: str) -> Cells:
    """Labelled cells of the training images, at most `protocol.cells` in all and the same number
    from each image."""
    chosen = segmentation.evenly(len(data.train), protocol.images)
    each = max(1, protocol.cells // len(chosen))
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for number in _bar(chosen, f"{name}: train", "image"):
        pixels, labels = data.train.at(number, protocol.side)
        shares = torch.from_numpy(pixel_labels.cell_shares(labels, features.stride, len(data.classes)))
        known = shares.sum(1).nonzero().flatten().numpy()
        drawn = np.sort(np.random.default_rng([protocol.seed, number]).permutation(known)[:each])
        cells, _ = _cells(features, pixels)
        image = torch.full((len(drawn),), number, device=cells.device)
        kept.append((cells[drawn], shares[drawn].to(cells.device), image))
    cells = Cells(*[torch.cat(part) for part in zip(*kept, strict=True)])
    images = len(cells.image.unique())
    refuse((images < 2, f"labelled pixels in {images} training images: expected at least 2"))
    refuse((not (cells.features.std(0) + cells.features.mean(0)).isfinite().all(),
            f"{name}: expected finite features, found values up to "
            f"{cells.features.abs().max():.2g}: the batch-norm statistics do not fit the weights; "
            "with --batch-norm recalibrated they are measured anew"))
    return cells


@torch.no_grad()
def retrieval(features: nn.Module, views: RetrievalProbe) -> float | None:
    """Matched-location retrieval of the maps of two global views, 0 to 1, as
    pretrain/watch/probes.py has it."""
    if not len(views.views):
        return None
    maps = []
    for view in views.views:
        parts = [features(part.to(views.device)) for part in view.split(RECALIBRATION_BATCH)]
        maps.append(F.normalize(torch.cat(parts).float(), dim=1))
    found = retrieval_accuracy(
        (maps[0], maps[1]), views.boxes.to(views.device), views.sizes.to(views.device), views.t_pos, views.t_pos_unit)
    return None if np.isnan(found) else found


class Examples:
    """Keeps some validation images that hold objects, and what the linear classifiers predicted,
    for probe.png."""

    def __init__(self, data: DenseData, protocol: Protocol, most: int = 4) -> None:
        self.data, self.numbers, self.images = data, [], []
        for number in segmentation.evenly(len(data.val), min(protocol.images, 4 * most)):
            image = data.val.at(number, protocol.side)
            if (image[1] > 0).any() and len(self.numbers) < most:
                self.numbers.append(number)
                self.images.append(image)
        self.predictions: dict[str, list[np.ndarray]] = {}

    def add(self, name: str, number: int, predicted: np.ndarray) -> None:
        """Keep a prediction (H, W) of image `number` if that one is shown."""
        if number in self.numbers:
            self.predictions.setdefault(name, []).append(predicted)


def _cells(features: nn.Module, pixels: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
    """(h*w, C) features of one image (H, W, 3), and (h, w)."""
    device = next((value.device for value in features.buffers()), torch.device("cpu"))
    maps = features(torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device))
    return maps[0].flatten(1).T.contiguous().float(), tuple(maps.shape[-2:])


def percent(value: float | None) -> float | None:
    """A share, 0 to 1, in percent as probe.json has it."""
    return None if value is None else round(100 * float(value), 4)


def _bar(items: Sequence, title: str, unit: str) -> tqdm:
    return tqdm(items, desc=title, unit=unit, mininterval=0.5 if sys.stderr.isatty() else 15, dynamic_ncols=True)
