"""Which network of a checkpoint file is meant: the one of the first layout that fits, or the one that a user names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pretrain.common.backbone_file import AUTHOR, HEADER_KEY, BackboneInfo, read_header
from pretrain.common.errors import UserError
from transfer.reading.families import CLEAR_OF_OTHERS, FAMILIES, Family
from transfer.reading.naming import prefixes, without_wrappers
from transfer.reading.networks import Address, LayoutError, Place, Places, choices, inside, listed, places
from transfer.reading.safe_load import SAFETENSORS, Opened, load

OWN_FAMILY = "backbone.safetensors"
ANOTHER_NETWORK = "another network"  # that the layout does not speak of
UNKNOWN = Family("unknown layout", {}, (), epochs=False, known_network=False,
                 note="The layout is unknown: the pixel format is an assumption.")


@dataclass(frozen=True)
class CheckpointFile:
    """An opened checkpoint. `header`: what we wrote into it ourselves, None in files of others."""

    path: Path
    opened: Opened
    places: Places
    header: BackboneInfo | None

    def in_file(self, address: Address) -> str:
        """An address as it stands in the file."""
        return str(Address(address.where, self.places[address.where].in_file(address.prefix)))

    def networks(self) -> list[Address]:
        """Every ResNet in the file."""
        return [Address(where, prefix) for where, place in self.places.items() for prefix in prefixes(place.values)]


@dataclass(frozen=True)
class Chosen:
    """The network that is meant. `networks`: each branch of the layout that is there, the default first; `methods`:
    what the layouts that fit call it."""

    address: Address
    branch: str
    family: Family
    networks: Mapping[str, Address]
    methods: tuple[str, ...] = ()

    def others(self, file: CheckpointFile) -> dict[Address, str]:
        """The other networks of the file, and what each is."""
        others = {address: f"the {branch}" for branch, address in self.networks.items()}
        others |= {Address(self.address.where, prefix): "repeats another" for prefix in self.family.aliases}
        others |= {address: ANOTHER_NETWORK for address in file.networks() if address not in others}
        others.pop(self.address, None)
        return others


def open_checkpoint(path: Path, trust: bool) -> CheckpointFile:
    """Open a file and find its dictionaries of tensors and our own header; `UserError` as `load`."""
    opened = load(path, trust)
    content, header = opened.content, opened.metadata.get("backbone")
    meta = content.get("meta")
    if isinstance(meta, Mapping) and HEADER_KEY in meta:
        header = meta[HEADER_KEY]
    elif content.get("__author__") == AUTHOR:
        if HEADER_KEY not in content:
            raise UserError(f"{path} was written by this program without the pixels and the stride that its network "
                            "wants: convert the original checkpoint again")
        header = content[HEADER_KEY]
    return CheckpointFile(path, opened, places(content), None if header is None else read_header(header, path))


def choose(file: CheckpointFile, branch: str | None, prefix: str | None) -> Chosen:
    """The network that is meant; `LayoutError`, with the parts of the file, when that is not clear.

    Without `prefix` the first layout that fits says where it is, and `branch` which of its networks. `prefix` names
    any network of the file; it is of the layout where the layout has a network there.
    """
    fitting = _fitting(file)
    family, networks = UNKNOWN, {}
    if fitting:
        family, base = fitting[0]
        networks = family.networks(file.places, base)
    if prefix is None:
        branch = _branch(file, family, networks, branch)
        address = networks[branch]
    else:
        address = _named(file, prefix)
        at_address = [name for name, other in networks.items() if other == address]
        if not at_address:
            branch = branch or "single"
            return Chosen(address, branch, UNKNOWN, {branch: address})
        branch = branch or at_address[0]
        if branch not in at_address:
            raise LayoutError(f"expected --prefix {prefix!r} to be the {branch} of a {family.name} file, found that "
                              f"it is the {at_address[0]}: leave --branch or --prefix out", choices(file.places))
    methods = dict.fromkeys(other.method for other, _ in fitting if other.method)
    return Chosen(address, branch, family, networks, tuple(methods))


def _fitting(file: CheckpointFile) -> list[tuple[Family, str]]:
    """Every layout that fits, with the place below which it does; those of the first one's place only."""
    if file.header is not None and file.opened.container == SAFETENSORS:
        return [(Family(OWN_FAMILY, {file.header.branch: ("",)}, ()), "")]
    bases = dict.fromkeys(CLEAR_OF_OTHERS)
    with_networks = {address.where for address in file.networks()}
    if len(with_networks) == 1:
        bases |= dict.fromkeys(with_networks)
    fitting = [(family, base) for family in FAMILIES for base in bases
               if family.fits(file.opened.content, file.places, base)]
    return [(family, base) for family, base in fitting if base == fitting[0][1]]


def _branch(file: CheckpointFile, family: Family, networks: Mapping[str, Address], branch: str | None) -> str:
    """The branch that is asked for, or the one that the method's authors transfer."""
    if family is UNKNOWN:
        _refuse_unknown(file)
    usual, found = next(iter(family.branches)), ", ".join(networks)
    if branch is None and usual not in networks:
        raise LayoutError(f"expected the {usual}, which the authors of {family.name} transfer, in {file.path}, found "
                          f"only {found or 'other tensors'}: add --branch if that is the one you mean",
                          choices(file.places))
    branch = branch or usual
    if branch not in networks:
        raise LayoutError(f"expected one of the branches of {file.path} ({found}; {family.name}), "
                          f"found {branch!r}: choose one of these, or leave --branch out", choices(file.places))
    return branch


def _refuse_unknown(file: CheckpointFile) -> None:
    """No layout fits: another kind of network, or names that nobody here knows."""
    parts = choices(file.places)
    networks = [part for part in parts if part.title]
    if networks and not any(part.architecture for part in networks):
        one = networks[0]
        raise UserError(f"expected a ResNet-18, ResNet-34 or ResNet-50 in {file.path}, found under {one.address!r} "
                        f"a {one.title}: other architectures cannot be converted")
    how = "save the network as a state dict under torchvision's names (conv1.weight, ...)"
    if networks:
        how = f"name the network with --prefix, for example --prefix {networks[0].address!r}"
    holds = listed(parts)
    if not parts:
        holds += f" (keys: {', '.join(map(str, list(file.opened.content)[:6])) or 'none'})"
    raise LayoutError("expected a checkpoint of a known layout (`python -m transfer inspect --help` names them), "
                      f"found in {file.path} {holds}; {how}", parts)


def _named(file: CheckpointFile, prefix: str) -> Address:
    """The address that a user means by "PREFIX" or "PLACE:PREFIX", with or without wrapper words."""
    asked: dict[str, Place] = file.places
    place, colon, rest = prefix.partition(":")
    plain = without_wrappers(prefix)
    if colon and place in file.places:
        asked, plain = {place: file.places[place]}, without_wrappers(rest)
    there = [where for where in asked if inside(asked[where], plain).tensors]
    if not there:
        raise LayoutError(f"expected a ResNet under the prefix {prefix!r} of {file.path}, found none; it holds "
                          f"{listed(choices(file.places))}: choose one of these prefixes", choices(file.places))
    if len(there) > 1:
        options = " and ".join(f"--prefix {f'{where}:{prefix}'!r}" for where in there)
        raise LayoutError(f"expected one network under the prefix {prefix!r} of {file.path}, found {len(there)}: "
                          f"choose between {options}", choices(file.places))
    return Address(there[0], plain)
