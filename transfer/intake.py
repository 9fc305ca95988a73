"""Recognises a checkpoint file and reads its ResNet into torchvision names.

`loading.py` opens the file, `families.py` knows the published layouts, `naming.py` the dialects of names. Which network
is meant is settled once (`Chosen`); everything after that is the same for all: the architecture is found from names and
shapes, and every one of its tensors must be there, have the right shape and hold sane numbers (`architecture.py`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torchvision

from pretrain.atomic import sha256_file
from pretrain.backbone_file import BackboneInfo, load_backbone, read_header
from pretrain.errors import UserError
from transfer.architecture import ARCHITECTURES, OTHER_NETWORK, checked, expected_shapes, kind_of_network, nearest
from transfer.config_beside import read_config_beside
from transfer.families import AUTHORS, CLEAR_OF_OTHERS, FAMILIES, MSRA_PIXELS, Family
from transfer.layout import (
    LayoutError,
    Network,
    Place,
    Places,
    choices,
    inside,
    listed,
    network_prefixes,
    places,
)
from transfer.loading import SAFETENSORS, Opened, load
from transfer.naming import COUNTER, without_wrappers
from transfer.writers import AUTHOR, HEADER_KEY

__all__ = ["ARCHITECTURES", "Reading", "expected_shapes", "one_of", "read_checkpoint"]

OWN_FAMILY, OWN_CHECKPOINT, NO_FAMILY = "backbone.safetensors", "our pretraining checkpoint", "unknown layout"
NOT_OF_THE_RESNET = "not of the ResNet"  # heads, queues, a classifier: why most of a file's tensors are not read
_UNKNOWN = Family(NO_FAMILY, {}, (), epochs=False, known_network=False,
                  note="The layout is unknown: the pixel format is an assumption.")
_LOOKALIKES = ("Tensors alone do not tell a {title} from relatives with the same names and shapes (timm's resnetaa50 "
               "and resnetblur50 smooth before they stride, others stride in the 1x1 convolution or are dilated): "
               "torchvision's is assumed. timm's or Hugging Face's config.json beside the file would say.")

# detectron2's names (modeling/backbone/fpn.py) are ReSim's too; with its --fpn-bn the convolution is child 0.
_FPN = re.compile(r"(?:backbone\.)?(fpn_(?:lateral|output)[2-5])(?:\.0)?\.(weight|bias)")
_FPN_INPUTS = {"5": 2048, "4": 1024, "3": 512, "2": 256}


@dataclass(frozen=True)
class Reading:
    """A checkpoint file, read.

    `sha256`: of the file. `state`: torchvision names, float32, without the classifier and batch norm's counters.
    `left`: each name in the file that was not used, counters left out, and why. `fpn`: tensors of a pretrained FPN
    under detectron2's names (`fpn_lateral5.weight`), empty for methods that have none. `container`: the kind of file.
    `address`: "PLACE:PREFIX" of the network. `branches`: the address of each network that the layout names, the
    default first.
    `method_from`: "layout", "header", "sum" (the file is one that torchvision publishes), or "file name" when nothing
    proves a method; then `candidates` are methods that may have written it.
    """

    sha256: str
    state: dict[str, torch.Tensor]
    info: BackboneInfo
    left: dict[str, str]
    family: str
    fpn: dict[str, torch.Tensor] = field(default_factory=dict)
    container: str = SAFETENSORS
    address: str = ":"
    branches: Mapping[str, str] = field(default_factory=dict)
    method_from: str = "header"
    candidates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def left_over(self) -> list[str]:
        """Names in the file that were not used."""
        return list(self.left)


def one_of(candidates: Sequence[str]) -> str:
    """What a user reads where no layout proves the method."""
    if len(candidates) == 1:
        return f"perhaps {candidates[0]}; --method NAME says which"
    return f"one of {', '.join(candidates)}; --method NAME says which"


@dataclass(frozen=True)
class _File:
    """An opened checkpoint. `header`: what we wrote into it ourselves, None in files of others."""

    path: Path
    opened: Opened
    found: Places
    header: BackboneInfo | None


@dataclass(frozen=True)
class _Chosen:
    """The network that is meant: where it lies, its layout, and what the layouts that fit call its method."""

    where: str
    prefix: str
    branch: str
    family: Family
    branches: Mapping[str, str]
    methods: tuple[str, ...] = ()


def read_checkpoint(path: str | Path, branch: str | None = None, trust: bool = False,
                    prefix: str | None = None) -> Reading:
    """Read any known checkpoint file.

    `branch` picks the student or the teacher where a file holds both (default: the one the method's authors transfer).
    `trust` lets the file run its own code while it is read; without it only tensors and plain values are built.
    `prefix` names the network in a file of an unknown layout, as "PREFIX" or "PLACE:PREFIX"; `branch` then says what
    it is. Raises `UserError` when the file is unreadable, of an unknown layout or architecture, incomplete or
    degenerate; `LayoutError`, with the parts of the file, when it is not clear which network is meant.
    """
    file = _open(Path(path), trust)
    return _read(file, _by_layout(file, branch) if prefix is None else _by_prefix(file, prefix, branch))


def _open(path: Path, trust: bool) -> _File:
    opened = load(path, trust)
    content, meta = opened.content, opened.content.get("meta")
    header = opened.metadata.get("backbone")
    if isinstance(meta, Mapping) and HEADER_KEY in meta:
        header = meta[HEADER_KEY]
    elif content.get("__author__") == AUTHOR:
        if HEADER_KEY not in content:
            raise UserError(f"{path} was written by this program without the pixels and the stride that its network "
                            "wants: convert the original checkpoint again")
        header = content[HEADER_KEY]
    return _File(path, opened, places(content), None if header is None else read_header(header, path))


def _by_layout(file: _File, branch: str | None) -> _Chosen:
    """The network of the first layout that fits, and the methods of all that fit."""
    fitting = _fitting(file)
    if not fitting:
        raise _unknown(file)
    family, base = fitting[0]
    branches, usual = family.networks(file.found, base), next(iter(family.branches))
    if branch is None and usual not in branches:
        raise LayoutError(f"expected the {usual}, which the authors of {family.name} transfer, in {file.path}, found "
                          f"only {', '.join(branches) or 'other tensors'}: add --branch if that is the one you mean",
                          choices(file.found))
    branch = branch or usual
    if branch not in branches:
        raise LayoutError(f"expected one of the branches of {file.path} ({', '.join(branches)}; {family.name}), "
                          f"found {branch!r}: choose one of these, or leave --branch out", choices(file.found))
    return _chosen(branches[branch], branch, fitting, branches)


def _by_prefix(file: _File, prefix: str, branch: str | None) -> _Chosen:
    """The network that a user names; of a layout where the layout has one there."""
    address, fitting = _find(file, prefix), _fitting(file)
    branches = fitting[0][0].networks(file.found, fitting[0][1]) if fitting else {}
    named = [name for name, other in branches.items() if other == address]
    if branch and named and branch not in named:
        raise LayoutError(f"expected --prefix {prefix!r} to be the {branch} of a {fitting[0][0].name} file, found that "
                          f"it is the {named[0]}: leave --branch or --prefix out", choices(file.found))
    if named:
        return _chosen(address, branch or named[0], fitting, branches)
    return _chosen(address, branch or "single", [], {branch or "single": address})


def _fitting(file: _File) -> list[tuple[Family, str]]:
    """Every layout that fits, with the place below which it does; those of the first place only."""
    if file.header is not None and file.opened.container == SAFETENSORS:
        return [(Family(OWN_FAMILY, {file.header.branch: ("",)}, ()), "")]
    with_networks = [where for where, place in file.found.items() if network_prefixes(place)]
    bases = [*CLEAR_OF_OTHERS, *(with_networks if len(with_networks) == 1 else [])]
    fitting = [(family, base) for family in FAMILIES for base in dict.fromkeys(bases)
               if family.fits(file.opened.content, file.found, base)]
    return [(family, base) for family, base in fitting if base == fitting[0][1]]


def _chosen(address: str, branch: str, fitting: list[tuple[Family, str]], branches: Mapping[str, str]) -> _Chosen:
    where, prefix = address.split(":", 1)
    methods = tuple(dict.fromkeys(family.method for family, _ in fitting if family.method))
    return _Chosen(where, prefix, branch, fitting[0][0] if fitting else _UNKNOWN, branches, methods)


def _unknown(file: _File) -> UserError:
    """Why no layout fits: another kind of network, or names that nobody here knows."""
    parts = choices(file.found)
    networks = [part for part in parts if part.title]
    if networks and not any(part.usable for part in networks):
        one = networks[0]
        return UserError(f"expected a ResNet-18, ResNet-34 or ResNet-50 in {file.path}, found under {one.address!r} "
                         f"a {one.title}: other architectures cannot be converted")
    keys = ", ".join(map(str, list(file.opened.content)[:6]))
    holds = listed(parts) + ("" if parts else f" (keys: {keys or 'none'})")
    how = (f"name the network with --prefix, for example --prefix {networks[0].address!r}" if networks else
           "save the network as a state dict under torchvision's names (conv1.weight, ...)")
    return LayoutError("expected a checkpoint of a known layout (`python -m transfer inspect --help` names them), "
                       f"found in {file.path} {holds}; {how}", parts)


def _find(file: _File, prefix: str) -> str:
    """The address that a user means by "PREFIX" or "PLACE:PREFIX", with or without wrapper words."""
    place, colon, rest = prefix.partition(":")
    asked = [place] if colon and place in file.found else list(file.found)
    plain = without_wrappers(rest if colon and place in file.found else prefix)
    there = [where for where in asked if inside(file.found[where], plain).tensors]
    if len(there) == 1:
        return f"{there[0]}:{plain}"
    if there:
        raise LayoutError(f"expected one network under the prefix {prefix!r} of {file.path}, found {len(there)}: choose"
                          f" between --prefix {' and --prefix '.join(repr(f'{where}:{prefix}') for where in there)}",
                          choices(file.found))
    raise LayoutError(f"expected a ResNet under the prefix {prefix!r} of {file.path}, found none; it holds "
                      f"{listed(choices(file.found))}: choose one of these prefixes", choices(file.found))


def _read(file: _File, chosen: _Chosen) -> Reading:
    place = file.found[chosen.where]
    network = inside(place, chosen.prefix)
    architecture = _architecture(file, chosen, network)
    used = checked(network.tensors, architecture, place.in_file(chosen.prefix), file.path)
    sha256 = sha256_file(file.path)
    info, proof = _identity(file, chosen, architecture, network.dialect, sha256)
    notes = _notes(file, chosen, network)
    if not chosen.family.known_network and file.header is None:
        beside = read_config_beside(file.path, architecture)
        notes.append(beside.note if beside else _LOOKALIKES.format(title=ARCHITECTURES[architecture]))
        info = replace(info, **beside.fields) if beside else info
    fpn, fpn_names = _fpn(place, chosen.prefix, file.path)
    if fpn:
        notes.append(_fpn_note(place, chosen.prefix, fpn))
    taken = {network.origins[name] for name in used} | set(fpn_names)
    branches = {branch: _in_file(file, *address.split(":", 1)) for branch, address in chosen.branches.items()}
    candidates = chosen.methods or chosen.family.candidates
    return Reading(sha256, used, info, _left(file, chosen, taken), chosen.family.name, fpn, file.opened.container,
                   _in_file(file, chosen.where, chosen.prefix), branches, proof,
                   candidates if proof == "file name" else (), tuple(notes))


def _architecture(file: _File, chosen: _Chosen, network: Network) -> str:
    title, usable = kind_of_network(network.tensors)
    if usable:
        return nearest(network.tensors)
    place = file.found[chosen.where]
    if title == OTHER_NETWORK:
        under = {name.removeprefix(chosen.prefix): value for name, value in place.values.items()
                 if name.startswith(chosen.prefix)}
        found = f"{title} ({listed(choices(places(under)))})"
    else:
        found = f"a {title}"
    raise UserError(f"expected a ResNet-18, ResNet-34 or ResNet-50 under prefix {place.in_file(chosen.prefix)!r} of "
                    f"{file.path}, found {found}: other architectures cannot be converted")


def _identity(file: _File, chosen: _Chosen, architecture: str, dialect: str, sha256: str) -> tuple[BackboneInfo, str]:
    """What the network is, and what proves its method (`Reading.method_from`)."""
    source = {"source_name": file.path.name, "source_sha256": sha256}
    if file.header is not None:  # pixels and stride cannot be told from the tensors
        kept = chosen.family.name == OWN_FAMILY and file.header.source_sha256
        return replace(file.header, architecture=architecture, **({} if kept else source)), "header"
    family = chosen.family
    if family.name == OWN_CHECKPOINT and (finished := _finished_run(file.path)) is not None:
        return replace(finished, architecture=architecture, branch=chosen.branch, **source), "header"
    method, proof = file.path.stem.removesuffix(".pth"), "file name"
    if len(chosen.methods) == 1:
        method, proof = chosen.methods[0], "layout"
    elif _is_torchvisions(sha256, architecture):
        method, proof = "Supervised", "sum"
    pixels = MSRA_PIXELS if dialect == "Caffe2" else family.pixels
    meta = file.opened.content.get("meta")
    epoch = file.opened.content.get("epoch", meta.get("epoch") if isinstance(meta, Mapping) else None)
    counted = type(epoch) is int and family.epochs
    return BackboneInfo(method, architecture, epoch if counted else None, chosen.branch, **source, **pixels), proof


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


def _is_torchvisions(sha256: str, architecture: str) -> bool:
    """Whether torchvision publishes this very file: its addresses end with the sum's first digits."""
    published = torchvision.models.get_model_weights(architecture)
    return any(sha256.startswith(weights.url.removesuffix(".pth").rpartition("-")[2]) for weights in published)


def _left(file: _File, chosen: _Chosen, taken: set[str]) -> dict[str, str]:
    """The names that were not used, and why: in the place of the network, and wherever else there is one."""
    networks = {address: f"the {branch}" for branch, address in chosen.branches.items()}
    networks |= {f"{chosen.where}:{alias}": "repeats another" for alias in chosen.family.aliases}
    networks |= dict.fromkeys(_others(file, chosen), "another network")
    networks.pop(f"{chosen.where}:{chosen.prefix}", None)
    left = {}
    for where in dict.fromkeys([chosen.where, *(address.split(":")[0] for address in networks)]):
        prefixes = {address.split(":", 1)[1]: why for address, why in networks.items()
                    if address.split(":")[0] == where}
        for name, own in file.found[where].names.items():
            if name.endswith(COUNTER) or (where == chosen.where and name in taken):
                continue
            why = [why for prefix, why in prefixes.items() if name.startswith(prefix)]
            left[own if where == chosen.where else f"{where}/{own}"] = why[0] if why else NOT_OF_THE_RESNET
    return left


def _others(file: _File, chosen: _Chosen) -> list[str]:
    """The addresses of networks that the layout does not speak of."""
    aliases = [f"{chosen.where}:{alias}" for alias in chosen.family.aliases]
    known = {*chosen.branches.values(), *aliases, f"{chosen.where}:{chosen.prefix}"}
    return [address for where, place in file.found.items() for prefix in network_prefixes(place)
            if (address := f"{where}:{prefix}") not in known]


def _in_file(file: _File, where: str, prefix: str) -> str:
    """An address as it stands in the file."""
    return f"{where}:{file.found[where].in_file(prefix)}"


def _fpn(place: Place, prefix: str, path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A pretrained FPN's convolutions by detectron2's names, and their names in the place."""
    fpn, names = {}, []
    for name, value in place.values.items():
        match = _FPN.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if match is None or not isinstance(value, torch.Tensor):
            continue
        layer, kind = match.groups()
        shape = [256, _FPN_INPUTS[layer[-1]], 1, 1]
        if kind == "bias":
            shape = [256]
        elif "output" in layer:
            shape = [256, 256, 3, 3]
        if list(value.shape) != shape or not value.isfinite().all():
            raise UserError(f"expected finite numbers of the shape {shape} in {place.names[name]} of {path}, found "
                            f"{list(value.shape)}: this is not the FPN of a trained ResNet-50")
        fpn[f"{layer}.{kind}"] = value.detach().to(torch.float32, copy=True).contiguous()
        names.append(name)
    return fpn, names


def _fpn_note(place: Place, prefix: str, fpn: Mapping[str, torch.Tensor]) -> str:
    norms = [name for name in place.values if name.startswith(prefix) and re.search(r"fpn_\w+\.1\.", name)
             and not name.endswith(COUNTER)]
    return (f"A pretrained FPN is in the file: {len(fpn)} tensors of its convolutions read"
            + (f", {len(norms)} of its batch norm left (pretraining with --fpn-bn)." if norms else "."))


def _notes(file: _File, chosen: _Chosen, network: Network) -> list[str]:
    """What a user should know about the reading, in whole sentences."""
    content, family, place = file.opened.content, chosen.family, file.found[chosen.where]
    notes = [family.note] if family.note else []
    bias = place.values.get(f"{chosen.prefix}conv1_b")
    if network.dialect == "Caffe2" and isinstance(bias, torch.Tensor) and bias.any():
        notes.append("conv1_b is not zero and is left out, as detectron2 leaves it out.")
    if not family.epochs and "epoch" in content:
        notes.append(f"The stored epoch is {content['epoch']}, counted from 0 or 1 by version: epochs are left open.")
    for address in _others(file, chosen):
        shown = _in_file(file, *address.split(":", 1)).removeprefix(":").removesuffix(":")
        notes.append(f"The file holds another network, {shown or 'with bare names'}, that was not read.")
    if (author := content.get("__author__")) is not None:
        known = f", as converters of {AUTHORS[author]} do." if author in AUTHORS else "."
        notes.append(f"The file says __author__ {author!r}{known}")
    return notes
