"""Where in a checkpoint file the networks are: dictionaries of tensors, prefixes, and how to name one.

Names are compared without the words that wrappers put into them (`naming.WRAPPERS`); what a user
reads has the names of the file.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from pretrain.common.errors import UserError, refuse
from transfer.reading.architecture import kind_of_network, some
from transfer.reading.naming import COUNTER, dialect, prefixes, to_torchvision, without_wrappers

_BEFORE_A_RESNET = re.compile(
    r"(|.*?\.)(?:conv1|bn1|layer[1-4]|fc|stem|res[2-5]|attnpool|embedder\.embedder)\.")
_FIRST_WORD = re.compile(r"(module\.[^.]*\.|[^.]*\.?)")


class Address(NamedTuple):
    """Where a network is.

    `where`: the keys that lead to a dictionary of tensors, joined by "/" ("" for the file itself).
    `prefix`: what stands before the network's own names. As text, "state_dict:module.encoder_q.".
    """

    where: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.where}:{self.prefix}"


@dataclass(frozen=True)
class Place:
    """A dictionary with tensors in a file, without batch norm's counters.

    `values` by names without wrapper words; `names`: what the file calls each.
    """

    values: dict[str, Any]
    names: dict[str, str]

    def tensors(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """The tensors under a prefix, by the rest of their names."""
        found = {}
        for name, value in self.values.items():
            if name.startswith(prefix) and isinstance(value, torch.Tensor):
                found[name.removeprefix(prefix)] = value
        return found

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

    `title` names the network where it is a ResNet, and `architecture` which of those that can be
    converted.
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
    """The tensors of one network by torchvision's names.

    `origins`: the name that each has in its place. `dialect`: whose names these are.
    """

    tensors: dict[str, torch.Tensor]
    origins: dict[str, str]
    dialect: str


def places(content: Mapping[Any, Any], depth: int = 4) -> Places:
    """Every dictionary with tensors in a file, by the keys that lead to it; optimizers left out.

    The place "" is the file itself, with whatever it holds beside dictionaries. Numpy arrays come
    as tensors.
    """
    values, below = {}, {}
    for key, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            value = torch.tensor(value)
        if not isinstance(value, Mapping):
            values[str(key)] = value
        elif depth and not str(key).startswith("optim"):
            for name, place in places(value, depth - 1).items():
                if place.tensors():
                    below[f"{key}/{name}".rstrip("/")] = place
    return {"": _place(values)} | below


def network_under(place: Place, prefix: str) -> Network:
    """The ResNet under `prefix`, which has no wrapper words.

    Raises `UserError` when two tensors have one name.
    """
    under = place.tensors(prefix)
    title = dialect(under)
    tensors, origins = {}, {}
    for name, value in under.items():
        own = to_torchvision(title, name)
        if own is None:
            continue
        refuse((own in tensors, f"expected one tensor for {own}, found {origins.get(own)} and "
                                f"{prefix}{name}: save the network alone"))
        tensors[own], origins[own] = value, prefix + name
    return Network(tensors, origins, title)


def choices(found: Places) -> list[Choice]:
    """Every part of a file: whole networks first, then what is beside them, the largest first."""
    networks, others = [], []
    for where, place in found.items():
        beside = set(place.tensors())
        for prefix in prefixes(place.values):
            network = network_under(place, prefix)
            beside -= set(network.origins.values())
            networks.append(Choice(str(Address(where, place.in_file(prefix))), len(network.tensors),
                                   *kind_of_network(network.tensors)))
        parts = Counter(part_of(place.names[name]) for name in sorted(beside, key=place.names.get))
        for prefix, count in parts.items():
            others.append(Choice(str(Address(where, prefix)), count))
    return networks + sorted(others, key=lambda choice: -choice.tensors)


def listed(parts: list[Choice]) -> str:
    """In one line, the addresses of a file's parts with how many tensors are there."""
    return some([f"{part.address!r} ({part.tensors})" for part in parts]) or "no tensors"


def part_of(name: str) -> str:
    """What a tensor is counted under: what stands before a ResNet's names, else the first word."""
    return (_BEFORE_A_RESNET.match(name) or _FIRST_WORD.match(name))[1]


def _place(values: Mapping[str, Any]) -> Place:
    place = Place({}, {})
    for name, value in values.items():
        if name.endswith(COUNTER):
            continue
        plain = without_wrappers(name)
        if plain != name and (plain in values or plain in place.names):
            plain = name  # a network beside its wrapped copy, which keeps its words
        place.values[plain], place.names[plain] = value, name
    return place
