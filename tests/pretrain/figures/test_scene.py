"""Views, matches and reports of `show` against the modules that a training run uses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.clove_options import CloveOptions
from pretrain.common.errors import UserError
from pretrain.data.batches import list_images
from pretrain.data.pixels import read_pixels
from pretrain.data.views import make_views
from pretrain.figures.scene import Scene, View, feature_grid, load_objective, make_scene, report_cell
from pretrain.loss import hardest_negatives, ranking_terms
from pretrain.matcher import cell_centres
from pretrain.model import Student, normalise
from pretrain.options.shared_options import Train


@pytest.fixture
def scene(photos: Path, tiny: Callable) -> Callable[..., Scene]:
    """scene(pair=(0, 1), **changes) of image 2 in epoch 1."""
    return lambda pair=(0, 1), **changes: make_scene(list_images(photos), 2, 1, tiny(**changes), pair)


def test_scene__views_are_those_of_a_run(scene: Callable, photos: Path, tiny: Callable) -> None:
    pixels, boxes, _ = make_views(read_pixels(photos / "02.png"), tiny(seed=4).train, 1, 2)
    made = scene(seed=4)
    assert [view.name for view in made.views] == ["global 1", "global 2", "local 1"]
    assert [view.short for view in made.views] == ["G1", "G2", "L1"]
    for view, one, box in zip(made.views, pixels, boxes, strict=True):
        assert np.array_equal(view.pixels, one) and np.array_equal(view.box.numpy(), box)


def test_scene__grids_are_those_of_the_network(scene: Callable, tiny: Callable) -> None:
    assert [view.grid for view in scene().views] == [(3, 3), (3, 3), (2, 2)]
    assert feature_grid(tiny(last_stage_stride=2, too_few_negatives="use_left").train, 224) == (7, 7)


def test_scene__positives_by_distance(scene: Callable) -> None:
    made = scene(pair=(2, 0), t_pos_unit="pixel", t_pos=9.0)
    size = torch.tensor(made.image.size).repeat(2)
    student, teacher = (cell_centres(view.box * size, view.grid) for view in (made.student, made.teacher))
    distance = (student[:, None] - teacher[None]).norm(dim=-1)
    assert made.positives.shape == (4, 9) and made.positives.any()
    assert torch.equal(made.positives, distance < 9.0)
    assert torch.equal(made.positives_of(made.views[2]), made.positives)


def test_scene__default_cell_is_in_the_middle_of_those_with_a_positive(photos: Path, tiny: Callable) -> None:
    def view(*box: float) -> View:
        return View("global 1", np.zeros((3, 48, 48), np.uint8), torch.tensor(box), (5, 5))

    image = Image.fromarray(read_pixels(photos / "00.png"))
    corner = Scene(image, "", 0, 0, [view(0, 0, 0.5, 0.5), view(0.4, 0.4, 0.9, 0.9)], (0, 1), tiny(t_pos=0.1))
    assert corner.positives.any(1).nonzero().flatten().tolist() == [24]
    assert corner.default_cell() == 24
    apart = Scene(image, "", 0, 0, [view(0, 0, 0.3, 0.3), view(0.6, 0.6, 1, 1)], (0, 1), tiny())
    assert not apart.positives.any() and apart.default_cell() == 12


def test_scene__box_in_source_pixels_whichever_way_it_looks(photos: Path) -> None:
    image = Image.fromarray(read_pixels(photos / "00.png"))  # 80 x 60
    view = View("local 2", np.zeros((3, 8, 8), np.uint8), torch.tensor([0.75, 0.1, 0.25, 0.6]), (2, 2))
    assert view.mirrored and view.pixels_of(image) == pytest.approx((20, 6, 60, 36))


COSINE = torch.tensor([0.1, 0.9, 0.5, 0.7, -0.2])
POSITIVES = torch.tensor([False, True, False, True, False])


@pytest.mark.parametrize("changes, dropped, negatives", [
    ({"k": 3, "negatives_exclude": "top1"}, 1, [3, 2]),
    ({"k": 9, "negatives_exclude": "top1"}, 1, [3, 2, 0, 4]),
    ({"k": 3}, 2, [0, 4]),
], ids=["poster", "k above the cells", "released"])
def test_hardest_negatives__by_hand(changes: dict, dropped: int, negatives: list[int]) -> None:
    assert hardest_negatives(COSINE, POSITIVES, CloveOptions(**changes)) == (dropped, negatives)


def test_hardest_negatives__none_left() -> None:
    assert hardest_negatives(COSINE, torch.ones(5, dtype=torch.bool), CloveOptions()) == (None, [])


@pytest.mark.parametrize("pair", [(0, 1), (1, 0), (2, 1)], ids=["G1-G2", "G2-G1", "L1-G2"])
@pytest.mark.parametrize("changes", [
    {"variant": "paper"}, {"variant": "released", "k": 3},
], ids=["poster", "released"])
def test_report__agrees_with_the_loss(scene: Callable, photos: Path, pair: tuple[int, int], changes: dict) -> None:
    """The loss on the same vectors has the same cos(C, F_neg), and the same mean positive cosine."""
    made = scene(pair, **changes)
    objective, note = load_objective(made.config, (), None)
    student, teacher = objective.student, objective.follower
    assert "random initial network" in note
    cell = made.default_cell()
    report = report_cell(made, cell, objective, list_images(photos))
    assert report.positives
    views = step_views(made, photos)
    split = slice(0, 2) if pair[0] < 2 else slice(2, 3)
    contextualized = student([stack(views, split)])[0][pair[0] - split.start, 0].flatten(1)[:, cell]  # (C,)
    projected = teacher(stack(views, slice(0, 2)))[pair[1], 0].flatten(1)  # (C, L)
    assert torch.allclose(report.cosine, contextualized @ projected, atol=1e-5)
    positives, options = made.positives[cell][None, None, None], made.config.objective
    _, told = ranking_terms(contextualized[None, None, None], projected.T[None, None], positives, options)
    means = {name: (total / number).item() for name, (total, number) in told.items()}
    assert report.negatives.cosine == pytest.approx(means["negative_cosine"], abs=1e-5)
    assert report.cosine[report.positives].mean().item() == pytest.approx(means["positive_cosine"], abs=1e-5)


def step_views(made: Scene, photos: Path) -> list[list[np.ndarray]]:
    """The views of the image and of its company, put together anew."""
    others = [index for index in range(9) if index != made.index]
    chosen = [made.index] + [others[i] for i in np.linspace(0, 7, 7).astype(int)]
    return [make_views(read_pixels(photos / f"{i:02d}.png"), made.config.train, made.epoch, i)[0] for i in chosen]


def stack(views: list[list[np.ndarray]], which: slice) -> torch.Tensor:
    return normalise(torch.from_numpy(np.stack([np.stack(one[which]) for one in views], axis=1)))


def test_report__attention_is_the_mean_over_heads(scene: Callable, photos: Path) -> None:
    made = scene()
    objective, _ = load_objective(made.config, (), None)
    student = objective.student
    seen = []
    weights = student.attention.weights
    student.attention.weights = lambda maps: seen.append(weights(maps)) or seen[-1]
    report = report_cell(made, 5, objective, list_images(photos))
    assert report.attention.shape == (3, 3) and report.attention.sum().item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(report.attention.flatten(), seen[0][0, :, 5].mean(0))


def test_grid__a_single_cell() -> None:
    assert feature_grid(Train(architecture="resnet18"), 32) == (1, 1)


def test_report__a_network_that_diverged_is_told(scene: Callable, photos: Path) -> None:
    made = scene()
    objective, _ = load_objective(made.config, (), None)
    student = objective.student
    with torch.no_grad():
        student.attention.in_proj_bias.fill_(float("nan"))
    with pytest.raises(UserError, match="the network gives NaN or inf: its training diverged"):
        report_cell(made, 0, objective, list_images(photos))


def test_report__without_attention(scene: Callable, photos: Path) -> None:
    made = scene(attention="none")
    report = report_cell(made, 0, load_objective(made.config, (), None)[0], list_images(photos))
    assert report.attention is None and report.cosine.abs().max() <= 1 + 1e-5


def test_report__image_alone_in_its_folder(tmp_path: Path, make_photos: Callable, tiny: Callable) -> None:
    folder = make_photos(tmp_path, 2)
    (folder / "01.png").write_bytes(b"")  # company that cannot be read
    made = make_scene(list_images(folder), 0, 0, tiny())
    report = report_cell(made, 0, load_objective(made.config, (), None)[0], list_images(folder))
    assert report.cosine.isfinite().all()


def test_networks__random_ones_are_where_a_run_starts(tiny: Callable) -> None:
    state = torch.get_rng_state()
    objective, _ = load_objective(tiny(seed=3), (), None)
    student, teacher = objective.student, objective.follower
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    expected = Student(tiny(seed=3).train, tiny(seed=3).objective).state_dict()
    torch.set_rng_state(state)
    assert all(torch.equal(value, expected[name]) for name, value in student.state_dict().items())
    assert torch.equal(teacher.projector[0].weight, student.projector[0].weight)


def test_networks__folder_without_checkpoint(tmp_path: Path, tiny: Callable) -> None:
    with pytest.raises(UserError, match=r"no whole checkpoint in .*; leave out --run to see the random"):
        load_objective(tiny(), (), tmp_path)
