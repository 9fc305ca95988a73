"""Where in a checkpoint file the networks are: dictionaries of tensors, prefixes in them, and how to name one.

An address is "PLACE:PREFIX": the keys that lead to a dictionary of tensors, joined by "/" (nothing for the file
itself), and what stands before the network's own names, as in "state_dict:module.encoder_q.". Names are compared
without the words that wrappers put into them (`naming.WRAPPERS`); what a user reads has the names of the file.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pretrain.errors import UserError
from transfer.architecture import kind_of_network
from transfer.naming import COUNTER, dialect, without_wrappers

_BEFORE_A_RESNET = re.compile(r"(|.*?\.)(?:conv1|bn1|layer[1-4]|fc|stem|res[2-5]|attnpool|embedder\.embedder)\.")
# The first tensor of a network in each dialect, and a second one that must stand beside it.
_FIRST_TENSORS = (
    (r"(|.*\.)conv1\.weight", "layer1.0.conv1.weight"), (r"(|.*\.)stem\.conv1\.weight", "res2.0.conv1.weight"),
    (r"(|.*\.)0\.weight", "4.0.conv1.weight"), (r"(|.*\.)conv1_w", "res2_0_branch2a_w"),
    (r"(|.*\.)embedder\.embedder\.convolution\.weight", "encoder.stages.0.layers.0.layer.0.convolution.weight"))


@dataclass(frozen=True)
class Place:
    """A dictionary of tensors in a file. `values` by names without wrapper words; `names`: what the file calls each."""

    values: dict[str, Any]
    names: dict[str, str]

    def in_file(self, prefix: str) -> str:
        """The prefix as it stands in the file: with its wrapper words."""
        for name, own in self.names.items():
            rest = name.removeprefix(prefix)
            if name.startswith(prefix) and own.endswith(rest):
                return own.removesuffix(rest)
        return prefix


Places = dict[str, Place]


@dataclass(frozen=True)
class Choice:
    """A part of a file: tensors under one prefix of one place.

    `title` names the network where it is a ResNet, and `usable` says whether it is one that can be converted.
    """

    address: str
    tensors: int
    title: str = ""
    usable: bool = False


class LayoutError(UserError):
    """It is not clear which network of the file is meant. `choices` are the parts of the file."""

    def __init__(self, message: str, choices: list[Choice]) -> None:
        super().__init__(message)
        self.choices = choices


@dataclass(frozen=True)
class Network:
    """The tensors under a prefix by torchvision's names, `origins`: the name each has in its place, the dialect."""

    tensors: dict[str, torch.Tensor]
    origins: dict[str, str]
    dialect: str


def places(content: Mapping[Any, Any], depth: int = 4) -> Places:
    """Every dictionary with tensors in a file, by the keys that lead to it; optimizers left out.

    The place "" is the file itself, with whatever it holds beside dictionaries. Arrays come as tensors.
    """
    found = {"": _place({str(name): _as_tensor(value) for name, value in content.items()
                         if not isinstance(value, Mapping)})}
    for key, value in content.items():
        if isinstance(value, Mapping) and depth and not str(key).startswith("optim"):
            for name, place in places(value, depth - 1).items():
                if any(isinstance(tensor, torch.Tensor) for tensor in place.values.values()):
                    found[f"{key}/{name}".rstrip("/")] = place
    return found


def inside(place: Place, prefix: str) -> Network:
    """The ResNet under `prefix`, which has no wrapper words. `UserError` when two tensors have one name."""
    under = {name.removeprefix(prefix): value for name, value in place.values.items()
             if name.startswith(prefix) and isinstance(value, torch.Tensor)}
    title, translate = dialect(under)
    tensors, origins = {}, {}
    for name, value in under.items():
        own = translate(name)
        if own is None:
            continue
        if own in origins:
            raise UserError(f"expected one tensor for {own}, found {origins[own]} and {prefix + name}: "
                            "save the network alone")
        tensors[own], origins[own] = value, prefix + name
    return Network(tensors, origins, title)


def choices(found: Places) -> list[Choice]:
    """Every part of a file: whole networks first, then what is beside them, the largest first."""
    networks, others = [], []
    for where, place in found.items():
        names = {name for name, value in place.values.items()
                 if isinstance(value, torch.Tensor) and not name.endswith(COUNTER)}
        for prefix in network_prefixes(place):
            network = inside(place, prefix)
            count = sum(not name.endswith(COUNTER) for name in network.tensors)
            title, usable = kind_of_network(network.tensors)
            networks.append(Choice(f"{where}:{place.in_file(prefix)}", count, title, usable))
            names -= set(network.origins.values())
        parts = grouped(sorted(place.names[name] for name in names))
        others += [Choice(f"{where}:{prefix}", count) for prefix, count in parts]
    return networks + sorted(others, key=lambda choice: -choice.tensors)


def network_prefixes(place: Place) -> list[str]:
    """The prefixes of all ResNets in a place, in the file's order."""
    prefixes: dict[str, None] = {}
    for name in place.values:
        for first, second in _FIRST_TENSORS:
            match = re.fullmatch(first, name)
            if match and match[1] + second in place.values:
                prefixes[match[1]] = None
    return list(prefixes)


def grouped(names: Iterable[str]) -> list[tuple[str, int]]:
    """Prefixes of names with their counts, the commonest first: what stands before a ResNet, else the first word."""
    return Counter(map(_group, names)).most_common()


def listed(parts: list[Choice], most: int = 5) -> str:
    """In one line, the addresses of a file's parts with how many tensors are there."""
    shown = ", ".join(f"{part.address!r} ({part.tensors})" for part in parts[:most])
    return shown + (f" and {len(parts) - most} more" if len(parts) > most else "") or "no tensors"


def _group(name: str) -> str:
    before = _BEFORE_A_RESNET.match(name)
    if before:
        return before[1]
    words = name.split(".")
    if len(words) == 1:
        return name
    return ".".join(words[:2 if words[0] == "module" and len(words) > 2 else 1]) + "."


def _place(values: dict[str, Any]) -> Place:
    names = {}
    taken = {name for name in values if without_wrappers(name) == name}
    for name in values:  # one that would take another's name keeps its words: a network beside its wrapped copy
        plain = without_wrappers(name)
        names[name if name != plain and plain in taken else plain] = name
        taken.add(plain)
    return Place({plain: values[name] for plain, name in names.items()}, names)


def _as_tensor(value: Any) -> Any:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        return value
    return torch.from_numpy(value if value.flags.writeable else value.copy())
