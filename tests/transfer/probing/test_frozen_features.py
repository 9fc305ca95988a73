"""Frozen sources of features: the same maps as torchvision's network, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.common.backbone_file import BackboneInfo, save_backbone
from pretrain.common.errors import UserError
from transfer.conversion.stage_maps import torchvision_maps
from transfer.probing import frozen_features
from transfer.probing.frozen_features import FrozenBackbone, PixelStatistics, Weights

PIXELS = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def weights(state: dict, architecture: str = "resnet18", **words: object) -> Weights:
    return Weights(state, BackboneInfo("test", architecture, **words), {})


@pytest.mark.parametrize("layer", list(frozen_features.LAYERS))
def test_backbone__maps_are_torchvisions(random_state, layer: str) -> None:
    info = {"pixel_mean": (0.1, 0.2, 0.3), "pixel_std": (0.5, 0.25, 1.0)}
    features = FrozenBackbone(weights(random_state("resnet18"), **info), layer)
    mean, std = (torch.tensor(info[name]).view(3, 1, 1) for name in ("pixel_mean", "pixel_std"))
    expected = torchvision_maps(random_state("resnet18"), "resnet18", (PIXELS / 255 - mean) / std)[layer]
    found = features(PIXELS)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert found.shape[2:] == (64 // features.stride, 96 // features.stride)


def test_backbone__bgr_files_see_bgr(random_state) -> None:
    rgb = FrozenBackbone(weights(random_state("resnet18")), "res2")
    mean, std = BackboneInfo("", "").pixel_mean[::-1], BackboneInfo("", "").pixel_std[::-1]
    bgr = FrozenBackbone(weights({**random_state("resnet18"), "conv1.weight": random_state("resnet18")[
        "conv1.weight"].flip(1)}, channel_order="BGR", pixel_mean=mean, pixel_std=std), "res2")
    torch.testing.assert_close(bgr(PIXELS), rgb(PIXELS), rtol=1e-3, atol=1e-4)


def test_backbone__msra_networks_stride_in_their_1x1(random_state) -> None:
    state = random_state("resnet50")
    usual = FrozenBackbone(weights(state, "resnet50"), "res3")
    first = usual.body[5][0]
    assert (first.conv1.stride, first.conv2.stride) == ((1, 1), (2, 2))
    msra = FrozenBackbone(weights(state, "resnet50", stride_in_1x1=True), "res3")
    assert (msra.body[5][0].conv1.stride, msra.body[5][0].conv2.stride) == ((2, 2), (1, 1))
    images = (PIXELS[:1] - msra.mean) / msra.std
    expected = torchvision_maps(state, "resnet50", images, stride_in_1x1=True)["res3"]
    torch.testing.assert_close(msra(PIXELS[:1]), expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(msra(PIXELS[:1]), usual(PIXELS[:1]))


def test_recalibrate__statistics_are_those_of_the_images(random_state) -> None:
    features = FrozenBackbone(weights(random_state("resnet18")), "res2")
    features.recalibrate(iter([PIXELS[:1], PIXELS[1:]]), 2)
    before = features.body[0]((PIXELS - features.mean) / features.std)  # what the first batch norm sees
    torch.testing.assert_close(features.body[1].running_mean, before.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(features.body[1].running_var, before.var((0, 2, 3), correction=0), rtol=1e-2, atol=1e-3)
    assert not any(module.training for module in features.modules())


def test_random__two_kinds_and_the_seed_decides() -> None:
    one, other = (frozen_features.random_weights("resnet18", seed) for seed in (0, 1))
    zero = frozen_features.random_weights("resnet18", 0, last_gamma=0.0)
    again = frozen_features.random_weights("resnet18", 0)
    assert all(torch.equal(one.state[name], again.state[name]) for name in one.state)
    assert not torch.equal(one.state["conv1.weight"], other.state["conv1.weight"])
    assert (one.state["layer1.0.bn2.weight"] == 1).all() and (zero.state["layer1.0.bn2.weight"] == 0).all()
    assert set(one.state) == {name for name in again.state if "num_batches" not in name}


def test_pixel_statistics__mean_and_deviation_of_each_cell() -> None:
    found = PixelStatistics("res4")(PIXELS)
    cell = PIXELS[1, :, 16:32, 32:48].numpy() / 255
    np.testing.assert_allclose(found[1, :, 1, 2], [*cell.mean((1, 2)), *cell.std((1, 2))], rtol=1e-3)


def test_read_weights__every_kind_of_source(random_state, resnet50_folder, tmp_path: Path) -> None:
    folder, certificate, source = resnet50_folder
    found = frozen_features.read_weights(str(folder))
    assert found.record["conversion"] == certificate and found.record["file_sha256"] == certificate["canonical_sha256"]
    assert (found.record["method"], found.record["epochs"]) == ("CLoVE", 200)
    teacher = frozen_features.read_weights(str(source), branch="teacher")
    assert teacher.record["branch"] == "teacher" and teacher.record["source_sha256"] == certificate["source_sha256"]
    assert not torch.equal(teacher.state["conv1.weight"], found.state["conv1.weight"])
    save_backbone(tmp_path / "b.safetensors", random_state("resnet18"), BackboneInfo("mine", "resnet18", epochs=3))
    own = frozen_features.read_weights(str(tmp_path / "b.safetensors"))
    assert own.record["method"] == "mine" and own.record["standard"] is False
    assert frozen_features.read_weights("random", "resnet18").record["method"] == "Rand init"


def test_read_weights__a_folder_that_is_no_whole_conversion_is_refused(resnet50_folder, random_state, tmp_path: Path):
    with pytest.raises(UserError, match=r"has no conversion.json: expected a folder that `clove convert`"):
        frozen_features.read_weights(str(tmp_path))
    certificate = (resnet50_folder[0] / "conversion.json").read_text()
    (tmp_path / "conversion.json").write_text(certificate.replace('"epochs": 200', '"epochs": 400'))
    save_backbone(tmp_path / "backbone.safetensors", random_state("resnet18"), BackboneInfo("mine", "resnet18"))
    with pytest.raises(UserError, match="conversion.json: expected .* edited after the conversion"):
        frozen_features.read_weights(str(tmp_path))
    (tmp_path / "conversion.json").write_text(certificate)
    with pytest.raises(UserError, match=r"is not the file that .*conversion.json certifies .*convert the checkpoint"):
        frozen_features.read_weights(str(tmp_path))
