"""What `clove show` shows: views of an image, positive cells, what a network makes of a cell.

Legend: H W feature grid, L = H*W cells in row-major order, C channels, S side of a view in pixels.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pretrain import objectives
from pretrain.common.errors import UserError, refuse
from pretrain.config import Config
from pretrain.data.images import ImageList
from pretrain.data.pixels import UnreadableImage
from pretrain.data.views import make_views
from pretrain.encoder import Encoder
from pretrain.matcher import match
from pretrain.model import normalise
from pretrain.objective import Negatives, Objective
from pretrain.options.shared_options import Train
from pretrain.runs import checkpoint

COMPANY = 7  # other images in the forward pass: batch norm needs more than one


@dataclass(frozen=True)
class View:
    """One view: `pixels` (3, S, S) uint8, `box` (4,) fractions of the source image, `grid` (H,
    W)."""

    name: str  # global 1, local 3
    pixels: np.ndarray
    box: Tensor
    grid: tuple[int, int]

    @property
    def is_global(self) -> bool:
        return self.name.startswith("global")

    @property
    def short(self) -> str:
        """G1, L3."""
        return self.name[0].upper() + self.name.split()[1]

    @property
    def mirrored(self) -> bool:
        return bool(self.box[0] > self.box[2])

    @property
    def full_name(self) -> str:
        """global 1, or global 1, mirrored."""
        return f"{self.name}, mirrored" if self.mirrored else self.name

    def pixels_of(self, image: Image.Image) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in source pixels."""
        x0, y0, x1, y1 = self.box.tolist()
        left, right = sorted((x0, x1))
        return left * image.width, y0 * image.height, right * image.width, y1 * image.height


