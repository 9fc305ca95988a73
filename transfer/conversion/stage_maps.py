"""Maps of a ResNet's stages on a fixed input: torchvision's network as the reference, and any other beside it.

B images, C channels, H W feature grid. Stages carry detectron2's names; "stem" is after the pooling, as in detectron2.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck

STAGES = ("stem", "res2", "res3", "res4", "res5")
_TORCHVISION_STAGES = ("maxpool", "layer1", "layer2", "layer3", "layer4")


def reference_network(state: Mapping[str, torch.Tensor], architecture: str, stride_in_1x1: bool = False) -> nn.Module:
    """Torchvision's ResNet with the weights `state` in their own precision, without classifier, in evaluation mode.

    `stride_in_1x1`: see `move_strides_to_1x1`.
    """
    with torch.device("meta"):
        network = torchvision.models.get_model(architecture, weights=None)
    network.fc = nn.Identity()
    if stride_in_1x1:
        move_strides_to_1x1(network)
    network.load_state_dict(dict(state), strict=False, assign=True)
    return network.eval()


def move_strides_to_1x1(network: nn.Module) -> None:
    """Move the stride of the first bottleneck of layers 2 to 4 from its 3x3 to its first 1x1 convolution.

    That is the network of MSRA's Caffe weights (detectron2 modeling/backbone/resnet.py, BottleneckBlock). ResNet-18 and
    -34 have no bottleneck; for them it means nothing, as in detectron2.
    """
    for block in network.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def fixed_images() -> torch.Tensor:
    """The input of every comparison: two images of normal noise, [2, 3, 96, 96], float64, always the same."""
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def torchvision_maps(state: Mapping[str, torch.Tensor], architecture: str, images: torch.Tensor,
                     stride_in_1x1: bool = False) -> dict[str, torch.Tensor]:
    """Maps of `reference_network` in the precision of `images` [B, 3, H, W]: one [B, C, H, W] for each stage."""
    state = {name: value.to(images.dtype) for name, value in state.items()}
    return stage_maps(reference_network(state, architecture, stride_in_1x1), images)


def stage_maps(network: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Maps of a ResNet whose modules have torchvision's names (timm's have them too), in evaluation mode."""
    return _recorded(network, {stage: getattr(network, name) for stage, name in
                               zip(STAGES, _TORCHVISION_STAGES, strict=True)}, images)


def detectron2_maps(bottom_up: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Maps of a detectron2 ResNet (the `bottom_up` of an FPN), in evaluation mode."""
    return _recorded(bottom_up, {stage: getattr(bottom_up, stage) for stage in STAGES}, images)


def relative_differences(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Largest absolute difference of each map, divided by the expected map's standard deviation (nan if undefined)."""
    return {stage: float((found[stage] - expected[stage]).abs().max() / expected[stage].std()) for stage in expected}


def _recorded(network: nn.Module, modules: Mapping[str, nn.Module], images: torch.Tensor) -> dict[str, torch.Tensor]:
    maps: dict[str, torch.Tensor] = {}

    def keep(stage: str, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        maps[stage] = output.clone()  # a copy: the layers after it work in place

    hooks = [module.register_forward_hook(partial(keep, stage)) for stage, module in modules.items()]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(images)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return maps
