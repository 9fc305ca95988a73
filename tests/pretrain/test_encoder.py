"""The encoder is torchvision's ResNet without its head; the projector is the released one."""

import math

import pytest
import torch
import torchvision
from torch import nn

from pretrain.encoder import Encoder, Projector

ARCHITECTURES = ["resnet18", "resnet34", "resnet50"]


def torchvisions(architecture: str) -> nn.Module:
    return getattr(torchvision.models, architecture)(weights=None)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_encoder__names_and_shapes_are_torchvisions_without_fc(architecture: str, stride: int) -> None:
    with torch.device("meta"):
        ours, theirs = Encoder(architecture, stride).state_dict(), torchvisions(architecture).state_dict()
    expected = {name: value.shape for name, value in theirs.items() if not name.startswith("fc.")}
    assert {name: value.shape for name, value in ours.items()} == expected
    tensors = [name for name in ours if not name.endswith("num_batches_tracked")]
    assert len(tensors) == {"resnet18": 100, "resnet34": 180, "resnet50": 265}[architecture]


@pytest.mark.parametrize(("architecture", "channels"), [*zip(ARCHITECTURES, (512, 512, 2048), strict=True)])
def test_encoder__grid_of_each_view_size(architecture: str, channels: int) -> None:
    with torch.device("meta"):
        encoder, wide = Encoder(architecture), Encoder(architecture, last_stage_stride=1)
        assert encoder.channels == channels
        for side, grid in ((224, 7), (96, 3), (160, 5)):
            views = torch.empty(2, 3, side, side)
            assert encoder(views).shape == (2, channels, grid, grid)
            assert wide(views).shape == (2, channels, 2 * grid, 2 * grid)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_encoder__output_is_that_of_torchvisions_layers(architecture: str) -> None:
    torch.manual_seed(0)
    theirs, ours = torchvisions(architecture).eval(), Encoder(architecture).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # nothing at a default that hides a missing layer
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")})
    views = torch.randn(1, 3, 64, 64)
    layers = nn.Sequential(theirs.conv1, theirs.bn1, theirs.relu, theirs.maxpool, theirs.layer1, theirs.layer2,
                           theirs.layer3, theirs.layer4)
    assert torch.equal(ours(views), layers(views))
    assert torch.equal(theirs.fc(ours(views).mean((2, 3))), theirs(views))


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
@torch.no_grad()
def test_encoder__stride_one_samples_the_same_features_twice_as_densely(architecture: str) -> None:
    """The shortcut of the last stage at stride 1, read at every second cell, is that at stride 2."""
    torch.manual_seed(0)
    coarse = Encoder(architecture).eval()
    fine = Encoder(architecture, last_stage_stride=1).eval()
    fine.load_state_dict(coarse.state_dict())
    first, dense = coarse.layer4[0], fine.layer4[0]
    maps = torch.randn(1, first.downsample[0].in_channels, 6, 6)
    # With zero-initialised residual branches a block is its shortcut.
    torch.testing.assert_close(dense(maps)[..., ::2, ::2], first(maps))


@torch.no_grad()
def test_encoder__initialisation_of_the_released_code() -> None:
    torch.manual_seed(0)
    encoder = Encoder("resnet50")
    for name in ("layer2.0.conv2", "layer4.1.conv3"):
        weight = encoder.get_submodule(name).weight
        out_channels, _, height, width = weight.shape
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (height * width * out_channels)), rel=0.02)
    assert encoder.layer3[2].bn3.weight.abs().max() == 0
    assert encoder.layer3[2].bn2.weight.min() == encoder.bn1.weight.min() == 1


def test_projector__layers_of_the_released_code() -> None:
    projector = Projector(2048, 4096, 256)
    assert {name: tuple(value.shape) for name, value in projector.named_parameters()} == {
        "0.weight": (4096, 2048, 1, 1), "1.weight": (4096,), "1.bias": (4096,), "3.weight": (256, 4096, 1, 1)}


def test_projector__output_has_mean_zero_and_variance_one_in_training() -> None:
    torch.manual_seed(0)
    maps = Projector(12, 20, 8)(torch.randn(4, 12, 5, 5))
    assert maps.shape == (4, 8, 5, 5)
    torch.testing.assert_close(maps.mean((0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(maps.var((0, 2, 3), unbiased=False), torch.ones(8), rtol=0, atol=1e-3)
