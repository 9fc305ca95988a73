"""k-NN on labelled folders: do the backbone's pooled features put images of one class together?

Labels are those of the run (pretrain/data/labels.py), folder names where it has none. Neighbours
are weighted as in instance discrimination (Wu et al., 2018) and DINO: exp(cosine / 0.07).
Legend: N images, C channels, S side in pixels.
"""

import contextlib
import copy
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pretrain.common.errors import UserError
from pretrain.data.images import ImageList
from pretrain.data.labels import FORMS, Kind, class_of
from pretrain.data.pixels import UnreadableImage
from pretrain.model import normalise
from pretrain.options.shared_options import Train

T = TypeVar("T")
NEIGHBOURS = 20
TEMPERATURE = 0.07
RESIZE = 256 / 224  # shorter side over the side of the crop
AT_ONCE = 64  # images of one forward pass; batch norm sees these together
ORDER_SEED = 7_919


def choose(names: Sequence[str], images: int, kind: Kind) -> list[tuple[str, int]]:
    """At most `images` pairs (class, number of an image), by class: evenly spaced classes with at
    least two images each, and of each class as many evenly spaced images as there is room for.
    `kind` as in pretrain/data/labels.py.

    Raises `UserError` unless there are two classes of two images or more; images without a class
    are left out."""
    members: dict[str | None, array] = defaultdict(lambda: array("q"))  # a list would take 36 bytes an image
    for number, name in enumerate(names):
        members[class_of(name, kind)].append(number)
    without = len(members.pop(None, ()))
    usable = sorted(label for label, numbers in members.items() if len(numbers) > 1)
    if len(usable) < 2:
        raise UserError(f"--knn-images: expected {FORMS[kind]} with two classes or more of two images or more, found "
                        f"{len(usable)} of them ({without} images without a class): use --knn-images 0, or "
                        "name the images after their classes")
    kept, chosen = _spaced(usable, images // 2), []
    for label in kept:
        for number in _spaced(members[label], images // len(kept)):
            chosen.append((label, number))
    return chosen


def _spaced(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spaced."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(most, len(items))).astype(int)]


def knn_top1(features: Tensor, labels: Tensor) -> float:
    """Share of images whose class wins the vote of their `NEIGHBOURS` nearest others, each image
    left out in turn.

    features: (N, C), any length; labels: (N,) class numbers from 0. A vote weighs
    exp(cosine / TEMPERATURE).
    """
    directions = F.normalize(features.float(), dim=1)
    cosine = directions @ directions.T
    cosine.fill_diagonal_(-torch.inf)
    near, index = cosine.topk(min(NEIGHBOURS, len(features) - 1), dim=1)
    # Relative to the nearest: the ranking of the classes is the same, and a weight cannot be too small for a float.
    weights = ((near - near[:, :1]) / TEMPERATURE).exp()
    votes = torch.zeros(len(features), int(labels.max()) + 1, device=features.device)
    votes.scatter_add_(1, labels[index], weights)
    return (votes.argmax(1) == labels).float().mean().item()


def centre_crop(image: Image.Image, side: int) -> np.ndarray:
    """The middle of an RGB image, (3, S, S) uint8: shorter side to S * 256 / 224, then S x S
    (bicubic)."""
    scale = max(side, round(side * RESIZE)) / min(image.size)
    # Crop and scale in one step, in source pixels.
    width = side / scale
    left, top = (image.width - width) / 2, (image.height - width) / 2
    cut = image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + width, top + width))
    return np.ascontiguousarray(np.asarray(cut).transpose(2, 0, 1))


class KnnProbe:
    """Leave-one-out k-NN accuracy of an encoder on at most `images` labelled images, the same ones
    each time.

    Batch norm uses the statistics of each forward pass, as in the retrieval probe; the images are
    mixed so that no pass holds only one class. Raises `UserError` when the images have no labels.
    """

    def __init__(self, names: ImageList, images: int, train: Train, device: torch.device) -> None:
        self.device = device
        kind = "folder" if train.labels == "none" else train.labels
        crops: list[tuple[str, np.ndarray]] = []
        readable: Counter[str] = Counter()  # images of each class
        for label, number in choose(names, images, kind):
            with contextlib.suppress(UnreadableImage):
                image = Image.fromarray(names.pixels(number))
                crops.append((label, centre_crop(image, train.global_size)))
                readable[label] += 1
        classes = sorted(label for label, count in readable.items() if count > 1)
        labels, pixels = [], []
        for i in np.random.default_rng(ORDER_SEED).permutation(len(crops)):
            label, crop = crops[i]
            if label in classes:  # the only readable image of a class could never be right
                labels.append(classes.index(label))
                pixels.append(crop)
        self.labels = torch.tensor(labels)
        self.pixels = torch.from_numpy(np.stack(pixels)) if len(classes) > 1 else torch.empty(0)

    @torch.no_grad()
    def __call__(self, encoder: nn.Module) -> dict[str, float]:
        """{"knn_top1": share 0..1}; nothing when too few images could be read."""
        if not len(self.pixels):
            return {}
        encoder = copy.deepcopy(encoder).train()
        passes = -(-len(self.pixels) // AT_ONCE)
        pooled = []
        for part in self.pixels.tensor_split(passes):
            pooled.append(encoder(normalise(part.to(self.device))).float().mean((2, 3)))
        return {"knn_top1": knn_top1(torch.cat(pooled), self.labels.to(self.device))}
