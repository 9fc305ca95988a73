"""Recognises a checkpoint file and reads its ResNet into torchvision names.

`loading.py` opens the file, `families.py` knows the published layouts, `naming.py` the dialects of names; everything
after that is the same for all: the architecture is found from names and shapes, and every one of its tensors must be
there, have the right shape and hold sane numbers (`architecture.py`).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pretrain.atomic import sha256_file
from pretrain.backbone_file import BackboneInfo, load_backbone, read_header
from pretrain.errors import UserError
from transfer.architecture import ARCHITECTURES, TITLES, checked, expected_shapes, nearest
from transfer.families import AUTHORS, FAMILIES, MSRA_PIXELS, Family, begins
from transfer.layout import LayoutError, Places, choices, inside, listed, places
from transfer.loading import SAFETENSORS, kind_of, load
from transfer.naming import COUNTER
from transfer.writers import AUTHOR, HEADER_KEY

__all__ = ["ARCHITECTURES", "Reading", "expected_shapes", "read_checkpoint"]

OWN_FAMILY, OWN_CHECKPOINT, NO_FAMILY = "backbone.safetensors", "our pretraining checkpoint", "unknown layout"

# detectron2's names (modeling/backbone/fpn.py) are ReSim's too; with its --fpn-bn the convolution is child 0.
_FPN = re.compile(r"(?:backbone\.)?(fpn_(?:lateral|output)[2-5])(?:\.0)?\.(weight|bias)")
_FPN_INPUTS = {"5": 2048, "4": 1024, "3": 512, "2": 256}


@dataclass(frozen=True)
class Reading:
    """A checkpoint file, read.

    `state`: torchvision names, float32, without the classifier and batch norm's counters. `left_over`: names in the
    file that were not used, counters left out. `fpn`: tensors of a pretrained FPN under detectron2's names
    (`fpn_lateral5.weight`), empty for methods that have none. `container`: the kind of file. `address`: "PLACE:PREFIX"
    of the network. `branches`: the address of each network that the layout names, the default first.
    `method_from`: "layout", "header", or "file name" when the layout tells no method; then `candidates` are methods
    known to write it.
    """

    state: dict[str, torch.Tensor]
    info: BackboneInfo
    left_over: list[str]
    family: str
    fpn: dict[str, torch.Tensor] = field(default_factory=dict)
    container: str = SAFETENSORS
    address: str = ":"
    branches: Mapping[str, str] = field(default_factory=dict)
    method_from: str = "header"
    candidates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | Path, branch: str | None = None, trust: bool = False,
                    prefix: str | None = None) -> Reading:
    """Read any known checkpoint file.

    `branch` picks the student or the teacher where a file holds both (default: the one the method's authors transfer).
    `trust` lets the file run its own code while it is read; without it only tensors and plain values are built.
    `prefix` names the network in a file of an unknown layout, as "PREFIX" or "PLACE:PREFIX"; `branch` then says what
    it is. Raises `UserError` when the file is unreadable, of an unknown layout or architecture, incomplete or
    degenerate; `LayoutError`, with the parts of the file, when it is not clear which network is meant.
    """
    path = Path(path)
    if _is_own(path):
        return _read_own(path, branch, prefix)
    content, container = load(path, trust)
    found = places(content)
    family = _recognise(content, found, path, needed=prefix is None)
    branches = _branches(family, found) if family else {}
    if prefix is None:
        branch = _choose(branch, branches, family, found, path)
        address = branches[branch]
    else:
        address = _find(prefix, found, path)
        named = [name for name, other in branches.items() if other == address]
        if branch and named and branch not in named:
            raise LayoutError(f"expected --prefix {prefix!r} to be the {branch} of a {family.name} file, found that it "
                              f"is the {named[0]}: leave --branch or --prefix out", choices(found))
        branch = branch or (named[0] if named else "single")
        family = family if named else None
    return _read(path, content, found, container, family, branch, branches if family else {branch: address}, address)


def _read(path: Path, content: Mapping[Any, Any], found: Places, container: str, family: Family | None, branch: str,
          branches: Mapping[str, str], address: str) -> Reading:
    place, prefix = address.split(":", 1)
    state = found[place]
    tensors, origins, dialect = inside(state, prefix)
    architecture = _architecture(tensors, state, prefix, path)
    used = checked(tensors, architecture, prefix, path)
    fpn, fpn_names = _fpn(state, prefix, path)
    taken = {(place, origins[name]) for name in used} | {(place, name) for name in fpn_names}
    everywhere = list(dict.fromkeys([place, *(other.split(":")[0] for other in branches.values())]))
    others = [where for where, names in found.items()
              if where not in everywhere and any("layer1.0.conv1." in name for name in names)]
    everywhere += others
    left_over = [name if where == place else f"{where}/{name}" for where in everywhere for name in found[where]
                 if (where, name) not in taken and not name.endswith(COUNTER)]
    method = family and family.method
    pixels = MSRA_PIXELS if dialect == "Caffe2" else family.pixels if family else {}
    epoch, notes = _epoch(content, family), _notes(state, prefix, family, branch, fpn, origins, dialect)
    if not (family and family.epochs) and "epoch" in content:
        notes.append(f"The stored epoch is {content['epoch']}, counted from 0 or 1 by version: epochs are left open.")
    notes += [f"The file holds another network, {where}, that was not read." for where in others]
    if (author := content.get("__author__")) is not None:
        notes.append(f"The file says __author__ {author!r}" + (f", as converters of {AUTHORS[author]} do."
                                                              if author in AUTHORS else "."))
    info = BackboneInfo(method=method or path.stem.removesuffix(".pth"), architecture=architecture, branch=branch,
                        epochs=epoch, source_name=path.name, source_sha256=sha256_file(path), **pixels)
    if (own := _own_header(content, path)) is not None:  # pixels and stride cannot be told from the tensors
        info, method = replace(own, architecture=architecture, source_name=info.source_name,
                               source_sha256=info.source_sha256), own.method
    if family and family.name == OWN_CHECKPOINT and (finished := _finished_run(path)) is not None:
        info = replace(info, epochs=finished.epochs, pretraining=finished.pretraining)
    return Reading(used, info, left_over, family.name if family else NO_FAMILY, fpn, container, address, dict(branches),
                   "layout" if method else "file name", family.candidates if family else (), tuple(notes))


def _finished_run(path: Path) -> BackboneInfo | None:
    """What the pretraining says of its finished network, when `path` is the last checkpoint in its run's folder: an
    earlier one is not what that recipe makes, and of a file elsewhere nobody knows."""
    folder = path.absolute().parent.parent
    try:
        steps = json.loads((folder / "done.json").read_text(encoding="utf-8"))["steps"]
        if path.absolute() != folder / "checkpoints" / f"step_{steps:08d}.pt":
            return None
        return load_backbone(folder / "backbone.safetensors")[1]
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None


def _own_header(content: Mapping[Any, Any], path: Path) -> BackboneInfo | None:
    """What `convert` wrote into a file for detectron2 or mmdetection; None for files of others."""
    meta = content.get("meta")
    if isinstance(meta, Mapping) and HEADER_KEY in meta:
        return read_header(meta[HEADER_KEY], path)
    if content.get("__author__") != AUTHOR:
        return None
    if HEADER_KEY not in content:
        raise UserError(f"{path} was written by this program without the pixels and the stride that its network wants: "
                        "convert the original checkpoint again")
    return read_header(content[HEADER_KEY], path)


def _is_own(path: Path) -> bool:
    """Whether it is our own backbone file: safetensors with our header."""
    if kind_of(path) != SAFETENSORS:
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "backbone" in (file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): make it again") from None


def _read_own(path: Path, branch: str | None, prefix: str | None) -> Reading:
    tensors, info = load_backbone(path)
    if branch not in (None, info.branch):
        raise UserError(f"{path} holds the branch {info.branch!r}, asked for {branch!r}: leave --branch out")
    if prefix:
        raise UserError(f"{path} holds one network, without a prefix, asked for {prefix!r}: leave --prefix out")
    architecture = _architecture(tensors, tensors, "", path)
    state = checked(tensors, architecture, "", path)
    source = {} if info.source_sha256 else {"source_name": path.name, "source_sha256": sha256_file(path)}
    fpn, fpn_names = _fpn(tensors, "", path)
    left_over = [name for name in tensors if name not in state and name not in fpn_names and not name.endswith(COUNTER)]
    return Reading(state, replace(info, architecture=architecture, **source), left_over, OWN_FAMILY, fpn,
                   branches={info.branch: ":"})


def _recognise(content: Mapping[Any, Any], found: Places, path: Path, needed: bool) -> Family | None:
    """The one family that the file is of. None only if it is not `needed`."""
    fitting = [family for family in FAMILIES if family.fits(content, found)]
    if len(fitting) == 1:
        return fitting[0]
    if not needed:
        return None
    parts = choices(found)
    holds = listed(found) + ("" if parts else f" (keys: {', '.join(map(str, list(content)[:6])) or 'none'})")
    how = (f"name the network with --prefix, for example --prefix {parts[0].address!r}" if parts and parts[0].title else
           "save the network as a state dict under torchvision's names (conv1.weight, ...)")
    if fitting:
        raise LayoutError(f"{path} fits more than one layout ({', '.join(family.name for family in fitting)}): "
                          f"it holds {holds}; {how}", parts)
    raise LayoutError("expected a checkpoint of a known layout (`python -m transfer inspect --help` names them), found "
                      f"in {path} {holds}; {how}", parts)


def _branches(family: Family, found: Places) -> dict[str, str]:
    """The address of each branch that is in the file: some published files leave one out."""
    there = {}
    for branch, addresses in family.branches.items():
        for address in addresses:
            if begins(found, address):
                there[branch] = address
                break
    return there


def _choose(branch: str | None, branches: Mapping[str, str], family: Family, found: Places, path: Path) -> str:
    usual = next(iter(family.branches))
    if branch is None and usual not in branches:
        raise LayoutError(f"expected the {usual}, which the authors of {family.name} transfer, in {path}, found only "
                          f"{', '.join(branches) or 'other tensors'}: add --branch if that is the one you mean",
                          choices(found))
    branch = branch or usual
    if branch not in branches:
        raise LayoutError(f"expected one of the branches of {path} ({', '.join(branches)}; {family.name}), "
                          f"found {branch!r}: choose one of these, or leave --branch out", choices(found))
    return branch


def _find(prefix: str, found: Places, path: Path) -> str:
    """The address that a user means by "PREFIX" or "PLACE:PREFIX"."""
    place, _, rest = prefix.partition(":")
    if ":" in prefix and place in found and inside(found[place], rest)[0]:
        return prefix
    there = [f"{where}:{prefix}" for where in found if ":" not in prefix and inside(found[where], prefix)[0]]
    if len(there) == 1:
        return there[0]
    if there:
        raise LayoutError(f"expected one network under the prefix {prefix!r} of {path}, found {len(there)}: choose "
                          f"between --prefix {' and --prefix '.join(map(repr, there))}", choices(found))
    raise LayoutError(f"expected a ResNet under the prefix {prefix!r} of {path}, found none; it holds {listed(found)}: "
                      "choose one of these prefixes", choices(found))


def _architecture(tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any], prefix: str, path: Path) -> str:
    best = nearest(tensors)
    if best in ARCHITECTURES:
        return best
    under = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    what = f"a {TITLES[best]}" if best else f"another network ({listed({'': under})})"
    raise UserError(f"expected a ResNet-18, ResNet-34 or ResNet-50 under prefix {prefix!r} of {path}, found "
                    f"{what}: other architectures cannot be converted")


def _fpn(state: Mapping[str, Any], prefix: str, path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A pretrained FPN's convolutions by detectron2's names, and their names in the file."""
    fpn, names = {}, []
    for name, value in state.items():
        match = _FPN.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if match is None or not isinstance(value, torch.Tensor):
            continue
        layer, kind = match.groups()
        shape = ([256] if kind == "bias" else [256, 256, 3, 3] if "output" in layer else
                 [256, _FPN_INPUTS[layer[-1]], 1, 1])
        if list(value.shape) != shape or not value.isfinite().all():
            raise UserError(f"expected finite numbers of the shape {shape} in {name} of {path}, found "
                            f"{list(value.shape)}: this is not the FPN of a ResNet-50, or the file is damaged")
        fpn[f"{layer}.{kind}"] = value.detach().to(torch.float32, copy=True).contiguous()
        names.append(name)
    return fpn, names


def _epoch(content: Mapping[Any, Any], family: Family | None) -> int | None:
    """Finished epochs, where the layout's stored number is that."""
    meta = content.get("meta")
    stored = content.get("epoch", meta.get("epoch") if isinstance(meta, Mapping) else None)
    return stored if type(stored) is int and family and family.epochs else None


def _notes(state: Mapping[str, Any], prefix: str, family: Family | None, branch: str, fpn: Mapping[str, torch.Tensor],
           origins: Mapping[str, str], dialect: str) -> list[str]:
    """What a user should know about the reading, in whole sentences."""
    notes = []
    if family is None:
        notes.append("The layout is unknown: the pixel format is an assumption.")
    elif family.note:
        notes.append(family.note)
    if fpn:
        norms = [name for name in state if name.startswith(prefix) and re.search(r"fpn_\w+\.1\.", name)
                 and not name.endswith(COUNTER)]
        notes.append(f"A pretrained FPN is in the file: {len(fpn)} tensors of its convolutions read"
                     + (f", {len(norms)} of its batch norm left (pretraining with --fpn-bn)." if norms else "."))
    for alias in family.aliases if family else ():
        if branch != next(iter(family.branches)):
            break
        pairs = [(state[name], state[alias + name.removeprefix(prefix)]) for name in origins.values()
                 if alias + name.removeprefix(prefix) in state]
        if pairs:
            different = sum(not torch.equal(one, other) for one, other in pairs)
            notes.append(f"{alias} repeats the tensors of {prefix}" if not different else
                         f"{alias} should repeat the tensors of {prefix} and differs in {different} of {len(pairs)}: "
                         "another program has changed the file.")
    bias = state.get(f"{prefix}conv1_b")
    if dialect == "Caffe2" and isinstance(bias, torch.Tensor) and bias.any():
        notes.append("conv1_b is not zero and is left out, as detectron2 leaves it out.")
    return notes
