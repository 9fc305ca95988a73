"""Which ResNet a set of tensors is, and whether every one of its tensors is there, of the right shape and sane."""

import re
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torchvision

from pretrain.common.architectures import ARCHITECTURES
from pretrain.common.errors import UserError
from transfer.reading.naming import COUNTER

FLOATS = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")
# Known so that they can be named when somebody brings one.
_OTHERS = {"resnet101": "ResNet-101", "resnet152": "ResNet-152", "wide_resnet50_2": "Wide ResNet-50-2",
           "wide_resnet101_2": "Wide ResNet-101-2", "resnext50_32x4d": "ResNeXt-50 32x4d",
           "resnext101_32x8d": "ResNeXt-101 32x8d"}
_TITLES = {name: known.title for name, known in ARCHITECTURES.items()}
OTHER_NETWORK = "another network"
# Relatives of a ResNet, by tensors that it does not have; their stages can have its very names and shapes.
# openai/CLIP, clip/model.py, and open_clip, modified_resnet.py; timm's resnet50d and its like have conv1.0, conv1.3.
_RELATIVES = (
    (r"attnpool\.", "modified ResNet of CLIP (attention pool, stem of three convolutions, pooling before strides)"),
    (r"(conv[23]|bn[23])\.", "ResNet with a stem of three convolutions, as the modified ones of CLIP and open_clip"),
    (r"conv1\.\d", "ResNet with a deep stem of several convolutions, as timm's resnet50d"),
)


@lru_cache
def expected_shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a torchvision ResNet, without classifier and counters (265 for ResNet-50)."""
    with torch.device("meta"):
        network = torchvision.models.get_model(architecture, weights=None)
    return _shapes(network.state_dict())


def set_architecture(config: Any, architecture: str) -> None:
    """Make the ResNet of a detectron2 config this one."""
    config.MODEL.RESNETS.DEPTH = ARCHITECTURES[architecture].depth
    if not ARCHITECTURES[architecture].bottleneck:
        config.MODEL.RESNETS.RES2_OUT_CHANNELS = 64  # two 3x3 convolutions a block


def kind_of_network(tensors: Mapping[str, torch.Tensor]) -> tuple[str, str | None]:
    """The title of the nearest known network, and its architecture where it is one that can be converted.

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
        best = max(_TITLES | _OTHERS, key=likeness)
    if likeness(best) < 0.5:
        return OTHER_NETWORK, None
    return (_TITLES | _OTHERS)[best], best if best in ARCHITECTURES else None


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, without classifier and counters."""
    return {name: tuple(value.shape) for name, value in tensors.items()
            if not name.startswith("fc.") and not name.endswith(COUNTER)}


def checked(tensors: Mapping[str, torch.Tensor], architecture: str, prefix: str, path: Path
            ) -> dict[str, torch.Tensor]:
    """Every expected tensor as float32, in torchvision's order; errors name the tensors at fault.

    `tensors`: the network's under torchvision's names; `prefix` and `path` are for the messages.
    """
    expected = expected_shapes(architecture)
    _check_names(tensors, architecture, f"under prefix {prefix!r} of {path}")
    odd = [f"{name} ({_kind(tensors[name])})" for name in expected if _kind(tensors[name]) not in FLOATS]
    if odd:
        raise UserError(f"expected floating-point tensors in {path}, found {some(odd)}: save the network unquantized, "
                        "dense and with its numbers")
    stored = Counter(str(tensors[name].dtype).removeprefix("torch.") for name in expected)
    if set(stored) != {"float32"}:
        print(f"note: {path.name} stores {', '.join(f'{count} tensors as {kind}' for kind, count in stored.items())}; "
              "all are converted to float32", file=sys.stderr)
    state = {name: tensors[name].detach().to(torch.float32, copy=True).contiguous() for name in expected}
    _check_numbers(state, tensors, path)
    return state


def some(names: Collection[str], most: int = 5) -> str:
    """The first few of many names, and how many more there are."""
    return ", ".join(list(names)[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def faults(names_of: Mapping[str, Collection[str]]) -> str:
    """How many names have which fault, with the first of each: "2 missing in the file (a, b)"."""
    found = []
    for fault, names in names_of.items():
        more = ", ..." if len(names) > 3 else ""
        if names:
            found.append(f"{len(names)} {fault} ({', '.join(sorted(names)[:3])}{more})")
    return ", ".join(found)


def _check_names(tensors: Mapping[str, torch.Tensor], architecture: str, where: str) -> None:
    """All of the network's tensors are there with their shapes, and no more convolutions or batch norms."""
    expected, title = expected_shapes(architecture), _TITLES[architecture]
    present = sum(name in tensors for name in expected)
    of_network = f"expected {len(expected)} tensors of {title} {where}"
    if surplus := [name for name in tensors if name not in expected and not name.endswith(COUNTER)]:
        raise UserError(f"{of_network}, found {present + len(surplus)}; a {title} has no {some(surplus)}: "
                        "this is another network and cannot be converted")
    if missing := [name for name in expected if name not in tensors]:
        statistics = all("running" in name for name in missing) and len(missing) > 2
        todo = ("its norms have no statistics, it is a network with group norm or a file of the parameters alone"
                if statistics else "use the whole file")
        raise UserError(f"{of_network}, found {present}; missing: {some(missing)}: {todo}")
    wrong = [f"{name} is {list(tensors[name].shape)}, not {list(shape)}" for name, shape in expected.items()
             if tuple(tensors[name].shape) != shape]
    if wrong:
        what = ("its stem is one for small images, as of CIFAR, which the transfer cannot use"
                if tuple(tensors["conv1.weight"].shape[2:]) == (3, 3) else "this is another network")
        raise UserError(f"{of_network}, found other shapes: {some(wrong)}: {what}")


def _check_numbers(state: Mapping[str, torch.Tensor], stored: Mapping[str, torch.Tensor], path: Path) -> None:
    """Finite, positive variances, no convolution of zeros. `stored`: the same tensors in the file's precision."""
    # Extremes show NaN and infinity in a tenth of the time of isfinite().
    if broken := [name for name, value in state.items() if not torch.stack(value.aminmax()).isfinite().all()]:
        raise UserError(f"expected finite numbers in {path}, found NaN or infinity in {some(broken)}: "
                        "the training diverged; use an earlier checkpoint")
    if flat := [name for name in state if name.endswith("running_var") and _degenerate(stored[name])]:
        raise UserError(f"expected positive batch-norm variances in {path}, found zero or negative ones in "
                        f"{some(flat)}: these are not the statistics of a training; use another checkpoint")
    # Whatever stands before a convolution of zeros, its maps are the same: no comparison of maps would prove anything.
    if empty := [name for name, value in state.items() if value.ndim == 4 and not value.any()]:
        raise UserError(f"expected trained convolutions in {path}, found nothing but zeros in {some(empty)}: its maps "
                        "could not prove the conversion; use a checkpoint of a trained network")


def _kind(tensor: torch.Tensor) -> str:
    """Its type, and what keeps it from being plain numbers."""
    layout = "" if tensor.layout == torch.strided else f", {tensor.layout}"
    return f"{tensor.dtype}{layout}{', without its numbers' if tensor.is_meta else ''}"


def _degenerate(variance: torch.Tensor) -> bool:
    """Not positive. In float16 a dead channel's variance underflows to 0, which the network bears (epsilon)."""
    underflow = variance.dtype == torch.float16 and variance.max() > 0
    return bool(variance.min() < 0 or (variance.min() == 0 and not underflow))
