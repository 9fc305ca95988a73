"""Where in a checkpoint file the networks are: dictionaries of tensors, prefixes in them, and how to name one.

An address is "PLACE:PREFIX": the keys that lead to a dictionary of tensors, joined by "/" (nothing for the file
itself), and what stands before the network's own names, as in "state_dict:module.encoder_q.".
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pretrain.errors import UserError
from transfer.architecture import TITLES, nearest
from transfer.naming import COUNTER, dialect

Places = dict[str, dict[str, Any]]

_BEFORE_A_RESNET = re.compile(r"(|.*?\.)(?:conv1|bn1|layer[1-4]|fc|stem|res[2-5])\.")
# The first tensor of a network in each dialect, and a second one that must stand beside it.
_FIRST_TENSORS = (
    (r"(|.*\.)conv1\.weight", "layer1.0.conv1.weight"), (r"(|.*\.)stem\.conv1\.weight", "res2.0.conv1.weight"),
    (r"(|.*\.)0\.weight", "4.0.conv1.weight"), (r"(|.*\.)conv1_w", "res2_0_branch2a_w"))


@dataclass(frozen=True)
class Choice:
    """A part of a file: tensors under one prefix of one place. `title` names the network where it is a ResNet."""

    address: str
    tensors: int
    title: str = ""


class LayoutError(UserError):
    """It is not clear which network of the file is meant. `choices` are the parts of the file."""

    def __init__(self, message: str, choices: list[Choice]) -> None:
        super().__init__(message)
        self.choices = choices


def places(content: Mapping[Any, Any], depth: int = 4) -> Places:
    """Every dictionary with tensors in a file, by the keys that lead to it; optimizers left out.

    The place "" is the file itself, with whatever it holds beside dictionaries. Arrays come as tensors.
    """
    found = {"": {str(name): _as_tensor(value) for name, value in content.items() if not isinstance(value, Mapping)}}
    for key, value in content.items():
        if isinstance(value, Mapping) and depth and not str(key).startswith("optim"):
            inner = places(value, depth - 1)
            found |= {f"{key}/{name}".rstrip("/"): tensors for name, tensors in inner.items() if _has_tensors(tensors)}
    return found


def inside(state: Mapping[str, Any], prefix: str) -> tuple[dict[str, torch.Tensor], dict[str, str], str]:
    """The tensors under `prefix` by torchvision's names, the name each has in the file, and the dialect's title.

    Only tensors of the ResNet itself. Raises `UserError` when two tensors have one name.
    """
    under = {name.removeprefix(prefix): value for name, value in state.items()
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
    return tensors, origins, title


def choices(found: Places) -> list[Choice]:
    """Every part of a file: whole networks first, then what is beside them, the largest first."""
    networks, others = [], []
    for place, state in found.items():
        names = {name for name, value in state.items()
                 if isinstance(value, torch.Tensor) and not name.endswith(COUNTER)}
        prefixes = {match[1]: None for name in state for first, second in _FIRST_TENSORS
                    if (match := re.fullmatch(first, name)) and match[1] + second in names}
        for prefix in prefixes:
            tensors, origins, _ = inside(state, prefix)
            architecture = nearest(tensors)
            networks.append(Choice(f"{place}:{prefix}", sum(not name.endswith(COUNTER) for name in tensors),
                                   TITLES[architecture] if architecture else "another network"))
            names -= set(origins.values())
        others += [Choice(f"{place}:{prefix}", count) for prefix, count in grouped(sorted(names))]
    return networks + sorted(others, key=lambda choice: -choice.tensors)


def grouped(names: Iterable[str]) -> list[tuple[str, int]]:
    """Prefixes of names with their counts, the commonest first: what stands before a ResNet, else the first word."""
    return Counter(map(_group, names)).most_common()


def listed(found: Places, most: int = 5) -> str:
    """In one line, which prefixes there are in each place with how many tensors; counters are left out."""
    lines = []
    for place, state in found.items():
        counts = grouped(name for name, value in state.items()
                         if isinstance(value, torch.Tensor) and not name.endswith(COUNTER))
        if counts:
            shown = ", ".join(f"{name!r} ({count})" for name, count in counts[:most])
            lines.append((f"under {place!r}: " if place else "") + shown
                         + (f" and {len(counts) - most} more" if len(counts) > most else ""))
    return "; ".join(lines) or "no tensors"


def _group(name: str) -> str:
    before = _BEFORE_A_RESNET.match(name)
    if before:
        return before[1]
    words = name.split(".")
    if len(words) == 1:
        return name
    return ".".join(words[:2 if words[0] == "module" and len(words) > 2 else 1]) + "."


def _has_tensors(state: Mapping[str, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in state.values())


def _as_tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" else value
