"""Recognises a checkpoint file and reads its ResNet into torchvision names.

Each published layout is one row of `FAMILIES`: where its state dict lies, which names give it away, and under which
prefix each network is kept. Everything after the row is the same for all: the architecture is found from names and
shapes, and every one of its tensors must be there, have the right shape and hold sane numbers.
Layouts are those that the methods' own code writes (for CLoVE: sthalles/CLoVE, main_pretrain.py).
"""

import argparse
import codecs
import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy._core import multiarray
from torch.serialization import safe_globals

from pretrain.atomic import sha256_file
from pretrain.backbone_file import BackboneInfo, load_backbone
from pretrain.errors import UserError

ARCHITECTURES = {"resnet18": "ResNet-18", "resnet34": "ResNet-34", "resnet50": "ResNet-50"}
# Known so that they can be named when somebody brings one.
_OTHER_ARCHITECTURES = {"resnet101": "ResNet-101", "resnet152": "ResNet-152", "wide_resnet50_2": "Wide ResNet-50-2",
                        "wide_resnet101_2": "Wide ResNet-101-2", "resnext50_32x4d": "ResNeXt-50 32x4d",
                        "resnext101_32x8d": "ResNeXt-101 32x8d"}
_ALL_NAMES = ARCHITECTURES | _OTHER_ARCHITECTURES

