"""The probe measures what features hold, learns from training images alone, and says all that made its figures."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks.demo import demo_data
from pretrain.common.errors import UserError
from pretrain.data.images import ImageList
from pretrain.options.shared_options import Train
from pretrain.watch.probes import RetrievalProbe
from transfer.__main__ import main
from transfer.data.pixel_labels import DenseData, Labelled
from transfer.probing import measurement, segmentation
from transfer.probing.measurement import METRICS, Examples, Protocol, measure
from transfer.probing.probe import Request, probe

CLASSES, SIDE, STRIDE = 4, 96, 16
SMALL = Protocol(layer="res4", side=SIDE, images=20)


class Oracle(nn.Module):
    """Features that hold the label: the images' red channel is 60 times the class."""

    stride = STRIDE

    def forward(self, pixels: Tensor) -> Tensor:
        numbers = (pixels[:, 0].float() / 60).round().long().clamp(0, CLASSES - 1)
        return F.avg_pool2d(F.one_hot(numbers, CLASSES).permute(0, 3, 1, 2).float(), STRIDE)


def split(folder: Path, first: int, number: int, shuffled: bool = False) -> Labelled:
    """Images of class blocks of 32 pixels; `shuffled` labels have nothing to do with the image."""
    folder.mkdir(parents=True, exist_ok=True)
    maps = []
    for image in range(first, first + number):
        rng = np.random.default_rng(image)
        blocks = rng.integers(0, CLASSES, (3, 4))
        numbers = blocks.repeat(32, 0).repeat(32, 1)
        pixels = np.stack([60 * numbers, rng.integers(0, 256, numbers.shape), rng.integers(0, 256, numbers.shape)], -1)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{image}.png")
        labels = rng.permutation(blocks.ravel()).reshape(3, 4) if shuffled else blocks
        maps.append(labels.repeat(32, 0).repeat(32, 1).astype(np.int16))
    names = [f"{image}.png" for image in range(first, first + number)]
    return Labelled(ImageList(folder, names), maps.__getitem__)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> DenseData:
    folder = tmp_path_factory.mktemp("painted")
    names = ("background", "a", "b", "c")
    return DenseData(split(folder, 0, 12), split(folder, 100, 8), names, background=True)


@pytest.fixture(scope="module")
def views(painted: DenseData) -> RetrievalProbe:
    return RetrievalProbe(painted.val.images, 2, Train(), torch.device("cpu"))


def test_measure__an_oracle_is_near_perfect(painted: DenseData) -> None:
    figures = measure(Oracle(), painted, SMALL, "oracle").metrics
    for name in ("knn_miou", "linear_miou", "knn_foreground_miou", "linear_foreground_miou", "knn_background_iou",
                 "linear_background_iou"):
        assert figures[name] > 95, name  # upsampling rounds the corners of the blocks
    assert figures["knn_foreground_auc"] > 99 and figures["linear_foreground_auc"] > 99


def test_measure__labels_that_have_nothing_to_do_with_the_image_give_chance(
    painted: DenseData, tmp_path: Path
) -> None:
    data = replace(painted, train=split(tmp_path, 0, 12, shuffled=True), val=split(tmp_path, 100, 8, shuffled=True))
    figures = measure(Oracle(), data, SMALL, "oracle").metrics
    # Guessing four equal classes: 1/16 of the pixels are right for a class, 7/16 are in its union.
    assert figures["knn_miou"] < 25 and figures["linear_miou"] < 25
    assert 35 < figures["knn_foreground_auc"] < 65 and 35 < figures["linear_foreground_auc"] < 65


