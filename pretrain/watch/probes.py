"""Probes of a training: does a cell find the cell of another view that sees the same place, do the features still
spread, and (on labelled folders) are an image's neighbours of its class?

Legend: B images, C channels, H W feature grid, L = H*W cells.
"""

import contextlib
import copy
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.config import Config
from pretrain.data.images import ImageList
from pretrain.data.pixels import UnreadableImage
from pretrain.data.views import make_view, view_kinds
from pretrain.matcher import Unit, cell_centres, match
from pretrain.model import normalise
from pretrain.objective import Objective
from pretrain.options.shared_options import Train
from pretrain.watch.knn import KnnProbe
from pretrain.watch.spread import effective_rank, feature_std, sample_cells

PROBE_SEED = 7_919  # no epoch draws from it
STATISTICS_CELLS = 1024  # of the spread; no effective rank is above it


class Probe:
    """Every probe of a run: retrieval and spread of the features, and k-NN when `knn_images` is
    above 0.

    Raises `UserError` when k-NN is asked for on a folder without labels.
    """

    def __init__(self, images: ImageList, config: Config, device: torch.device) -> None:
        train, runtime = config.train, config.runtime
        self.knn = None
        if runtime.knn_images:
            self.knn = KnnProbe(images, runtime.knn_images, train, device)
        self.retrieval = RetrievalProbe(images, runtime.probe_images, train, device, config.objective.matching())

    def __call__(self, objective: Objective) -> dict[str, float]:
        """The metrics of all probes, by their key in metrics.jsonl; networks and random state do
        not change."""
        values = self.retrieval(objective)
        if self.knn is not None:
            values |= self.knn(objective.student.encoder)
        return values


class RetrievalProbe:
    """Matched-location retrieval on fixed pairs of global views of fixed images.

    For each cell of the first view with a cell of the second closer than T_pos: is the cell of the
    second view (of the same image) with the highest cosine the nearest one in the source image?
    Chance is 1 / L. Batch norm uses the probe batch's own statistics, so that an untrained network
    is judged fairly. `matching`: T_pos and its unit.
    """

    def __init__(
        self, names: ImageList, images: int, train: Train, device: torch.device,
        matching: tuple[float, Unit] = (0.7, "cell_diagonal"),
    ) -> None:
        self.device = device
        self.t_pos, self.t_pos_unit = matching
        kinds, views, boxes, sizes = view_kinds(train)[:2], [], [], []
        for index in np.linspace(0, len(names) - 1, min(images, len(names))).astype(int).tolist():
            with contextlib.suppress(UnreadableImage):
                image = names.pixels(index)
                made = [make_view(image, kind, np.random.default_rng([PROBE_SEED, index, view]))
                        for view, kind in enumerate(kinds)]
                pixels, places = zip(*made, strict=True)
                views.append(pixels)
                boxes.append(places)
                sizes.append(image.shape[1::-1])
        self.views = self.boxes = torch.empty(0)
        if views:
            self.views = torch.from_numpy(np.stack(views, axis=1))  # (2, B, 3, S, S) uint8
            self.boxes = torch.from_numpy(np.array(boxes)).transpose(0, 1)  # (2, B, 4)
        self.sizes = torch.tensor(sizes, dtype=torch.float32)

    @torch.no_grad()
    def __call__(self, objective: Objective) -> dict[str, float]:
        """For each of `objective.maps`: retrieval accuracy 0..1, and feature_std and effective_rank
        (pretrain/watch/spread.py) of the looking view's map, over at most `STATISTICS_CELLS` fixed
        cells; and retrieval_chance."""
        if not len(self.views):
            return {}
        pixels = normalise(self.views.to(self.device))
        copied = copy.deepcopy(objective)
        for network in copied.networks():
            network.train()  # batch norm uses the statistics of the batch it is given
        values, spread = {}, {}
        for name, pair in copied.maps(pixels.flatten(0, 1)).items():
            looking = F.normalize(pair[0].float(), dim=1).unflatten(0, pixels.shape[:2])
            found = F.normalize(pair[1].float(), dim=1).unflatten(0, pixels.shape[:2])
            values[f"retrieval_{name}"] = retrieval_accuracy(
                (looking[0], found[1]), self.boxes.to(self.device), self.sizes.to(self.device), self.t_pos,
                self.t_pos_unit)
            cells = sample_cells(looking.flatten(0, 1), STATISTICS_CELLS)
            spread[f"feature_std_{name}"] = feature_std(cells)
            spread[f"effective_rank_{name}"] = effective_rank(cells)
            values["retrieval_chance"] = 1 / found.shape[-2:].numel()
        return values | spread


def retrieval_accuracy(
    maps: tuple[Tensor, Tensor], boxes: Sequence[Tensor], sizes: Tensor, t_pos: float, unit: Unit = "cell_diagonal"
) -> float:
    """Share of matched cells of the first view whose most similar cell of the second is the nearest
    one in source pixels. NaN when no cell has a match.

    maps: of the two views, (B, C, H, W) each, of unit length over C. boxes: of the two views,
    (B, 4) each, fractions of the source image. sizes: (B, 2) width and height in source pixels.
    t_pos, unit: as in `match`.
    """
    first, second = maps
    grids = tuple(first.shape[-2:]), tuple(second.shape[-2:])
    matched = match(*boxes, *grids, t_pos, unit, sizes).any(-1)
    if not matched.any():
        return float("nan")
    scale = sizes.repeat(1, 2)
    distance = torch.cdist(cell_centres(boxes[0] * scale, grids[0]), cell_centres(boxes[1] * scale, grids[1]),
                           compute_mode="donot_use_mm_for_euclid_dist")
    similar = first.flatten(2).transpose(1, 2) @ second.flatten(2)  # (B, L, L)
    right = similar.argmax(-1) == distance.argmin(-1)
    return (right & matched).sum().item() / matched.sum().item()
