"""What `python -m pretrain show` shows: views of one image, their positive cells, and what a network makes of a cell.

Legend: H W feature grid, L = H*W cells in row-major order, C channels, S side of a view in pixels.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pretrain import checkpoint
from pretrain.clove_options import CloveOptions
from pretrain.config import Config
from pretrain.encoder import Encoder
from pretrain.errors import UserError
from pretrain.images import ImageList
from pretrain.matcher import match
from pretrain.model import Student, Teacher, normalise
from pretrain.pixels import UnreadableImage
from pretrain.shared_options import Train
from pretrain.views import make_views

COMPANY = 7  # other images in the forward pass: batch norm needs more than one


@dataclass(frozen=True)
class View:
    """One view: `pixels` (3, S, S) uint8, `box` (4,) fractions of the source image, `grid` (H, W)."""

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

    def pixels_of(self, image: Image.Image) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in source pixels."""
        x0, y0, x1, y1 = self.box.tolist()
        left, right = sorted((x0, x1))
        return left * image.width, y0 * image.height, right * image.width, y1 * image.height


@dataclass(frozen=True)
class Scene:
    """The views of an image, and the pair of them that is looked at: `pair` (student view, teacher view) from 0."""

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
        return match(view.box, self.teacher.box, view.grid, self.teacher.grid, self.config.objective.t_pos,
                     self.config.objective.t_pos_unit, torch.tensor(self.image.size, dtype=torch.float32))

    def default_cell(self) -> int:
        """The student cell nearest the middle of the view among those with a positive (among all when none has)."""
        rows, columns = self.student.grid
        cells = torch.arange(rows * columns)
        away = (cells // columns - (rows - 1) / 2) ** 2 + (cells % columns - (columns - 1) / 2) ** 2
        matched = self.positives.any(1)
        return int(torch.where(matched | ~matched.any(), away, torch.inf).argmin())


@dataclass(frozen=True)
class CellReport:
    """What the network makes of one student cell.

    cosine: (L teacher,) with the teacher cells. positives, negatives: teacher cells, hardest negative first. dropped:
    the most similar one, which eq. 2 leaves out (None when nothing is left). negative_cosine: cos(C_i, F_neg).
    attention: (H, W) shares that sum to 1, mean over the heads; None without attention.
    """

    cell: int
    cosine: Tensor
    positives: list[int]
    negatives: list[int]
    dropped: int | None
    negative_cosine: float
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


def load_networks(config: Config, run: Path | None) -> tuple[Student, Teacher, str]:
    """Student and teacher of a run's newest checkpoint, or as a run starts; and a note that says which."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        student = Student(config.train, config.objective)
        teacher = Teacher(student).train()
    if run is None:
        return student, teacher, "random initial network (no --run given): similarities are those before any training"
    state, meta, _ = checkpoint.load_newest(run, tidy=False)
    if state is None:
        raise UserError(f"no whole checkpoint in {run}: expected checkpoints/step_*.pt of `python -m pretrain --output "
                        f"{run}`; leave out --run to see the random initial network")
    try:
        student.load_state_dict(state["student"])
        teacher.load_state_dict(state["teacher"])
    except RuntimeError:
        raise UserError(f"the checkpoint in {run} is of another network: leave out options that change the network "
                        "(architecture, projector, heads, attention)") from None
    return student, teacher, f"network of {run} after step {meta['step']}"


@torch.no_grad()
def report_cell(
    scene: Scene, cell: int, student: Student, teacher: Teacher, names: ImageList
) -> CellReport:
    """Cosines, negatives and attention of one student cell of the scene's pair.

    Batch norm sees the views of this image together with those of a few others of the folder, as in a training step.
    """
    (of_student, of_teacher), options = scene.pair, scene.config.objective
    global_views = scene.config.train.global_views
    everyone = [[view.pixels for view in scene.views], *_company(scene, names)]
    split = slice(global_views) if scene.student.is_global else slice(global_views, None)
    group = _stack([views[split] for views in everyone])
    maps = student.projector(student.encoder(normalise(group).flatten(0, 1)))
    maps = maps.unflatten(0, group.shape[:2])[of_student - (split.start or 0), :1]  # (1, C, H, W)
    contextualized = student.attention(maps).flatten(2)[0, :, cell]  # (C,)
    globals_ = _stack([views[:global_views] for views in everyone])
    projected = teacher(normalise(globals_))[of_teacher, 0].flatten(1)  # (C, L)
    attention = None
    if options.attention != "none":
        attention = student.attention.weights(maps).mean(1)[0, cell].reshape(scene.student.grid)
    positives = scene.positives[cell]
    cosine = contextualized @ projected
    if not cosine.isfinite().all():
        raise UserError("the network gives NaN or inf: its training diverged; show another run, or the random network "
                        "without --run")
    dropped, negatives = hardest_negatives(cosine, positives, options)
    return CellReport(cell, cosine, positives.nonzero().flatten().tolist(), negatives, dropped,
                      _negative_cosine(contextualized, projected, negatives, options), attention)


def hardest_negatives(cosine: Tensor, positives: Tensor, options: CloveOptions) -> tuple[int | None, list[int]]:
    """The teacher cell that is dropped, and those that F_neg of eq. 2 is made of, by falling cosine.

    cosine, positives: (L,) of one student cell."""
    if options.negatives_exclude == "positives_and_top1":
        cosine = cosine.masked_fill(positives, -torch.inf)
    top, index = cosine.topk(min(options.k, len(cosine)))
    ranked = index[top > -torch.inf].tolist()
    return (ranked[0] if ranked else None), ranked[1:]


def _negative_cosine(student: Tensor, teacher: Tensor, negatives: list[int], options: CloveOptions) -> float:
    """cos(C_i, F_neg); student (C,), teacher (C, L). NaN without negatives."""
    if not negatives:
        return float("nan")
    mean = teacher[:, negatives].mean(1)
    cosine = student @ mean
    return (cosine / mean.norm() if options.negative_similarity == "mean_vector" else cosine).item()


def _company(scene: Scene, names: ImageList) -> list[list[np.ndarray]]:
    """The views of a few other images."""
    others, drawn = len(names) - 1, []
    for place in np.linspace(0, others - 1, min(COMPANY, others)).astype(int).tolist():
        number = place + (place >= scene.index)
        try:
            image = names.pixels(number)
        except UnreadableImage:
            continue
        drawn.append(make_views(image, replace(scene.config.train, colour_on="loader"), scene.epoch, number)[0])
    return drawn


def _stack(images: list[list[np.ndarray]]) -> Tensor:
    """Views by image -> (V, B, 3, S, S)."""
    return torch.from_numpy(np.stack([np.stack(views) for views in images], axis=1))
