"""Segmentation from frozen features, two ways: by the nearest training cells, and by a linear classifier.

Both learn from cells whose label is the share of each class among their pixels, and give class
scores for each cell. The scores are upsampled to the pixels and the best class of each pixel is
compared with its label. Legend: N cells, C channels, K classes, H W pixels, h w feature grid.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor

from pretrain.watch.knn import NEIGHBOURS, TEMPERATURE
from transfer.data.pixel_labels import IGNORE

# Weights of |W|^2 / 2 beside the mean cross-entropy, strongest first: each fit starts where the one
# before ended.
REGULARISATION = (10.0, 1.0, 0.1, 0.01, 0.001)
ITERATIONS = 60  # of L-BFGS for each fit, at most
HELD_OUT = 0.2  # of the training images, to choose the regularisation
AT_ONCE = 4096  # cells whose neighbours are looked for together


@dataclass(frozen=True)
class Cells:
    """Training cells: `features` (N, C), `shares` (N, K) which sum to 1, `image` (N,) the number of
    their image."""

    features: Tensor
    shares: Tensor
    image: Tensor


@dataclass(frozen=True)
class Fitted:
    """What was learnt from training cells: the two moments of each channel, the bank of the k-NN,
    the linear weights.

    `chosen` is the regularisation, `losses` the cross-entropy on held-out training images for each
    one tried.
    """

    mean: Tensor
    deviation: Tensor
    bank: Tensor
    shares: Tensor
    weight: Tensor  # (K, C)
    bias: Tensor  # (K,)
    chosen: float
    losses: dict[float, float]

    def standardise(self, features: Tensor) -> Tensor:
        """(N, C) with the mean and deviation of the training cells removed."""
        return (features - self.mean) / self.deviation

    def knn(self, features: Tensor) -> Tensor:
        """(N, K) scores of raw features: the weighted mean of the neighbours' shares; each row sums
        to 1."""
        return knn_scores(self.bank, self.shares, F.normalize(self.standardise(features), dim=1))

    def linear(self, features: Tensor) -> Tensor:
        """(N, K) logits of raw features."""
        return F.linear(self.standardise(features), self.weight, self.bias)


def fit(cells: Cells, seed: int) -> Fitted:
    """Learn from training cells alone.

    The held-out images are drawn by `seed`; the final fit uses all of them.
    """
    mean, deviation = cells.features.mean(0), cells.features.std(0, correction=0)
    deviation = torch.where(deviation > 1e-6 * deviation.max(), deviation, 1.0)  # dead channels stay near 0
    features = (cells.features - mean) / deviation
    losses = _held_out_losses(features, cells, seed)
    chosen = min(losses, key=losses.get)
    weight = bias = None
    for strength in REGULARISATION[:REGULARISATION.index(chosen) + 1]:  # the same path as when it was chosen
        weight, bias = logistic(features, cells.shares, strength, weight, bias)
    return Fitted(mean, deviation, F.normalize(features, dim=1), cells.shares, weight, bias, chosen, losses)


def _held_out_losses(features: Tensor, cells: Cells, seed: int) -> dict[float, float]:
    images = cells.image.unique()
    count = min(max(1, round(HELD_OUT * len(images))), len(images) - 1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    out = torch.isin(cells.image, images[order[:count].to(images.device)])
    weight = bias = None
    losses = {}
    for strength in REGULARISATION:
        weight, bias = logistic(features[~out], cells.shares[~out], strength, weight, bias)
        losses[strength] = F.cross_entropy(F.linear(features[out], weight, bias), cells.shares[out]).item()
    return losses


def logistic(features: Tensor, shares: Tensor, strength: float, weight: Tensor | None = None,
             bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(K, C) weights and (K,) biases of a multinomial logistic regression on soft labels, by
    L-BFGS.

    Minimises the mean cross-entropy with `shares` (N, K) plus strength / 2 * |weight|^2 (the bias
    is free), from zeros or from the values given. Deterministic.
    """
    if weight is None:
        weight, bias = features.new_zeros(shares.shape[1], features.shape[1]), features.new_zeros(shares.shape[1])
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-5, tolerance_change=1e-7,
                                  line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), shares) + strength / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()


def knn_scores(bank: Tensor, shares: Tensor, queries: Tensor) -> Tensor:
    """(Q, K): mean of the shares (N, K) of the nearest bank vectors (N, C), weighted by exp(cosine
    / temperature).

    bank and queries (Q, C) have unit length.
    """
    scores = []
    for part in queries.split(AT_ONCE):
        near, index = (part @ bank.T).topk(min(NEIGHBOURS, len(bank)), dim=1)
        weights = torch.softmax(near / TEMPERATURE, dim=1)
        scores.append((weights.unsqueeze(-1) * shares[index]).sum(1))
    return torch.cat(scores)


def upsampled_classes(scores: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """(H, W) class numbers: the best class of each pixel after bilinear upsampling of (h*w, K)
    scores."""
    # A pixel's scores are weighted means of its cells', with the same weights for all classes: a
    # class that is below one and the same other class in every cell wins nowhere. Most of many
    # classes need no upsampling.
    rivals = scores.argmax(1).unique()
    below = (scores.unsqueeze(2) < scores[:, rivals].unsqueeze(1)).all(0).any(1)
    kept = (~below).nonzero().flatten()
    maps = scores[:, kept].T.reshape(1, -1, *grid)
    best = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0].argmax(0)
    return kept[best].cpu().numpy()


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) pixel counts, rows true, columns predicted; pixels without a label are left out."""
    known = truth != IGNORE
    return np.bincount(truth[known].astype(np.int64) * classes + predicted[known],
                       minlength=classes * classes).reshape(classes, classes)


def class_iou(counts: np.ndarray) -> dict[int, float]:
    """{class: intersection over union, 0 to 1} of the classes that the labels hold; pixels of all
    images together.

    A class that is only predicted has no entry: its pixels lower the classes that they were taken
    from.
    """
    right, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    return {int(number): float(right[number] / (true[number] + predicted[number] - right[number]))
            for number in np.flatnonzero(true)}


def auc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve (ties count half), 0 to 1; None when one of the two sides is empty.
    """
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return None
    return float((rankdata(scores)[positive].sum() - count * (count + 1) / 2) / (count * others))


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()
