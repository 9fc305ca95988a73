"""How far features spread: two metrics that show a collapse before the loss does.

Legend: N cells, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_std(cells: Tensor) -> float:
    """Spread of the directions of (N, C) features: the standard deviation over the cells of each
    channel of the L2-normalised features, mean over the channels, times sqrt(C) (Chen & He,
    "Exploring Simple Siamese Representation Learning", 2021). About 1 for features that point
    everywhere alike, 0 when all point the same way. A backbone's features end in a ReLU, all above
    0, and stay well below 1. NaN without cells."""
    if not len(cells):
        return float("nan")
    directions = F.normalize(cells.double(), dim=1)
    return (directions.std(0, correction=0).mean() * cells.shape[1] ** 0.5).item()


def effective_rank(cells: Tensor) -> float:
    """Number of dimensions that (N, C) features use: exp of the entropy of their singular values
    over their sum (Roy & Vetterli, "The effective rank", 2007), of the L2-normalised features so
    that no strong cell decides. 1 when all lie on one line, at most min(N, C). Nothing is centred:
    a common direction of all cells lowers it. NaN without a cell other than 0, or when one is not
    finite."""
    if not len(cells) or not cells.isfinite().all():
        return float("nan")
    directions = F.normalize(cells.double(), dim=1)
    if directions.shape[0] > directions.shape[1]:
        directions = directions.T
    # The smaller Gram matrix instead of an SVD of the features: a third of the time at 1024 x 2048.
    squares = torch.linalg.eigvalsh(directions @ directions.T)
    noise = squares.max() * max(cells.shape) * torch.finfo(torch.float64).eps
    values = squares[squares > noise].sqrt()
    if not len(values):
        return float("nan")
    shares = values / values.sum()
    return torch.exp(-(shares * shares.log()).sum()).item()


def sample_cells(maps: Tensor, cells: int, seed: int = 0) -> Tensor:
    """At most `cells` cells of (N, C, H, W) maps, drawn without replacement, as (cells, C) float32
    on the CPU; the same ones for the same shape and seed, whatever the global random state."""
    flat = maps.permute(0, 2, 3, 1).flatten(0, 2)
    chosen = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))[:cells]
    return flat[chosen.to(flat.device)].float().cpu()
