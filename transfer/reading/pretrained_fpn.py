"""A pretrained FPN in a checkpoint, under detectron2's names: ReSim has one."""

import re
from pathlib import Path

import torch

from pretrain.common.errors import UserError
from transfer.reading.networks import Place

# detectron2's names (modeling/backbone/fpn.py) are ReSim's too; with its --fpn-bn the convolution
# is child 0 of each layer and the batch norm child 1.
_CONVOLUTION = re.compile(r"(?:backbone\.)?(fpn_(?:lateral|output)[2-5])(?:\.0)?\.(weight|bias)")
FPN_NORM = re.compile(r"fpn_\w+\.1\.")
# Of the weights: output channels, input channels (those of the ResNet's stages), height, width.
_SHAPES = {"fpn_lateral2": [256, 256, 1, 1], "fpn_output2": [256, 256, 3, 3],
           "fpn_lateral3": [256, 512, 1, 1], "fpn_output3": [256, 256, 3, 3],
           "fpn_lateral4": [256, 1024, 1, 1], "fpn_output4": [256, 256, 3, 3],
           "fpn_lateral5": [256, 2048, 1, 1], "fpn_output5": [256, 256, 3, 3]}


def read_fpn(place: Place, prefix: str, path: Path) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The convolutions of the FPN beside the network under `prefix`.

    Returns them by detectron2's names (`fpn_lateral5.weight`), and the names that they have in the
    place; both empty for methods that have none. Raises `UserError` for tensors of another shape
    than a ResNet-50's FPN has, or without finite numbers.
    """
    tensors, names = {}, set()
    for name, value in place.tensors(prefix).items():
        match = _CONVOLUTION.fullmatch(name)
        if match is None:
            continue
        layer, kind = match.groups()
        shape = _SHAPES[layer] if kind == "weight" else [256]
        if list(value.shape) != shape or not value.isfinite().all():
            raise UserError(f"expected finite numbers of the shape {shape} in "
                            f"{place.names[prefix + name]} of {path}, found {list(value.shape)}: "
                            "this is not the FPN of a trained ResNet-50")
        tensors[f"{layer}.{kind}"] = value.detach().to(torch.float32, copy=True).contiguous()
        names.add(prefix + name)
    return tensors, names