def test_measure__validation_images_teach_nothing(
    painted: DenseData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(painted, val=split(tmp_path, 300, 5, shuffled=True))
    first, second = (measure(Oracle(), data, SMALL, "oracle") for data in (painted, other))
    assert first.metrics["linear_miou"] > second.metrics["linear_miou"]
    for name in ("mean", "deviation", "bank", "shares", "weight", "bias"):
        assert torch.equal(getattr(first.fitted, name), getattr(second.fitted, name)), name
    assert first.details["regularisation"] == second.details["regularisation"]

    fitted, fit = [], segmentation.fit
    monkeypatch.setattr(segmentation, "fit", lambda *words: fitted.append(fit(*words)) or fitted[-1])

    def read(number: int) -> np.ndarray:
        assert fitted, "a validation image was read before everything was learnt"
        return painted.val.read(number)

    measure(Oracle(), replace(painted, val=replace(painted.val, read=read)), SMALL, "oracle")
    assert fitted


def test_training_cells__are_bounded_and_the_same_each_time(painted: DenseData) -> None:
    few = replace(SMALL, cells=60)
    first, second = (measurement.training_cells(Oracle(), painted, few, "oracle") for _ in range(2))
    assert len(first.features) == 60 and first.image.bincount().tolist() == [5] * 12
    assert torch.equal(first.features, second.features)
    other = measurement.training_cells(Oracle(), painted, replace(few, seed=1), "oracle")
    assert not torch.equal(first.features, other.features)


@pytest.mark.parametrize(("scale", "shown"), [(3e38, r"[\d.]+e\+38"), (float("inf"), "nan|inf")])
def test_measure__features_that_explode_are_refused(
    painted: DenseData, scale: float, shown: str
) -> None:
    class Exploding(Oracle):
        def forward(self, pixels: Tensor) -> Tensor:
            return super().forward(pixels) * scale - (scale / 2 if scale < 1e39 else 0)

    with pytest.raises(UserError, match=rf"^wild: expected finite features, found values up to "
                                        rf"({shown}): .* with --batch-norm recalibrated they are measured anew$"):
        measure(Exploding(), painted, SMALL, "wild")


def test_retrieval__features_that_know_their_place_find_it_and_constant_ones_do_not(views: RetrievalProbe) -> None:
    class Constant(nn.Module):
        stride = 32

        def forward(self, pixels: Tensor) -> Tensor:
            return torch.ones(len(pixels), 3, 7, 7)

    assert measurement.retrieval(Constant(), views) < 0.2

    class Places(nn.Module):
        """Which source place a cell sees, as one peak a cell: from the boxes of the views, not from pixels."""

        stride, calls = 32, 0

        def forward(self, pixels: Tensor) -> Tensor:
            from pretrain.matcher import cell_centres

            centres = cell_centres(views.boxes[self.calls], (7, 7))  # (B, 49, 2)
            self.calls += 1
            anchors = torch.cartesian_prod(torch.linspace(0, 1, 40), torch.linspace(0, 1, 40))
            peaks = torch.exp(-1000 * torch.cdist(centres, anchors[None].repeat(len(centres), 1, 1)) ** 2)
            return peaks.transpose(1, 2).unflatten(2, (7, 7))

    assert measurement.retrieval(Places(), views) > 0.9


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "demo"
    demo_data.generate(folder, photos=1, train=3, val=2)
    return folder


QUICK = Protocol(layer="res3", side=64, cells=200)


def request(generated: Path, task: str = "coco", **words: object) -> Request:
    return Request(weights="random", data=generated / task, task=task, architecture="resnet18", device="cpu",
                   **{"protocol": QUICK, **words})


@pytest.fixture(scope="module")
def measured(generated: Path) -> tuple[dict, Examples]:
    return probe(request(generated))


def test_probe__says_all_that_made_it(measured: tuple[dict, Examples]) -> None:
    result, _ = measured
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["schema"], result["kind"], result["task"], result["method"]) == (1, "probe", "coco", "Rand init")
    assert set(result["baselines"]) == {"Rand init, last gamma 0", "pixel statistics"}
    for row in (result["metrics"], *result["baselines"].values()):
        assert set(row) == set(METRICS) and all(value is None or 0 <= value <= 100 for value in row.values())
    assert result["protocol"]["layer"] == "res3" and result["protocol"]["batch_norm"] == "recalibrated"
    assert result["dataset"]["train"]["images"] == 3 and result["dataset"]["probed"] == {"train": 3, "val": 2}
    assert result["dataset"]["labels"] == ["background", "disc", "plank", "triangle", "star"]
    details = result["details"]["Rand init"]
    assert details["cells"] == 198 and details["regularisation"] in segmentation.REGULARISATION
    assert set(details["linear_class_iou"]) <= set(result["dataset"]["labels"])
    assert result["weights"]["architecture"] == "resnet18" and result["seed"] == 0
    assert result["wall_seconds"] > 0 and result["peak_memory_mb"] > 50 and result["started"] <= result["ended"]


@pytest.mark.slow
def test_probe__again_gives_the_same_figures_and_the_same_picture(
    generated: Path, measured: tuple[dict, Examples], tmp_path: Path
) -> None:
    from transfer.probing.probe_figure import draw

    again, pictures = probe(request(generated))
    clocks = ("wall_seconds", "peak_memory_mb", "started", "ended")
    plain = [json.dumps({key: value for key, value in result.items() if key not in clocks}, sort_keys=True)
             for result in (measured[0], again)]
    assert plain[0] == plain[1]
    for name, one in (("a", measured[1]), ("b", pictures)):
        draw(one, tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    other, _ = probe(request(generated, protocol=replace(QUICK, seed=1)))
    assert other["metrics"] != again["metrics"]


@pytest.mark.slow
def test_command__writes_probe_and_picture_on_cityscapes(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", [
        "transfer", "probe", "--weights", "random", "--architecture", "resnet18", "--task", "cityscapes",
        "--data", str(generated / "cityscapes"), "--output", str(tmp_path / "out"), "--side", "64", "--layer", "res3",
        "--device", "cpu"])
    assert main() == 0
    result = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert result["dataset"]["labels"][0] == "road" and result["metrics"]["linear_background_iou"] is None
    assert "background" not in result["details"]["Rand init"]["knn_class_iou"]
    with Image.open(tmp_path / "out" / "probe.png") as image:
        assert image.width > 1000
    assert not list((tmp_path / "out").glob(".*"))
    shown = capsys.readouterr().out
    assert "knn miou" in shown and "pixel statistics" in shown and "bg iou" not in shown


@pytest.mark.parametrize(("words", "text"), [
    ({"protocol": replace(QUICK, side=100)}, r"--side 100: expected a multiple of 32 pixels"),
    ({"protocol": replace(QUICK, images=1)}, r"--images 1: expected at least 2"),
    ({"task": "keypoints"}, r"unknown task 'keypoints': expected one of coco, cityscapes"),
    ({"weights": "/nowhere.pth"}, r"/nowhere.pth: not found"),
])
def test_probe__mistakes_are_told_before_anything_runs(generated: Path, words: dict, text: str) -> None:
    with pytest.raises(UserError, match=text):
        probe(replace(request(generated), **words))


def test_probe__one_training_image_is_too_few(generated: Path, tmp_path: Path) -> None:
    shutil.copytree(generated / "coco", tmp_path / "coco")
    file = tmp_path / "coco" / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    first = content["annotations"][0]["image_id"]
    content["images"] = [image for image in content["images"] if image["id"] == first]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] == first]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="1 training image in .*expected at least 2"):
        probe(request(tmp_path))
