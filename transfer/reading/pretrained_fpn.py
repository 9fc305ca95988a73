"""A pretrained FPN in a checkpoint, under detectron2's names: ReSim has one."""

import re
from pathlib import Path

import torch

from pretrain.common.errors import UserError
from transfer.reading.networks import Place

# detectron2's names (modeling/backbone/fpn.py) are ReSim's too; with its --fpn-bn the convolution is child 0 of each
# layer and the batch norm child 1.
_CONVOLUTION = re.compile(r"(?:backbone\.)?(fpn_(?:lateral|output)[2-5])(?:\.0)?\.(weight|bias)")
FPN_NORM = re.compile(r"fpn_\w+\.1\.")
_CHANNELS = {"5": 2048, "4": 1024, "3": 512, "2": 256}  # of the ResNet's stages


def read_fpn(place: Place, prefix: str, path: Path) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The convolutions of the FPN beside the network under `prefix` by detectron2's names (`fpn_lateral5.weight`), and
    the names that they have in the place; both empty for methods that have none.

    Raises `UserError` for tensors of another shape than a ResNet-50's FPN has, or without finite numbers.
    """
    tensors, names = {}, set()
    for name, value in place.values.items():
        match = _CONVOLUTION.fullmatch(name.removeprefix(prefix))
        if match is None or not name.startswith(prefix) or not isinstance(value, torch.Tensor):
            continue
        layer, kind = match.groups()
        if kind == "bias":
            shape = [256]
        elif "output" in layer:
            shape = [256, 256, 3, 3]
        else:
            shape = [256, _CHANNELS[layer[-1]], 1, 1]
        if list(value.shape) != shape or not value.isfinite().all():
            raise UserError(f"expected finite numbers of the shape {shape} in {place.names[name]} of {path}, found "
                            f"{list(value.shape)}: this is not the FPN of a trained ResNet-50")
        tensors[f"{layer}.{kind}"] = value.detach().to(torch.float32, copy=True).contiguous()
        names.add(name)
    return tensors, names
