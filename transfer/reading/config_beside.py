"""What a config.json beside a checkpoint says of the network: timm's and Hugging Face's have one.

Some networks have the names and shapes of a ResNet's tensors and compute something else (timm's
resnetaa50 and resnetblur50 smooth before they stride, Hugging Face's can stride elsewhere): only
their config shows it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.common.architectures import ARCHITECTURES
from pretrain.common.errors import refuse
from pretrain.common.fields import is_number

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
# timm's names of torchvision's ResNets: "resnet50", in older versions with the weights' origin.
_TIMM_RESNET = re.compile(r"(?:tv_|ssl_|swsl_|gluon_)?(resnet(?:18|34|50))(?:_v1b)?(?:\..*)?")
_LOOKALIKES = ("Tensors alone do not tell a {title} from relatives with the same names and shapes "
               "(timm's resnetaa50 and resnetblur50 smooth before they stride, others stride in "
               "the 1x1 convolution or are dilated): torchvision's is assumed. timm's or Hugging "
               "Face's config.json beside the file would say.")


# What a config says: the architecture, why it is not torchvision's network of that name, a note,
# and fields of `BackboneInfo`.
_Config = tuple[str, str, str, dict[str, Any]]


def read_config_beside(path: Path, architecture: str) -> tuple[str, dict[str, Any]]:
    """The config.json in the checkpoint's folder, where it is timm's or Hugging Face's.

    `architecture`: what the tensors are. Returns, in a sentence, what was taken from the config,
    and the fields of `BackboneInfo` that it gives. Raises `UserError` when the config says that it
    is another network.
    """
    content = _json(path.parent / CONFIG)
    if isinstance(content.get("architecture"), str):
        network, other, note, fields = _timm(content)
    elif content.get("model_type") == "resnet":
        network, other, note, fields = _hugging_face(content, _json(path.parent / PREPROCESSOR))
    else:
        return _LOOKALIKES.format(title=ARCHITECTURES[architecture].title), {}
    refuse((other, f"expected a ResNet-18, ResNet-34 or ResNet-50 in {path}, found in {CONFIG} "
                   f"beside it that it is {other}: another network with the same tensors, which "
                   "cannot be converted"))
    if network != architecture:
        return f"{CONFIG} beside the file is of a {network} and this is a {architecture}: it was not used.", {}
    return note, fields


def _timm(content: Mapping[str, Any]) -> _Config:
    name = content["architecture"]
    match = _TIMM_RESNET.fullmatch(name)
    if match is None:
        return name, f"timm's {name}", "", {}
    arguments = set(content.get("model_args") or {}) - {"num_classes", "in_chans", "global_pool"}
    if arguments:
        return match[1], f"timm's {name} with other arguments ({', '.join(sorted(arguments))})", "", {}
    weights = content.get("pretrained_cfg")
    if not isinstance(weights, Mapping):  # older versions have its fields in the file itself
        weights = content
    note = f"{CONFIG} beside the file: timm's {name}, weights {weights.get('tag') or 'not said'}."
    return match[1], "", note, _pixels(weights.get("mean"), weights.get("std"))


def _hugging_face(content: Mapping[str, Any], images: Mapping[str, Any]) -> _Config:
    """`images`: the content of preprocessor_config.json."""
    bottleneck = content.get("layer_type", "bottleneck") != "basic"
    layers = tuple(content.get("depths", (3, 4, 6, 3)))
    network = "ResNet of other depths"
    for name, known in ARCHITECTURES.items():
        if (known.layers, known.bottleneck) == (layers, bottleneck):
            network = name
    other, activation = "", content.get("hidden_act", "relu")
    if content.get("downsample_in_first_stage"):
        other = "a ResNet that strides in its first stage"
    elif activation != "relu":
        other = f"a ResNet with {activation} in the place of ReLU"
    in_1x1 = bottleneck and bool(content.get("downsample_in_bottleneck"))
    stride = "1x1" if in_1x1 else "3x3"
    note = f"{CONFIG} beside the file: Hugging Face's {network}, stride in the {stride} convolution."
    fields = _pixels(images.get("image_mean"), images.get("image_std"))
    return network, other, note, {**fields, "stride_in_1x1": in_1x1}


def _pixels(mean: Any, std: Any) -> dict[str, tuple[float, ...]]:
    """Mean and deviation of intensities from 0 to 1, where both are three numbers."""
    for values in (mean, std):
        if not (isinstance(values, list) and len(values) == 3 and all(map(is_number, values))):
            return {}
    return {"pixel_mean": tuple(map(float, mean)), "pixel_std": tuple(map(float, std))}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):  # none there, or something else of that name
        return {}
    return content if isinstance(content, dict) else {}
