"""Which network of a checkpoint file is meant: that of the first layout that fits, or a named one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pretrain.common.backbone_file import AUTHOR, HEADER_KEY, BackboneInfo, read_header
from pretrain.common.errors import refuse
from transfer.reading.families import CLEAR_OF_OTHERS, FAMILIES, Family
from transfer.reading.naming import prefixes, without_wrappers
from transfer.reading.networks import (
    Address,
    LayoutError,
    Place,
    Places,
    choices,
    listed,
    network_under,
    places,
)
from transfer.reading.safe_load import SAFETENSORS, Opened, load

OWN_FAMILY = "backbone.safetensors"
ANOTHER_NETWORK = "another network"  # which the layout does not name
UNKNOWN = Family("unknown layout", {}, (), epochs=False, known_network=False,
                 note="The layout is unknown: the pixel format is an assumption.")


@dataclass(frozen=True)
class CheckpointFile:
    """An opened checkpoint. `header`: what this project wrote into it; None in files of others."""

    path: Path
    opened: Opened
    places: Places
    header: BackboneInfo | None

    def in_file(self, address: Address) -> str:
        """An address as it stands in the file."""
        return str(Address(address.where, self.places[address.where].in_file(address.prefix)))

    def networks(self) -> list[Address]:
        return [Address(where, prefix) for where, place in self.places.items()
                for prefix in prefixes(place.values)]


@dataclass(frozen=True)
class Chosen:
    """The network that is meant.

    `networks`: each branch of the layout that is there, the default first. `methods`: what the
    layouts that fit call it.
    """

    file: CheckpointFile
    address: Address
    branch: str
    family: Family
    networks: Mapping[str, Address]
    methods: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        return self.file.places[self.address.where]

    @property
    def prefix_in_file(self) -> str:
        """What stands before the network's names in the file, wrapper words included."""
        return self.place.in_file(self.address.prefix)

    def others(self) -> dict[Address, str]:
        """The other networks of the file, and what each is."""
        others = {}
        for branch, address in self.networks.items():
            others[address] = f"the {branch}"
        for prefix in self.family.aliases:
            others[Address(self.address.where, prefix)] = "repeats another"
        for address in self.file.networks():
            others.setdefault(address, ANOTHER_NETWORK)
        others.pop(self.address, None)
        return others


def open_checkpoint(path: Path, trust: bool) -> CheckpointFile:
    """Open a file and find its dictionaries of tensors and our own header; `UserError` as `load`.
    """
    opened = load(path, trust)
    content, header = opened.content, opened.metadata.get("backbone")
    meta = content.get("meta")
    if isinstance(meta, Mapping) and HEADER_KEY in meta:
        header = meta[HEADER_KEY]
    elif content.get("__author__") == AUTHOR:
        refuse((HEADER_KEY not in content,
                f"{path}: expected the pixel format and the stride of the network, found a file of "
                "an older version without them; convert the original checkpoint again"))
        header = content[HEADER_KEY]
    info = None if header is None else read_header(header, path)
    return CheckpointFile(path, opened, places(content), info)


def choose(file: CheckpointFile, branch: str | None, prefix: str | None) -> Chosen:
    """The network that is meant.

    Without `prefix` the first layout that fits says where it is, and `branch` which of its
    networks. `prefix` names any network of the file; it is of the layout where the layout has a
    network there. Raises `LayoutError`, with the parts of the file, when it is not clear which
    network is meant; `UserError` when none of the file's networks can be converted.
    """
    if prefix is not None:
        return _by_prefix(file, branch, prefix)
    family, networks, methods = _layout(file)
    if family is UNKNOWN:
        _refuse(file, (True, _unknown(file)))
    usual, found = next(iter(family.branches)), ", ".join(networks)
    wanted = branch or usual
    _refuse(
        file,
        (wanted not in networks and branch is None,
         f"expected the {usual}, which the authors of {family.name} transfer, in {file.path}, "
         f"found only {found or 'other tensors'}: add --branch if that is the one you mean"),
        (wanted not in networks,
         f"expected one of the branches of {file.path} ({found}; {family.name}), found {branch!r}: "
         "choose one of these, or leave --branch out"))
    return Chosen(file, networks[wanted], wanted, family, networks, methods)