# What weights_only loading may build beside tensors. Both numpy spellings: files of numpy 1 say numpy.core.
_ALLOWED = [argparse.Namespace, np.ndarray, np.dtype, codecs.encode,
            multiarray._reconstruct, (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
            multiarray.scalar, (multiarray.scalar, "numpy.core.multiarray.scalar"),
            *(type(np.dtype(code)) for code in "?bBhilqefd")]

_COUNTER = "num_batches_tracked"  # of batch norm: says nothing about the network in use, never counted
_OWN_FAMILY = "backbone.safetensors"


def _torchvision_method(tensors: Mapping[str, Any], path: Path) -> str:
    """A 1000-class head means ImageNet labels; any other torchvision-named file only has its own name to go by."""
    head = tensors.get("fc.weight")
    return "Supervised" if isinstance(head, torch.Tensor) and head.shape[0] == 1000 else path.stem


@dataclass(frozen=True)
class Family:
    """One published checkpoint layout.

    `container`: key of the state dict in the file, or None when the file is the state dict.
    `marks`: beginnings of names that must all be present; `branches`: prefix of each network, the default one first.
    """

    name: str
    container: str | None
    marks: tuple[str, ...]
    branches: Mapping[str, str]
    method: Callable[[Mapping[str, Any], Path], str]

    def tensors(self, content: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The state dict of a file of this family, or None when `content` is not of this family."""
        state = content if self.container is None else content.get(self.container)
        if not isinstance(state, Mapping):
            return None
        fits = all(any(str(name).startswith(mark) for name in state) for mark in self.marks)
        return state if fits else None


FAMILIES = (
    Family("CLoVE", "model", ("module.self_attn.", "module.encoder."),
           {"student": "module.encoder.", "teacher": "module.encoder_k."}, lambda _tensors, _path: "CLoVE"),
    Family("torchvision", None, ("layer1.",), {"single": ""}, _torchvision_method),
)


@dataclass(frozen=True)
class Reading:
    """A checkpoint file, read.

    `state`: torchvision names, float32, without the classifier and batch norm's counters. `left_over`: names in the
    file that were not used, counters left out. `fpn`: tensors of a pretrained FPN under detectron2's names
    (`fpn_lateral5.weight`), empty for methods that have none.
    """

    state: dict[str, torch.Tensor]
    info: BackboneInfo
    left_over: list[str]
    family: str
    fpn: dict[str, torch.Tensor] = field(default_factory=dict)


def read_checkpoint(path: str | Path, branch: str | None = None, trust: bool = False) -> Reading:
    """Read any known checkpoint file.

    `branch` picks the student or the teacher where a file holds both (default: the one the method's authors transfer).
    `trust` lets the file run its own code while it is read; without it only tensors and plain values are built.
    Raises `UserError` when the file is unreadable, of an unknown layout or architecture, incomplete or degenerate.
    """
    path = Path(path)
    if _is_safetensors(path):
        tensors, info = _read_own(path)
        family, prefix = _OWN_FAMILY, ""
        if branch not in (None, info.branch):
            raise UserError(f"{path} holds the branch {info.branch!r}, asked for {branch!r}: leave --branch out")
    else:
        content = _read_torch(path, trust)
        row, tensors = _recognise(content, path)
        branch = branch or next(iter(row.branches))
        if branch not in row.branches:
            raise UserError(f"expected one of the branches of a {row.name} file ({', '.join(row.branches)}), "
                            f"found {branch!r}: choose one of these, or leave --branch out")
        family, prefix = row.name, row.branches[branch]
        epoch = content.get("epoch")
        info = BackboneInfo(method=row.method(tensors, path), architecture="", branch=branch,
                            epochs=epoch if type(epoch) is int else None)
    inside = {name.removeprefix(prefix): value for name, value in tensors.items()
              if name.startswith(prefix) and isinstance(value, torch.Tensor)}
    architecture = _architecture(inside, prefix, path)
    state = _checked(inside, architecture, prefix, path)
    used = {prefix + name for name in state}
    left_over = [name for name in tensors if name not in used and not name.endswith(_COUNTER)]
    source = {} if info.source_sha256 else {"source_name": path.name, "source_sha256": sha256_file(path)}
    return Reading(state, replace(info, architecture=architecture, **source), left_over, family)


@lru_cache
def expected_shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a torchvision ResNet, without classifier and counters (265 for ResNet-50)."""
    with torch.device("meta"):
        network = torchvision.models.get_model(architecture, weights=None)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()
            if not name.startswith("fc.") and not name.endswith(_COUNTER)}


def _is_safetensors(path: Path) -> bool:
    """Look at the first bytes; the name alone decides only when they say nothing. Missing and odd files end here."""
    if path.is_dir():
        raise UserError(f"expected a checkpoint file, found the folder {path}: name the file in it")
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    if not head:
        raise UserError(f"{path} is empty (0 bytes): download or copy it again")
    return path.suffix == ".safetensors" or head[8:] == b"{"  # eight bytes of length, then JSON


def _read_own(path: Path) -> tuple[dict[str, torch.Tensor], BackboneInfo]:
    try:
        return load_backbone(path)
    except (TypeError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path} has a backbone header that cannot be read ({error}): make it again "
                        "with this version") from None


def _read_torch(path: Path, trust: bool) -> dict[str, Any]:
    """The dictionary in a torch.save file, on the CPU."""
    if trust:
        print(f"warning: --trust: {path} may run any code while it is read", file=sys.stderr)
    try:
        with safe_globals(_ALLOWED), warnings.catch_warnings(action="ignore"):  # about pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=not trust)
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        if isinstance(error, ImportError | AttributeError):  # only with trust: the file's own code is not installed
            raise UserError(f"{path} needs code that is not here ({error}): install it, or save the state dict "
                            "alone with torch.save") from None
        raise UserError(_why_unreadable(path, error)) from None
    if isinstance(content, torch.nn.Module):  # a whole network, pickled: only reached with trust
        content = content.state_dict()
    if not isinstance(content, dict):
        raise UserError(f"expected a dictionary in {path}, found {type(content).__name__}: "
                        "save the network's state_dict with torch.save")
    return content


def _why_unreadable(path: Path, error: Exception) -> str:
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return (f"{path} holds an object of the class {refused[1]}; expected only tensors, numbers and text, because "
                "anything else can run code: add --trust if you know where the file comes from")
    with open(path, "rb") as file:
        head = file.read(40)
    if head.startswith(b"PK"):
        return (f"{path} begins like a PyTorch file but is damaged or cut off ({path.stat().st_size} bytes): "
                "download or copy it again")
    if head.startswith(b"\x80"):
        return (f"{path} is a Python pickle, but not a whole file of torch.save: "
                "download it again, or save the state dict with torch.save")
    shown = head.decode("ascii", "replace").split("\n")[0]
    begins = f" (it begins with {shown!r})" if shown.isprintable() and shown.isascii() else ""
    return f"{path} is neither a PyTorch nor a safetensors file{begins}: download it again or name another file"


def _recognise(content: dict[str, Any], path: Path) -> tuple[Family, Mapping[str, Any]]:
    """The one family whose marks are in the file, and its state dict."""
    found = [(family, state) for family in FAMILIES if (state := family.tensors(content)) is not None]
    if len(found) == 1:
        family, state = found[0]
        return family, {str(name): _as_tensor(value) for name, value in state.items()}
    places = [f"{where}{_prefixes(names)}" for where, names in _tensor_names(content).items()]
    holds = "; ".join(places) or f"no tensors (keys: {', '.join(map(str, list(content)[:6])) or 'none'})"
    if found:
        raise UserError(f"{path} fits more than one layout ({', '.join(family.name for family, _ in found)}): it holds "
                        f"{holds}; save the one network as a state dict under torchvision's names")
    known = ", ".join(family.name for family in FAMILIES)
    raise UserError(f"expected a checkpoint of a known layout ({known}, or our own backbone.safetensors), found in "
                    f"{path} {holds}; save the network as a state dict under torchvision's names (conv1.weight, ...)")


def _as_tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" else value


def _tensor_names(content: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of the tensors directly in the file and in each dictionary of it, by place."""
    nested = {f"under {key!r}: ": value for key, value in content.items() if isinstance(value, Mapping)}
    places = {"": content, **nested}
    names = {where: [str(name) for name, value in place.items() if isinstance(value, torch.Tensor | np.ndarray)]
             for where, place in places.items()}
    return {where: found for where, found in names.items() if found}


def _prefixes(names: Iterable[str], most: int = 5) -> str:
    """The commonest prefixes with their counts: what stands before a ResNet's own names, else the first word."""
    def prefix(name: str) -> str:
        before = re.match(r"(.*?)(?:conv1|bn1|layer[1-4]|fc)\.", name)
        return before[1] if before else name.split(".")[0] + "." * ("." in name)
    counts = Counter(map(prefix, names)).most_common()
    shown = ", ".join(f"{name!r} ({count})" for name, count in counts[:most])
    return shown + (f" and {len(counts) - most} more" if len(counts) > most else "")


def _architecture(inside: Mapping[str, torch.Tensor], prefix: str, path: Path) -> str:
    """The nearest known ResNet by names and shapes together, so that a damaged one is still called by its name."""
    found = {(name, tuple(value.shape)) for name, value in inside.items()
             if not name.startswith("fc.") and not name.endswith(_COUNTER)}

    def likeness(architecture: str) -> float:
        expected = set(expected_shapes(architecture).items())
        return len(found & expected) / len(found | expected)

    best = max(_ALL_NAMES, key=likeness)
    if likeness(best) >= 0.5 and best in ARCHITECTURES:
        return best
    is_another = f"a {_ALL_NAMES[best]}" if likeness(best) >= 0.5 else f"another network ({_prefixes(inside)})"
    raise UserError(f"expected a ResNet-18, ResNet-34 or ResNet-50 under prefix {prefix!r} of {path}, found "
                    f"{is_another if found else 'no tensors'}: other architectures cannot be converted")


def _checked(inside: Mapping[str, torch.Tensor], architecture: str, prefix: str, path: Path) -> dict[str, torch.Tensor]:
    """Every expected tensor as float32, in torchvision's order; errors name the tensors at fault."""
    expected, title = expected_shapes(architecture), ARCHITECTURES[architecture]
    present = [name for name in expected if name in inside]
    of_network = f"expected {len(expected)} tensors of {title} under prefix {prefix!r} of {path}"
    if missing := [name for name in expected if name not in inside]:
        raise UserError(f"{of_network}, found {len(present)}; missing: {_some(missing)}: use the whole file")
    # fc, projectors and the like may be left over; another conv or batch norm in the body means another network.
    surplus = [name for name in inside if name not in expected and not name.endswith(_COUNTER)
               and re.match(r"(conv1|bn1|layer\d+)\.", name)]
    if surplus:
        raise UserError(f"{of_network}, found {len(present) + len(surplus)}; a {title} has no {_some(surplus)}: "
                        "this is another network and cannot be converted")
    wrong = [f"{name} is {list(inside[name].shape)}, not {list(shape)}" for name, shape in expected.items()
             if tuple(inside[name].shape) != shape]
    if wrong:
        raise UserError(f"{of_network}, found other shapes: {_some(wrong)}: this is another network")
    odd = [f"{name} ({inside[name].dtype})" for name in expected if not inside[name].is_floating_point()]
    if odd:
        raise UserError(f"expected floating-point tensors in {path}, found {_some(odd)}: save the network unquantized")
    stored = Counter(str(inside[name].dtype).removeprefix("torch.") for name in expected)
    if set(stored) != {"float32"}:
        print(f"note: {path.name} stores {', '.join(f'{count} tensors as {kind}' for kind, count in stored.items())}; "
              "all are converted to float32", file=sys.stderr)
    state = {name: inside[name].detach().to(torch.float32, copy=True).contiguous() for name in expected}
    if broken := [name for name, value in state.items() if not value.isfinite().all()]:
        raise UserError(f"expected finite numbers in {path}, found NaN or infinity in {_some(broken)}: "
                        "the training diverged or the file is damaged; use an earlier checkpoint")
    if flat := [name for name in state if name.endswith("running_var") and _degenerate(inside[name])]:
        raise UserError(f"expected positive batch-norm variances in {path}, found zero or negative ones in "
                        f"{_some(flat)}: the statistics are damaged; use another checkpoint")
    return state


def _degenerate(variance: torch.Tensor) -> bool:
    """Not positive. In float16 a dead channel's variance underflows to 0, which the network bears (epsilon)."""
    underflow = variance.dtype == torch.float16 and bool(variance.max() > 0)
    return bool((variance < 0).any() if underflow else (variance <= 0).any())


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
