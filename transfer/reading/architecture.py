"""Which ResNet a set of tensors is, and whether every one of its tensors is there, of the right shape and sane."""

import re
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torchvision

from pretrain.common.architectures import ARCHITECTURES
from pretrain.common.errors import refuse
from transfer.reading.naming import COUNTER

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TITLES = {name: known.title for name, known in ARCHITECTURES.items()} | {
    # Known so that they can be named when somebody brings one.
    "resnet101": "ResNet-101", "resnet152": "ResNet-152", "wide_resnet50_2": "Wide ResNet-50-2",
    "wide_resnet101_2": "Wide ResNet-101-2", "resnext50_32x4d": "ResNeXt-50 32x4d",
    "resnext101_32x8d": "ResNeXt-101 32x8d"}
OTHER_NETWORK = "another network"
# Relatives of a ResNet, by tensors that it does not have; their stages can have its very names and
# shapes. openai/CLIP, clip/model.py, and open_clip, modified_resnet.py; timm's resnet50d and its
# like have conv1.0, conv1.3.
_RELATIVES = (
    (r"attnpool\.", "modified ResNet of CLIP (attention pool, stem of three convolutions, pooling "
                    "before strides)"),
    (r"(conv[23]|bn[23])\.", "ResNet with a stem of three convolutions, as the modified ones of "
                             "CLIP and open_clip"),
    (r"conv1\.\d", "ResNet with a deep stem of several convolutions, as timm's resnet50d"),
)


@lru_cache
def expected_shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a torchvision ResNet, without classifier and counters (265
    for ResNet-50)."""
    with torch.device("meta"):
        network = torchvision.models.get_model(architecture, weights=None)
    return _shapes(network.state_dict())


def set_architecture(config: Any, architecture: str) -> None:
    """Make the ResNet of a detectron2 config this one."""
    config.MODEL.RESNETS.DEPTH = ARCHITECTURES[architecture].depth
    if not ARCHITECTURES[architecture].bottleneck:
        config.MODEL.RESNETS.RES2_OUT_CHANNELS = 64  # two 3x3 convolutions a block


def kind_of_network(tensors: Mapping[str, torch.Tensor]) -> tuple[str, str | None]:
    """The title of the nearest known network, and its architecture where it is one that can be
    converted.

    The nearest by names and shapes together, so that a damaged one is still called by its name.
    """
    for pattern, title in _RELATIVES:
        if any(re.match(pattern, name) for name in tensors):
            return title, None
    found = set(_shapes(tensors).items())

    def likeness(architecture: str) -> float:
        expected = set(expected_shapes(architecture).items())
        return len(found & expected) / len(found | expected)

    best = max(ARCHITECTURES, key=likeness)
    if likeness(best) < 0.95:  # the others take a moment to build
        best = max(_TITLES, key=likeness)
    if likeness(best) < 0.5:
        return OTHER_NETWORK, None
    return _TITLES[best], best if best in ARCHITECTURES else None


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, without classifier and counters."""
    return {name: tuple(value.shape) for name, value in tensors.items()
            if not name.startswith("fc.") and not name.endswith(COUNTER)}


def checked(tensors: Mapping[str, torch.Tensor], architecture: str, prefix: str, path: Path
            ) -> dict[str, torch.Tensor]:
    """Every expected tensor as float32, in torchvision's order.

    `tensors`: the network's under torchvision's names; `prefix` and `path` are for the messages.
    Raises `UserError` that names the tensors at fault.
    """
    expected = expected_shapes(architecture)
    fault = _wrong_names(tensors, expected, _TITLES[architecture])
    for name, shape in expected.items():
        fault = fault or _wrong_tensor(name, tensors[name], shape)
    refuse((fault, f"expected {len(expected)} tensors of {_TITLES[architecture]} under prefix "
                   f"{prefix!r} of {path}, found {fault}"))
    stored = Counter(str(tensors[name].dtype).removeprefix("torch.") for name in expected)
    if set(stored) != {"float32"}:
        kinds = ", ".join(f"{count} tensors as {kind}" for kind, count in stored.items())
        print(f"note: {path.name} stores {kinds}; all are converted to float32", file=sys.stderr)
    return {name: tensors[name].detach().to(torch.float32, copy=True).contiguous()
            for name in expected}


def some(names: Collection[str], most: int = 5) -> str:
    """The first few of many names, and how many more there are."""
    shown = ", ".join(list(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def first_names(names: Sequence[str], most: int = 5) -> str:
    """The first few of many names, with "..." behind them where there are more."""
    return ", ".join([*names[:most], "..."] if len(names) > most else names)


def faults(names_of: Mapping[str, Collection[str]]) -> str:
    """How many names have which fault, with the first of each: "2 missing in the file (a, b)"."""
    found = []
    for fault, names in names_of.items():
        if names:
            found.append(f"{len(names)} {fault} ({first_names(sorted(names), 3)})")
    return ", ".join(found)


def _wrong_names(tensors: Mapping[str, torch.Tensor], expected: Collection[str], title: str
                 ) -> str | None:
    """Which names are too many or missing, and what to do; None where all are there."""
    surplus = [name for name in tensors if name not in expected]
    missing = [name for name in expected if name not in tensors]
    found = len(expected) - len(missing)
    if surplus:
        return (f"{found + len(surplus)}; a {title} has no {some(surplus)}: this is another "
                "network and cannot be converted")
    if len(missing) > 2 and all("running" in name for name in missing):
        return (f"{found}; missing: {some(missing)}: its norms have no statistics, it is a network "
                "with group norm or a file of the parameters alone")
    if missing:
        return f"{found}; missing: {some(missing)}: use the whole file"
    return None


def _wrong_tensor(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> str | None:
    """What is wrong with one tensor, and what to do; None where it is as expected."""
    if tuple(tensor.shape) != shape:
        what = "this is another network"
        if name == "conv1.weight" and tensor.shape[2:] == (3, 3):
            what = "its stem is one for small images, as of CIFAR, which the transfer cannot use"
        return f"another shape: {name} is {list(tensor.shape)}, not {list(shape)}: {what}"
    if tensor.dtype not in _FLOATS or tensor.layout != torch.strided or tensor.is_meta:
        return (f"{name} ({tensor.dtype}, {tensor.layout}, {tensor.device}): save the network "
                "unquantized, dense and with its numbers")
    value = tensor.float()
    # Extremes show NaN and infinity in a tenth of the time of isfinite().
    least, most = value.aminmax()
    if not (least.isfinite() and most.isfinite()):
        return f"NaN or infinity in {name}: the training diverged; use an earlier checkpoint"
    # In float16 a dead channel's variance underflows to 0, which epsilon allows.
    underflow = tensor.dtype == torch.float16 and most > 0
    if name.endswith("running_var") and (least < 0 or (least == 0 and not underflow)):
        return (f"zero or negative variances in {name}: these are not the statistics of a "
                "training; use another checkpoint")
    # Whatever stands before a convolution of zeros, its maps are the same: they would prove
    # nothing.
    if value.ndim == 4 and not value.any():
        return (f"nothing but zeros in {name}: its maps could not prove the conversion; use a "
                "checkpoint of a trained network")
    return None
