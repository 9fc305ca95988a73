"""What is watched while training: does a cell find the cell of another view that sees the same place, do the features
still spread, and (on labelled folders) are an image's neighbours of its class?

Legend: B images, C channels, H W feature grid, L = H*W cells.
"""

import copy

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

PROBE_SEED = 7_919  # apart from every epoch's draws
STATISTICS_CELLS = 1024  # cells the spread is measured on; no effective rank is above it


class Probe:
    """Every probe of a run: retrieval and spread of the features, and k-NN when `knn_images` is above 0.

    Raises `UserError` when k-NN is asked for on a folder without labels.
    """

    def __init__(self, images: ImageList, config: Config, device: torch.device) -> None:
        train, runtime = config.train, config.runtime
        self.knn = KnnProbe(images, runtime.knn_images, train, device) if runtime.knn_images else None
        self.retrieval = RetrievalProbe(images, runtime.probe_images, train, device, *config.objective.matching())

    def __call__(self, objective: Objective) -> dict[str, float]:
        """The metrics of all probes, by their key in metrics.jsonl; the networks and the random state stay as they
        are."""
        values = self.retrieval(objective)
        if self.knn is not None:
            values |= self.knn(objective.student.encoder)
        return values


class RetrievalProbe:
    """Matched-location retrieval on fixed pairs of global views of fixed images.

    For each cell of the first view with a cell of the second closer than T_pos: is the cell of the second view (of the
    same image) with the highest cosine the nearest one in the source image? Chance is 1 / L. Batch norm uses the
    probe batch's own statistics, so that an untrained network is judged fairly.
    """

    def __init__(
        self, names: ImageList, images: int, train: Train, device: torch.device, t_pos: float = 0.7,
        t_pos_unit: Unit = "cell_diagonal",
    ) -> None:
        self.device, self.t_pos, self.t_pos_unit = device, t_pos, t_pos_unit
        first, second, boxes, sizes = [], [], [], []
        for index in np.linspace(0, len(names) - 1, min(images, len(names))).astype(int):
            try:
                image = names.pixels(int(index))
            except UnreadableImage:
                continue
            kinds = view_kinds(train)[:2]
            made = [make_view(image, kind, np.random.default_rng([PROBE_SEED, int(index), view]))
                    for view, kind in enumerate(kinds)]
            first.append(made[0][0])
            second.append(made[1][0])
            boxes.append([made[0][1], made[1][1]])
            sizes.append(image.shape[1::-1])
        self.views = torch.from_numpy(np.stack([first, second])) if first else torch.empty(0)
        self.boxes = torch.from_numpy(np.array(boxes)).transpose(0, 1) if boxes else torch.empty(0)
        self.sizes = torch.tensor(sizes, dtype=torch.float32)

    @torch.no_grad()
    def __call__(self, objective: Objective) -> dict[str, float]:
        """For each of `objective.maps`: retrieval accuracy 0..1, and feature_std and effective_rank
        (pretrain/watch/spread.py) of the looking view's map, over at most `STATISTICS_CELLS` fixed cells; and
        retrieval_chance."""
        if not len(self.views):
            return {}
        views = normalise(self.views.to(self.device))
        copied = copy.deepcopy(objective)
        for network in copied.networks():
            network.train()  # batch norm uses the statistics of the batch it is given
        maps = {}
        for name, pair in copied.maps(views.flatten(0, 1)).items():
            maps[name] = [F.normalize(one.float(), dim=1).unflatten(0, views.shape[:2]) for one in pair]
        values, spread = {}, {}
        for name, (looking, found) in maps.items():
            values[f"retrieval_{name}"] = self._accuracy(looking[0], found[1])
            cells = sample_cells(looking.flatten(0, 1), STATISTICS_CELLS)
            spread[f"feature_std_{name}"] = feature_std(cells)
            spread[f"effective_rank_{name}"] = effective_rank(cells)
            values["retrieval_chance"] = 1 / found.shape[-2:].numel()
        return values | spread

    def _accuracy(self, first: Tensor, second: Tensor) -> float:
        return retrieval_accuracy(first, second, self.boxes[0].to(self.device), self.boxes[1].to(self.device),
                                  self.sizes.to(self.device), self.t_pos, self.t_pos_unit)


def retrieval_accuracy(
    first: Tensor, second: Tensor, first_boxes: Tensor, second_boxes: Tensor, sizes: Tensor, t_pos: float,
    unit: Unit = "cell_diagonal",
) -> float:
    """Share of matched cells of `first` whose most similar cell of `second` is the nearest one in source pixels.

    first, second: (B, C, H, W) of unit length over C. Boxes: (B, 4) fractions; sizes (B, 2) width, height in pixels.
    NaN when no cell has a match.
    """
    grids = tuple(first.shape[-2:]), tuple(second.shape[-2:])
    matched = match(first_boxes, second_boxes, *grids, t_pos, unit, sizes).any(-1)
    scale = sizes.repeat(1, 2)
    distance = torch.cdist(cell_centres(first_boxes * scale, grids[0]), cell_centres(second_boxes * scale, grids[1]),
                           compute_mode="donot_use_mm_for_euclid_dist")
    similar = first.flatten(2).transpose(1, 2) @ second.flatten(2)  # (B, L, L)
    right = similar.argmax(-1) == distance.argmin(-1)
    return (right & matched).sum().item() / matched.sum().item() if matched.any() else float("nan")
