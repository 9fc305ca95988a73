"""Maps of a ResNet's stages on a fixed input: torchvision's network as the reference, and others.

B images, C channels, H W feature grid. Stages carry detectron2's names; "stem" is after the
pooling, as in detectron2.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck

STAGES = ("stem", "res2", "res3", "res4", "res5")
TORCHVISION_STAGES = ("maxpool", "layer1", "layer2", "layer3", "layer4")


def reference_network(state: Mapping[str, torch.Tensor], architecture: str, stride_in_1x1: bool = False) -> nn.Module:
    """Torchvision's ResNet with the weights `state` in their own precision, in evaluation mode.

    It has no classifier. `stride_in_1x1`: see `move_strides_to_1x1`.
    """
    with torch.device("meta"):
        network = torchvision.models.get_model(architecture, weights=None)
    network.fc = nn.Identity()
    if stride_in_1x1:
        move_strides_to_1x1(network)
    network.load_state_dict(dict(state), strict=False, assign=True)
    return network.eval()


def move_strides_to_1x1(network: nn.Module) -> None:
    """Move the stride of the first bottleneck of layers 2 to 4 from its 3x3 to its first 1x1
    convolution.

    That is the network of MSRA's Caffe weights (detectron2 modeling/backbone/resnet.py,
    BottleneckBlock). ResNet-18 and -34 have no bottleneck; for them it changes nothing, as in
    detectron2.
    """
    for block in network.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def fixed_images() -> torch.Tensor:
    """The input of every comparison: two images of normal noise, [2, 3, 96, 96], float64."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 96, 96, generator=generator, dtype=torch.float64)


def torchvision_maps(state: Mapping[str, torch.Tensor], architecture: str, images: torch.Tensor,
                     stride_in_1x1: bool = False) -> dict[str, torch.Tensor]:
    """Maps of `reference_network` in the precision of `images` [B, 3, H, W].

    One [B, C, H, W] for each stage.
    """
    network = reference_network(state, architecture, stride_in_1x1)
    return stage_maps(network.to(images.dtype), images)


def relative_differences(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
                         ) -> dict[str, float]:
    """Largest absolute difference of each map, divided by the expected map's standard deviation.

    nan where that is undefined.
    """
    differences = {}
    for stage, values in expected.items():
        largest = (found[stage] - values).abs().max()
        differences[stage] = float(largest / values.std())
    return differences


def stage_maps(network: nn.Module, images: torch.Tensor, modules: Sequence[str] = TORCHVISION_STAGES
               ) -> dict[str, torch.Tensor]:
    """The outputs of five modules of a ResNet, one a stage, in evaluation mode; the mode is put
    back.

    torchvision's names are timm's too; detectron2's ResNet (the `bottom_up` of an FPN) calls them
    `STAGES`.
    """
    maps: dict[str, torch.Tensor] = {}

    def keep(stage: str, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        maps[stage] = output.clone()  # a copy: the layers after it work in place

    hooks = []
    for stage, name in zip(STAGES, modules, strict=True):
        hooks.append(getattr(network, name).register_forward_hook(partial(keep, stage)))
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(images)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return maps
