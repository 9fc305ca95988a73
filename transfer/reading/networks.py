"""Where in a checkpoint file the networks are: dictionaries of tensors, prefixes in them, and how to name one.

Names are compared without the words that wrappers put into them (`naming.WRAPPERS`); what a user reads has the names of
the file.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from pretrain.common.errors import UserError
from transfer.reading.architecture import kind_of_network, some
from transfer.reading.naming import COUNTER, dialect, prefixes, without_wrappers

_BEFORE_A_RESNET = re.compile(r"(|.*?\.)(?:conv1|bn1|layer[1-4]|fc|stem|res[2-5]|attnpool|embedder\.embedder)\.")


class Address(NamedTuple):
    """Where a network is: the keys that lead to a dictionary of tensors, joined by "/" ("" for the file itself), and
    what stands before the network's own names. As text, "state_dict:module.encoder_q."."""

    where: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.where}:{self.prefix}"


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

    `title` names the network where it is a ResNet, and `architecture` which of those that can be converted.
    """

    address: str
    tensors: int
    title: str = ""
    architecture: str | None = None


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
    values, below = {}, {}
    for key, value in content.items():
        if not isinstance(value, Mapping):
            values[str(key)] = _as_tensor(value)
        elif depth and not str(key).startswith("optim"):
            for name, place in places(value, depth - 1).items():
                if any(isinstance(tensor, torch.Tensor) for tensor in place.values.values()):
                    below[f"{key}/{name}".rstrip("/")] = place
    return {"": _place(values)} | below


def inside(place: Place, prefix: str) -> Network:
    """The ResNet under `prefix`, which has no wrapper words. `UserError` when two tensors have one name."""
    under = {name: value for name, value in place.values.items()
             if name.startswith(prefix) and isinstance(value, torch.Tensor)}
    title, translate = dialect([name.removeprefix(prefix) for name in under])
    tensors, origins = {}, {}
    for name, value in under.items():
        own = translate(name.removeprefix(prefix))
        if own in origins:
            raise UserError(f"expected one tensor for {own}, found {origins[own]} and {name}: save the network alone")
        if own is not None:
            tensors[own], origins[own] = value, name
    return Network(tensors, origins, title)


def choices(found: Places) -> list[Choice]:
    """Every part of a file: whole networks first, then what is beside them, the largest first."""
    networks, others = [], []
    for where, place in found.items():
        names = {name for name, value in place.values.items()
                 if isinstance(value, torch.Tensor) and not name.endswith(COUNTER)}
        for prefix in prefixes(place.values):
            network = inside(place, prefix)
            count = sum(not name.endswith(COUNTER) for name in network.tensors)
            address = str(Address(where, place.in_file(prefix)))
            networks.append(Choice(address, count, *kind_of_network(network.tensors)))
            names -= set(network.origins.values())
        parts = Counter(part_of(name) for name in sorted(place.names[name] for name in names))
        others += [Choice(str(Address(where, prefix)), count) for prefix, count in parts.items()]
    return networks + sorted(others, key=lambda choice: -choice.tensors)


def listed(parts: list[Choice], most: int = 5) -> str:
    """In one line, the addresses of a file's parts with how many tensors are there."""
    shown = [f"{part.address!r} ({part.tensors})" for part in parts]
    return some(shown, most) or "no tensors"


def part_of(name: str) -> str:
    """What a tensor is counted under: what stands before a ResNet's names, else the first word."""
    before = _BEFORE_A_RESNET.match(name) or re.match(r"(module\.[^.]*\.|[^.]*\.?)", name)
    return before[1]


def _place(values: dict[str, Any]) -> Place:
    names = {}
    taken = {name for name in values if without_wrappers(name) == name}
    for name in values:
        plain = without_wrappers(name)
        if name != plain and plain in taken:  # a network beside its wrapped copy: that keeps its words
            names[name] = name
        else:
            names[plain] = name
        taken.add(plain)
    return Place({plain: values[name] for plain, name in names.items()}, names)


def _as_tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return torch.tensor(value)
    return value
