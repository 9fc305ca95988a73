"""The one format between the stages: a ResNet state dict under torchvision names with a header that says what it is.

A safetensors file: plain tensors, no pickle, nothing that can run. The header is JSON under the
metadata key "backbone". Every reader turns its family into this, every writer starts from it: N
readers, M writers, never N x M.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pretrain import __version__
from pretrain.common.architectures import ARCHITECTURES
from pretrain.common.atomic import atomic_path, sha256_file
from pretrain.common.errors import UserError
from pretrain.common.fields import is_number, is_pretraining, is_whole

# In files for detectron2 and mmdetection, whose readers leave both alone.
AUTHOR, HEADER_KEY = "clove-suite", "backbone"


def _three(value: object, least: float) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(is_number(one, least, 1) for one in value)


# What a header's values must be: the file may be a stranger's.
HEADER: dict[str, Callable[[Any], bool]] = {
    "method": lambda v: isinstance(v, str) and v.strip() != "" and not any(letter < " " for letter in v),
    "architecture": lambda v: isinstance(v, str) and v in ARCHITECTURES,
    "epochs": lambda v: v is None or is_whole(v, 0),
    "branch": lambda v: v in ("student", "teacher", "single"),
    "channel_order": lambda v: v in ("RGB", "BGR"),
    "pixel_mean": lambda v: _three(v, 0.0),
    "pixel_std": lambda v: _three(v, 1e-6),
    "stride_in_1x1": lambda v: isinstance(v, bool),
    "pretraining": lambda v: v is None or is_pretraining(v),
    "classes": lambda v: v is None or is_whole(v, 2),
    "random_convolutions": lambda v: v is None or is_whole(v, 0),
    **dict.fromkeys(("source_name", "source_sha256", "family", "tool_version"), lambda v: isinstance(v, str)),
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneInfo:
    """What a backbone is and where it comes from.

    `pixel_mean` and `pixel_std` are in units of 0..1 intensities and in `channel_order`.
    `branch` is "student", "teacher", or "single" for methods with one network.
    `pretraining` says which pretraining of this project made it: {"objective", "seed",
    "recipe_sha256" (all that changes the numbers but the seed), "images_sha256" (the list of its
    images' names)}; None for files from elsewhere.
    `classes`: number of classes that it learned from; None without labels.
    `random_convolutions`: the seed that its convolutions were drawn from after all, for a control
    that has only the batch norm of its method; None: they are the method's.
    """

    method: str
    architecture: str  # of ARCHITECTURES
    epochs: int | None = None
    branch: str = "single"
    channel_order: str = "RGB"
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    stride_in_1x1: bool = False  # where a bottleneck strides: torchvision in its 3x3, MSRA's Caffe networks in its 1x1
    source_name: str = ""
    source_sha256: str = ""
    family: str = ""  # layout of the source, as intake names it
    tool_version: str = __version__
    pretraining: dict[str, Any] | None = None
    classes: int | None = None
    random_convolutions: int | None = None


def save_backbone(path: str | Path, state: dict[str, torch.Tensor], info: BackboneInfo) -> str:
    """Write `state` (torchvision names) and `info` atomically; returns the file's SHA-256."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_path(path) as sibling:
        # The library's own file writer would turn a full disk into an error that is no OSError.
        sibling.write_bytes(save(tensors, metadata={HEADER_KEY: header_of(info)}))
    return sha256_file(path)


def load_backbone(path: str | Path) -> tuple[dict[str, torch.Tensor], BackboneInfo]:
    """Tensors and header of a backbone file. Raises `UserError`."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY, "")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{path}: expected a whole safetensors file, found: {error}; make it again") from None
    return state, read_header(header, path)


def header_of(info: BackboneInfo) -> str:
    """What `read_header` reads: JSON."""
    return json.dumps(asdict(info), sort_keys=True)


def read_header(header: object, path: str | Path) -> BackboneInfo:
    """The header of a file, here or in a converted one. Raises `UserError`, which says what is
    wrong with it."""
    try:
        fields = json.loads(header)
        for name in ("pixel_mean", "pixel_std"):
            fields[name] = tuple(fields[name])
        info = BackboneInfo(**fields)
        wrong = [name for name, holds in HEADER.items() if not holds(getattr(info, name))]
        if not wrong:
            return info
        problem = f"{wrong[0]} {getattr(info, wrong[0])!r:.60}"
    except (TypeError, KeyError, ValueError) as error:
        problem = str(error)
    raise UserError(f"{path}: expected a backbone header of this version, found {problem}; make the file again with "
                    "`clove pretrain` or `clove convert`")
