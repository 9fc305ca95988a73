"""Matched-location retrieval on hand-made features, and a probe that leaves the networks as they are."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain import objectives
from pretrain.common.errors import UserError
from pretrain.config import Config
from pretrain.data.batches import list_images
from pretrain.matcher import cell_centres
from pretrain.objective import Objective
from pretrain.watch.probes import Probe, RetrievalProbe, retrieval_accuracy

SIZES = torch.tensor([[300.0, 200.0], [200.0, 240.0]]).repeat(8, 1)
GRID = (6, 6)


def boxes(seed: int) -> Tensor:
    """(16, 4): large overlapping views, every second one mirrored."""
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(16, 2, generator=rng) * 0.3
    made = torch.cat([corner, corner + 0.6], dim=1)
    made[::2] = made[::2][:, [2, 1, 0, 3]]
    return made


def knowing_the_place(views: Tensor) -> Tensor:
    """(16, 2, 6, 6) features that say where in the source image a cell looks: the perfect encoder."""
    places = cell_centres(views * SIZES.repeat(1, 2), GRID) / 300  # (16, 36, 2)
    # On a sphere the nearest place is the one with the highest cosine.
    x, y = places.unbind(-1)
    features = torch.stack([torch.sin(x), torch.cos(x) * torch.sin(y), torch.cos(x) * torch.cos(y)], dim=1)
    return F.normalize(features.double(), dim=1).unflatten(2, GRID)


def random_features(seed: int) -> Tensor:
    return F.normalize(torch.randn(16, 8, *GRID, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_retrieval__one_when_each_cell_has_its_own_feature() -> None:
    views = boxes(0)
    features = random_features(0)
    assert retrieval_accuracy((features, features), (views, views), SIZES, 0.7) == 1.0


def test_retrieval__mirrored_second_view() -> None:
    """The second view is the first one mirrored: the right cell is on the other side."""
    views, features = boxes(0), random_features(0)
    mirrored = views[:, [2, 1, 0, 3]]
    assert retrieval_accuracy((features, features.flip(-1)), (views, mirrored), SIZES, 0.7) == 1.0
    assert retrieval_accuracy((features, features), (views, mirrored), SIZES, 0.7) < 0.1


def test_retrieval__features_that_know_the_place() -> None:
    first, second = boxes(1), boxes(2)
    maps = knowing_the_place(first), knowing_the_place(second)
    accuracy = retrieval_accuracy(maps, (first, second), SIZES, 0.7)
    assert accuracy > 0.9  # a sphere is not quite flat


def test_retrieval__random_features_are_near_chance() -> None:
    accuracy = retrieval_accuracy((random_features(1), random_features(2)), (boxes(1), boxes(2)), SIZES, 0.7)
    assert 0 <= accuracy < 3 / 36


def test_retrieval__only_matched_cells_count() -> None:
    """Two views that share half their cells; features are right there and wrong elsewhere."""
    size = torch.tensor([[120.0, 120.0]])
    first, second = torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([[0.25, 0.0, 0.75, 0.5]])
    one = torch.eye(16).reshape(1, 16, 4, 4)
    other = one.roll(-2, dims=-1)  # column c of the second view is column c + 2 of the first
    assert retrieval_accuracy((one, other), (first, second), size, 0.1) == 1.0
    other[..., :2] = other[..., :2].roll(1, dims=-2)  # now the shared columns are wrong
    assert retrieval_accuracy((one, other), (first, second), size, 0.1) == 0.0


def test_retrieval__nan_without_a_match() -> None:
    far = torch.tensor([[0.0, 0, 0.2, 0.2]]), torch.tensor([[0.7, 0.7, 1.0, 1.0]])
    features = random_features(0)[:1]
    assert math.isnan(retrieval_accuracy((features, features), far, SIZES[:1], 0.7))


def test_retrieval__unit_of_the_threshold() -> None:
    """32 as pixels matches some cells, 32 as cell diagonals would match all of them."""
    far = torch.tensor([[0.0, 0, 0.2, 0.2]]), torch.tensor([[0.7, 0.7, 1.0, 1.0]])
    features = random_features(0)[:1]
    assert math.isnan(retrieval_accuracy((features, features), far, SIZES[:1], 32.0, "pixel"))
    assert not math.isnan(retrieval_accuracy((features, features), far, SIZES[:1], 32.0))


@pytest.fixture
def objective(tiny: Callable[..., Config]) -> Objective:
    torch.manual_seed(0)
    return objectives.get("clove")(tiny().train, tiny().objective, (), 6)


def test_probe__leaves_the_networks_as_they_are(photos: Path, tiny: Callable, objective: Objective) -> None:
    before = [{name: value.clone() for name, value in network.state_dict().items()} for network in objective.networks()]
    modes = [network.training for network in objective.networks()]
    probe = RetrievalProbe(list_images(photos), 4, tiny().train, torch.device("cpu"))
    rng = torch.get_rng_state()
    values = probe(objective)
    assert set(values) == {"retrieval_chance"} | {
        f"{metric}_{cells}" for metric in ("retrieval", "feature_std", "effective_rank")
        for cells in ("backbone", "contextualized")}
    assert values["retrieval_chance"] == 1 / 9  # 3 x 3 cells
    assert all(0 <= value <= 1 for name, value in values.items() if not name.startswith("effective_rank"))
    assert probe(objective) == values  # fixed images, fixed views
    assert torch.equal(torch.get_rng_state(), rng)
    for network, state, mode in zip(objective.networks(), before, modes, strict=True):
        assert network.training == mode
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_probe__images_that_cannot_be_read_are_left_out(tmp_path: Path, make_photos: Callable, tiny: Callable,
                                                        objective: Objective) -> None:
    folder = make_photos(tmp_path, 4)
    for name in ("01.png", "02.png"):
        (folder / name).write_bytes(b"")
    probe = RetrievalProbe(list_images(folder), 4, tiny().train, torch.device("cpu"))
    assert probe.views.shape[:2] == (2, 2)
    for name in ("00.png", "03.png"):
        (folder / name).write_bytes(b"")
    assert RetrievalProbe(list_images(folder), 4, tiny().train, torch.device("cpu"))(objective) == {}


def test_probe__collapsed_network_shows(photos: Path, tiny: Callable, objective: Objective) -> None:
    """A projector that gives every cell the same vector: spread 0, rank 1; the backbone before it is untouched."""
    probe = RetrievalProbe(list_images(photos), 4, tiny().train, torch.device("cpu"))
    before = probe(objective)
    student = objective.student
    torch.nn.init.zeros_(student.attention.out_proj.weight)
    torch.nn.init.ones_(student.attention.out_proj.bias)
    after = probe(objective)
    assert before["feature_std_contextualized"] > 0.01 and before["effective_rank_contextualized"] > 1.05
    assert after["feature_std_contextualized"] == pytest.approx(0, abs=1e-6)
    assert after["effective_rank_contextualized"] == pytest.approx(1, abs=1e-5)
    assert after["feature_std_backbone"] == before["feature_std_backbone"]
    assert 1 < before["effective_rank_backbone"] <= 4 * 2 * 9  # 4 images, 2 views, 3 x 3 cells


def test_probe__knn_beside_the_others_when_asked_for(tmp_path: Path, make_photos: Callable, tiny: Callable,
                                                     objective: Objective) -> None:
    for label in ("cat", "dog"):
        make_photos(tmp_path / label, 3)
    names = list_images(tmp_path)
    without = Probe(names, tiny(), torch.device("cpu"))(objective)
    values = Probe(names, tiny(knn_images=6), torch.device("cpu"))(objective)
    assert values.pop("knn_top1") >= 0
    assert values == without


def test_probe__knn_without_labels_is_refused(photos: Path, tiny: Callable) -> None:
    with pytest.raises(UserError, match="--knn-images: expected CLASS/IMAGE"):
        Probe(list_images(photos), tiny(knn_images=4), torch.device("cpu"))
