"""What a config.json beside a checkpoint says of the network: timm's and Hugging Face's files come with one.

Some networks have the names and shapes of a ResNet's tensors and compute something else (timm's resnetaa50 and
resnetblur50 smooth before they stride, Hugging Face's can stride elsewhere): their config is the only thing that tells.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.common.architectures import ARCHITECTURES
from pretrain.common.errors import UserError
from pretrain.common.fields import is_number

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
# timm's names of torchvision's ResNets: "resnet50", in older versions with the weights' origin in the name.
_TIMM_RESNET = re.compile(r"(?:tv_|ssl_|swsl_|gluon_)?(resnet(?:18|34|50))(?:_v1b)?(?:\..*)?")


# In a sentence, what was taken from the config, and the fields of `BackboneInfo` that it says.
Said = tuple[str, dict[str, Any]]
_LOOKALIKES = ("Tensors alone do not tell a {title} from relatives with the same names and shapes (timm's resnetaa50 "
               "and resnetblur50 smooth before they stride, others stride in the 1x1 convolution or are dilated): "
               "torchvision's is assumed. timm's or Hugging Face's config.json beside the file would say.")


def read_config_beside(path: Path, architecture: str) -> Said:
    """The config.json in the checkpoint's folder, where it is timm's or Hugging Face's.

    `architecture`: what the tensors are. Raises `UserError` when the config says that it is another network.
    """
    content = _json(path.parent / CONFIG)
    if isinstance(content.get("architecture"), str):
        return _timm(path, content, architecture)
    if content.get("model_type") == "resnet":
        return _hugging_face(path, content, architecture)
    return _LOOKALIKES.format(title=ARCHITECTURES[architecture].title), {}


def _timm(path: Path, content: Mapping[str, Any], architecture: str) -> Said:
    said = content["architecture"]
    match = _TIMM_RESNET.fullmatch(said)
    if match is None:
        raise _another(path, f"timm's {said}")
    if match[1] != architecture:
        return _not_its_own(said, architecture)
    arguments = set(content.get("model_args") or {}) - {"num_classes", "in_chans", "global_pool"}
    if arguments:
        raise _another(path, f"timm's {said} with other arguments ({', '.join(sorted(arguments))})")
    weights = content.get("pretrained_cfg")
    if not isinstance(weights, Mapping):  # older versions have its fields in the file itself
        weights = content
    note = f"{CONFIG} beside the file: timm's {said}, weights {weights.get('tag') or 'not said'}."
    return note, _pixels(weights.get("mean"), weights.get("std"))


def _hugging_face(path: Path, content: Mapping[str, Any], architecture: str) -> Said:
    bottleneck = {"bottleneck": True, "basic": False}.get(content.get("layer_type", "bottleneck"))
    layers = tuple(content.get("depths", (3, 4, 6, 3)))
    same = [name for name, known in ARCHITECTURES.items() if (known.layers, known.bottleneck) == (layers, bottleneck)]
    if content.get("downsample_in_first_stage"):
        raise _another(path, "a ResNet that strides in its first stage")
    if content.get("hidden_act", "relu") != "relu":
        raise _another(path, f"a ResNet with {content['hidden_act']} in the place of ReLU")
    if architecture not in same:
        return _not_its_own(same[0] if same else "ResNet of other depths", architecture)
    images = _json(path.parent / PREPROCESSOR)
    fields = _pixels(images.get("image_mean"), images.get("image_std"))
    in_1x1 = bool(content.get("downsample_in_bottleneck")) and bottleneck
    stride = "1x1" if in_1x1 else "3x3"
    note = f"{CONFIG} beside the file: Hugging Face's {architecture}, stride in the {stride} convolution."
    return note, {**fields, "stride_in_1x1": in_1x1}


def _not_its_own(said: str, architecture: str) -> Said:
    return f"{CONFIG} beside the file is of a {said} and this is a {architecture}: it was not used.", {}


def _another(path: Path, what: str) -> UserError:
    return UserError(f"expected a ResNet-18, ResNet-34 or ResNet-50 in {path}, found in {CONFIG} beside it that it is "
                     f"{what}: another network with the same tensors, which cannot be converted")


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
