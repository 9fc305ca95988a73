"""Reads the ResNet of a checkpoint file, under torchvision's names.

The file is opened once (`safe_load.py`), its network chosen once (`network_choice.py`, by the layouts of
`families.py`).
After that all files are treated alike: the architecture is found from names and shapes, and every one of its tensors
must be there, have the right shape and hold sane numbers (`architecture.py`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torchvision

from pretrain.common.atomic import sha256_file
from pretrain.common.backbone_file import BackboneInfo, load_backbone
from pretrain.common.errors import UserError
from transfer.reading.architecture import OTHER_NETWORK, checked, kind_of_network
from transfer.reading.config_beside import read_config_beside
from transfer.reading.families import AUTHORS, MSRA_PIXELS, OWN_CHECKPOINT
from transfer.reading.naming import CAFFE2, COUNTER
from transfer.reading.network_choice import ANOTHER_NETWORK, OWN_FAMILY, CheckpointFile, Chosen, choose, open_checkpoint
from transfer.reading.networks import Network, choices, inside, listed, part_of, places
from transfer.reading.pretrained_fpn import FPN_NORM, read_fpn
from transfer.reading.safe_load import SAFETENSORS

NOT_OF_THE_RESNET = "not of the ResNet"  # heads, queues, a classifier: why most of a file's tensors are not read


@dataclass(frozen=True)
class Reading:
    """A checkpoint file, read.

    `sha256`: of the file. `state`: torchvision names, float32, without the classifier and batch norm's counters.
    `left`: each name in the file that was not used, counters left out, and why; `groups`: what each of them is counted
    under, the prefix of a whole network or the part's name. `fpn`: tensors of a pretrained FPN under detectron2's
    names (`fpn_lateral5.weight`), empty for methods that have none. `container`: the kind of file.
    `address`: "PLACE:PREFIX" of the network. `branches`: the address of each network that the layout names, the
    default first.
    `method_from`: "layout", "header", "sum" (the file is one that torchvision publishes), or "file name" when nothing
    proves a method; then `candidates` are methods that may have written it.
    """

    sha256: str
    state: dict[str, torch.Tensor]
    info: BackboneInfo
    left: dict[str, str]
    groups: dict[str, str]
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
    how = "perhaps" if len(candidates) == 1 else "one of"
    return f"{how} {', '.join(candidates)}; --method NAME says which"


def read_checkpoint(path: str | Path, branch: str | None = None, trust: bool = False,
                    prefix: str | None = None) -> Reading:
    """Read any known checkpoint file.

    `branch` picks the student or the teacher where a file holds both (default: the one the method's authors transfer).
    `trust` lets the file run its own code while it is read; without it only tensors and plain values are built.
    `prefix` names the network in a file of an unknown layout, as "PREFIX" or "PLACE:PREFIX"; `branch` then says what
    it is. Raises `UserError` when the file is unreadable, of an unknown layout or architecture, incomplete or
    degenerate; `LayoutError`, with the parts of the file, when it is not clear which network is meant.
    """
    file = open_checkpoint(Path(path), trust)
    chosen = choose(file, branch, prefix)
    place, own_prefix = file.places[chosen.address.where], chosen.address.prefix
    network = inside(place, own_prefix)
    architecture = _architecture(file, chosen, network)
    state = checked(network.tensors, architecture, place.in_file(own_prefix), file.path)
    sha256 = sha256_file(file.path)
    info, method_from = _identity(file, chosen, network, BackboneInfo(
        file.path.stem.removesuffix(".pth"), architecture, branch=chosen.branch, source_name=file.path.name,
        source_sha256=sha256))
    notes = _notes(file, chosen, network)
    if not chosen.family.known_network and file.header is None:
        note, fields = read_config_beside(file.path, architecture)
        notes.append(note)
        info = replace(info, **fields)
    fpn, fpn_names = read_fpn(place, own_prefix, file.path)
    left, groups = _left(file, chosen, {network.origins[name] for name in state} | fpn_names)
    if fpn:
        norms = sum(bool(FPN_NORM.search(name)) for name in left if name.startswith(place.in_file(own_prefix)))
        notes.append(f"A pretrained FPN is in the file: {len(fpn)} tensors of its convolutions read"
                     + (f", {norms} of its batch norm left (pretraining with --fpn-bn)." if norms else "."))
    return Reading(sha256, state, info, left, groups, chosen.family.name, fpn, container=file.opened.container,
                   address=file.in_file(chosen.address),
                   branches={name: file.in_file(address) for name, address in chosen.networks.items()},
                   method_from=method_from, notes=tuple(notes),
                   candidates=(chosen.methods or chosen.family.candidates) if method_from == "file name" else ())


def _architecture(file: CheckpointFile, chosen: Chosen, network: Network) -> str:
    """The network's architecture; `UserError`, with what the tensors are, for one that cannot be converted."""
    title, architecture = kind_of_network(network.tensors)
    if architecture is None:
        place, prefix = file.places[chosen.address.where], chosen.address.prefix
        found = f"a {title}"
        if title == OTHER_NETWORK:
            under = {name.removeprefix(prefix): value for name, value in place.values.items()
                     if name.startswith(prefix)}
            found = f"{title} ({listed(choices(places(under)))})"
        raise UserError(f"expected a ResNet-18, ResNet-34 or ResNet-50 under prefix {place.in_file(prefix)!r} of "
                        f"{file.path}, found {found}: other architectures cannot be converted")
    return architecture


def _identity(file: CheckpointFile, chosen: Chosen, network: Network, info: BackboneInfo) -> tuple[BackboneInfo, str]:
    """What the network is, and what proves its method (`Reading.method_from`). `info`: what is known without layout."""
    family, content = chosen.family, file.opened.content
    said = file.header  # pixels and stride cannot be told from the tensors
    if said is None and family.name == OWN_CHECKPOINT:
        said = _finished_run(file.path, chosen.branch)
    if said is not None:
        if family.name != OWN_FAMILY or not said.source_sha256:  # a backbone keeps its first source
            said = replace(said, source_name=info.source_name, source_sha256=info.source_sha256)
        return replace(said, architecture=info.architecture), "header"
    meta = content.get("meta")
    epoch = content.get("epoch", meta.get("epoch") if isinstance(meta, Mapping) else None)
    if type(epoch) is int and family.epochs:
        info = replace(info, epochs=epoch)
    info = replace(info, **(MSRA_PIXELS if network.dialect == CAFFE2 else family.pixels))
    if len(chosen.methods) == 1:
        return replace(info, method=chosen.methods[0]), "layout"
    if _is_torchvisions(info):
        return replace(info, method="Supervised"), "sum"
    return info, "file name"


def _finished_run(path: Path, branch: str) -> BackboneInfo | None:
    """What the pretraining says of its finished network, when `path` is the last checkpoint in its run's folder: an
    earlier one is not what that recipe makes, and of a file elsewhere nobody knows."""
    folder = path.absolute().parent.parent
    try:
        steps = json.loads((folder / "done.json").read_text(encoding="utf-8"))["steps"]
        if path.absolute() != folder / "checkpoints" / f"step_{steps:08d}.pt":
            return None
        return replace(load_backbone(folder / "backbone.safetensors")[1], branch=branch)
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None


def _is_torchvisions(info: BackboneInfo) -> bool:
    """Whether torchvision publishes this very file: its addresses end with the sum's first digits."""
    urls = [weights.url for weights in torchvision.models.get_model_weights(info.architecture)]
    return info.source_sha256[:8] in [url.removesuffix(".pth").rpartition("-")[2] for url in urls]


def _left(file: CheckpointFile, chosen: Chosen, taken: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The names that were not used: why, and what each is counted under. In the place of the network, and wherever
    else there is one."""
    others, own_prefix = chosen.others(file), file.places[chosen.address.where].in_file(chosen.address.prefix)
    left, groups = {}, {}
    for where in dict.fromkeys([chosen.address.where, *(address.where for address in others)]):
        here, place = where == chosen.address.where, file.places[where]
        for name, own_name in place.names.items():
            if name.endswith(COUNTER) or (here and name in taken):
                continue
            inside_of = [address for address in others if address.where == where and name.startswith(address.prefix)]
            why, group = NOT_OF_THE_RESNET, part_of(own_name)
            if inside_of:
                why, group = others[inside_of[0]], place.in_file(inside_of[0].prefix)
            elif here and own_name.startswith(own_prefix):
                group = own_prefix + re.match(r"[^.]*\.?", own_name.removeprefix(own_prefix))[0]
            beside = "" if here else f"{where}/"
            left[beside + own_name], groups[beside + own_name] = why, beside + group
    return left, groups


def _notes(file: CheckpointFile, chosen: Chosen, network: Network) -> list[str]:
    """What a user should know about the reading, in whole sentences."""
    content, family = file.opened.content, chosen.family
    notes = [family.note] if family.note else []
    bias = file.places[chosen.address.where].values.get(f"{chosen.address.prefix}conv1_b")
    if network.dialect == CAFFE2 and isinstance(bias, torch.Tensor) and bias.any():
        notes.append("conv1_b is not zero and is left out, as detectron2 leaves it out.")
    if not family.epochs and "epoch" in content:
        notes.append(f"The stored epoch is {content['epoch']}, counted from 0 or 1 by version: epochs are left open.")
    for address, what in chosen.others(file).items():
        if what == ANOTHER_NETWORK:
            shown = file.in_file(address).strip(":") or "with bare names"
            notes.append(f"The file holds another network, {shown}, that was not read.")
    if (author := content.get("__author__")) is not None:
        known = f", as converters of {AUTHORS[author]} do" if author in AUTHORS else ""
        notes.append(f"The file says __author__ {author!r}{known}.")
    return notes