def _refuse(file: CheckpointFile, *problems: tuple[object, str]) -> None:
    """As `refuse`, with the parts of the file."""
    for wrong, message in problems:
        if wrong:
            raise LayoutError(message, choices(file.places))


def _by_prefix(file: CheckpointFile, branch: str | None, prefix: str) -> Chosen:
    """The network under "PREFIX" or "PLACE:PREFIX", with or without wrapper words."""
    asked, plain = list(file.places), without_wrappers(prefix)
    where, colon, rest = prefix.partition(":")
    if colon and where in file.places:
        asked, plain = [where], without_wrappers(rest)
    there = [where for where in asked if network_under(file.places[where], plain).tensors]
    options = " and ".join(f"--prefix {f'{where}:{prefix}'!r}" for where in there)
    _refuse(
        file,
        (not there,
         f"expected a ResNet under the prefix {prefix!r} of {file.path}, found none; it holds "
         f"{listed(choices(file.places))}: choose one of these prefixes"),
        (len(there) > 1,
         f"expected one network under the prefix {prefix!r} of {file.path}, found {len(there)}: "
         f"choose between {options}"))
    address = Address(there[0], plain)
    family, networks, methods = _layout(file)
    branches = [name for name, other in networks.items() if other == address]
    if not branches:
        branch = branch or "single"
        return Chosen(file, address, branch, UNKNOWN, {branch: address})
    _refuse(file, (branch and branch not in branches,
                   f"expected --prefix {prefix!r} to be the {branch} of a {family.name} file, "
                   f"found that it is the {branches[0]}: leave --branch or --prefix out"))
    return Chosen(file, address, branch or branches[0], family, networks, methods)


def _layout(file: CheckpointFile) -> tuple[Family, dict[str, Address], tuple[str, ...]]:
    """The first layout that fits, its networks, and each method that a layout fitting there proves.
    """
    if file.header is not None and file.opened.container == SAFETENSORS:
        own = Family(OWN_FAMILY, {file.header.branch: ("",)}, ())
        return own, own.networks(file.places, ""), ()
    bases = dict.fromkeys(CLEAR_OF_OTHERS)
    with_networks = {address.where for address in file.networks()}
    if len(with_networks) == 1:
        bases |= dict.fromkeys(with_networks)
    first, first_base, methods = UNKNOWN, "", {}
    for family in FAMILIES:
        for base in bases:
            if not family.fits(file.opened.content, file.places, base):
                continue
            if first is UNKNOWN:
                first, first_base = family, base
            if family.method and base == first_base:
                methods[family.method] = True
    return first, first.networks(file.places, first_base), tuple(methods)


def _unknown(file: CheckpointFile) -> str:
    """What to say where no layout fits: what the file holds, and how to name a network.

    Raises `UserError` when its networks are of other architectures.
    """
    parts = choices(file.places)
    networks = [part for part in parts if part.title]
    how = "save the network as a state dict under torchvision's names (conv1.weight, ...)"
    if networks:
        first = networks[0]
        refuse((not any(part.architecture for part in networks),
                f"expected a ResNet-18, ResNet-34 or ResNet-50 in {file.path}, found under "
                f"{first.address!r} a {first.title}: other architectures cannot be converted"))
        how = f"name the network with --prefix, for example --prefix {first.address!r}"
    holds = listed(parts)
    if not parts:
        keys = ", ".join(map(str, list(file.opened.content)[:6]))
        holds += f" (keys: {keys or 'none'})"
    return ("expected a checkpoint of a known layout (`clove inspect --help` names "
            f"them), found in {file.path} {holds}; {how}")