@dataclass(frozen=True)
class Scene:
    """The views of an image, and the pair of them that is looked at: `pair` (student view, teacher
    view) from 0."""

    image: Image.Image
    name: str
    index: int
    epoch: int
    views: list[View]
    pair: tuple[int, int]
    config: Config

    @property
    def student(self) -> View:
        return self.views[self.pair[0]]

    @property
    def teacher(self) -> View:
        return self.views[self.pair[1]]

    @property
    def positives(self) -> Tensor:
        """(L student, L teacher) bool, M of eq. 1 for the pair."""
        return self.positives_of(self.student)

    def positives_of(self, view: View) -> Tensor:
        """(L, L teacher) bool, M of eq. 1 for any view and the teacher view."""
        return match(view.box, self.teacher.box, view.grid, self.teacher.grid, *self.config.objective.matching(),
                     torch.tensor(self.image.size, dtype=torch.float32))

    def default_cell(self) -> int:
        """The student cell nearest the middle of the view among those with a positive (among all
        when none has)."""
        rows, columns = self.student.grid
        cells = torch.arange(rows * columns)
        away = (cells // columns - (rows - 1) / 2) ** 2 + (cells % columns - (columns - 1) / 2) ** 2
        matched = self.positives.any(1)
        return int(torch.where(matched | ~matched.any(), away, torch.inf).argmin())


@dataclass(frozen=True)
class CellReport:
    """What the network makes of one cell of the pair's first view.

    map_name: of `Objective.maps`. cosine: (L,) with the cells of the second view. positives: cells
    of it. negatives: None for an objective without. attention: (H, W) shares that sum to 1; None
    without attention.
    """

    cell: int
    map_name: str
    cosine: Tensor
    positives: list[int]
    negatives: Negatives | None
    attention: Tensor | None


def feature_grid(train: Train, size: int) -> tuple[int, int]:
    """(H, W) of the feature map of a view of `size` pixels."""
    with torch.device("meta"):
        # In eval: in training batch norm refuses a single cell.
        maps = Encoder(train.architecture, train.last_stage_stride).eval()(torch.empty(1, 3, size, size))
    return maps.shape[2], maps.shape[3]


def make_scene(
    names: ImageList, index: int, epoch: int, config: Config, pair: tuple[int, int] = (0, 1)
) -> Scene:
    """The views that a run draws of image number `index` in `epoch`; raises `UnreadableImage`."""
    train = config.train
    image = Image.fromarray(names.pixels(index))
    pixels, boxes, _ = make_views(image, replace(train, colour_on="loader"), epoch, index)
    grids = {size: feature_grid(train, size) for size in {one.shape[1] for one in pixels}}
    views = []
    for number, (one, box) in enumerate(zip(pixels, boxes, strict=True)):
        local = number - train.global_views
        name = f"global {number + 1}" if local < 0 else f"local {local + 1}"
        views.append(View(name, one, torch.from_numpy(box), grids[one.shape[1]]))
    return Scene(image, names[index], index, epoch, views, pair, config)


def load_objective(config: Config, classes: tuple[str, ...], run: Path | None) -> tuple[Objective, str]:
    """The objective with the networks of a run's newest checkpoint, or as a run starts; and a note
    that says which."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        objective = objectives.get(config.objective_name)(config.train, config.objective, classes, steps=1)
    if run is None:
        return objective, "random initial network (no --run given): similarities are those before any training"
    state, meta, _ = checkpoint.load_newest(run, tidy=False)
    refuse((state is None, f"no whole checkpoint in {run}: expected checkpoints/step_*.pt of `clove pretrain --output "
                           f"{run}`; leave out --run to see the random initial network"))
    try:
        objective.student.load_state_dict(state["student"])
        if objective.follower is not None:
            objective.follower.load_state_dict(state["follower"])
    except RuntimeError:
        raise UserError(f"the checkpoint in {run} is of another network: leave out options that change the "
                        "network (architecture, projector, heads, attention), and show it the images that it saw"
                        ) from None
    return objective, f"network of {run.resolve().name} after step {meta['step']}"


@torch.no_grad()
def report_cell(scene: Scene, cell: int, objective: Objective, names: ImageList) -> CellReport:
    """Cosines, negatives and attention of one cell of the scene's first view, in the last of the
    objective's maps.

    Batch norm sees the views of this image together with those of a few others of the folder, as
    in a training step.
    """
    of_student, of_teacher = scene.pair
    global_views = scene.config.train.global_views
    everyone = [[view.pixels for view in scene.views], *_company(scene, names)]
    globals_ = normalise(_stack(everyone, slice(global_views)))
    group, place = globals_, of_student
    if not scene.student.is_global:
        group, place = normalise(_stack(everyone, slice(global_views, None))), of_student - global_views
    name, (looking, _) = list(objective.maps(group.flatten(0, 1)).items())[-1]
    _, found = objective.maps(globals_.flatten(0, 1))[name]
    one = F.normalize(looking.unflatten(0, group.shape[:2])[place, 0].flatten(1)[:, cell], dim=0)  # (C,)
    others = F.normalize(found.unflatten(0, globals_.shape[:2])[of_teacher, 0].flatten(1), dim=0)  # (C, L)
    attention = objective.attention(group.flatten(0, 1))
    if attention is not None:
        attention = attention.unflatten(0, group.shape[:2])[place, 0, cell].reshape(scene.student.grid)
    positives, cosine = scene.positives[cell], one @ others
    refuse((not cosine.isfinite().all(), "the network gives NaN or inf: its training diverged; show another run, or "
                                         "the random network without --run"))
    return CellReport(cell, name, cosine, positives.nonzero().flatten().tolist(),
                      objective.negatives(one, others, positives), attention)


def _company(scene: Scene, names: ImageList) -> list[list[np.ndarray]]:
    others, drawn = len(names) - 1, []
    for place in np.linspace(0, others - 1, min(COMPANY, others)).astype(int).tolist():
        number = place + (place >= scene.index)
        try:
            image = names.pixels(number)
        except UnreadableImage:
            continue
        drawn.append(make_views(image, replace(scene.config.train, colour_on="loader"), scene.epoch, number)[0])
    return drawn


def _stack(images: list[list[np.ndarray]], group: slice) -> Tensor:
    """Of each image the views of a group -> (V, B, 3, S, S)."""
    return torch.from_numpy(np.stack([np.stack(views[group]) for views in images], axis=1))
