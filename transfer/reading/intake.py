"""Reads the ResNet of a checkpoint file, under torchvision's names.

The file is opened once (`safe_load.py`), its network chosen once (`network_choice.py`, by the
layouts of `families.py`). After that all files are treated alike: the architecture is found from
names and shapes, and every one of its tensors must be there, have the right shape and hold sane
numbers (`architecture.py`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchvision

from pretrain.common.atomic import sha256_file
from pretrain.common.backbone_file import BackboneInfo, load_backbone
from pretrain.common.errors import UserError, refuse
from transfer.reading.architecture import OTHER_NETWORK, checked, kind_of_network
from transfer.reading.config_beside import read_config_beside
from transfer.reading.families import AUTHORS, MSRA_PIXELS, OWN_CHECKPOINT
from transfer.reading.naming import CAFFE2
from transfer.reading.network_choice import (
    ANOTHER_NETWORK,
    OWN_FAMILY,
    Chosen,
    choose,
    open_checkpoint,
)
from transfer.reading.networks import Network, choices, listed, network_under, part_of, places

NOT_OF_THE_RESNET = "not of the ResNet"  # heads, queues, a classifier: why most tensors are not read
# A pretrained FPN: detectron2's names (modeling/backbone/fpn.py) are ReSim's too; with its --fpn-bn
# the convolution is child 0 of each layer and the batch norm child 1.
_FPN_CONVOLUTION = re.compile(r"(?:backbone\.)?(fpn_(?:lateral|output)[2-5])(?:\.0)?\.(weight|bias)")
_FPN_NORM = re.compile(r"fpn_\w+\.1\.")
# Of the weights: output channels, input channels (those of the ResNet's stages), height, width.
_FPN_SHAPES = {"fpn_lateral2": [256, 256, 1, 1], "fpn_output2": [256, 256, 3, 3],
               "fpn_lateral3": [256, 512, 1, 1], "fpn_output3": [256, 256, 3, 3],
               "fpn_lateral4": [256, 1024, 1, 1], "fpn_output4": [256, 256, 3, 3],
               "fpn_lateral5": [256, 2048, 1, 1], "fpn_output5": [256, 256, 3, 3]}


@dataclass(frozen=True)
class Reading:
    """A checkpoint file, read.

    `sha256`: of the file. `container`: the kind of file. `family`: the layout.
    `state`: torchvision names, float32, without the classifier and batch norm's counters.
    `fpn`: tensors of a pretrained FPN under detectron2's names (`fpn_lateral5.weight`), empty for
    methods that have none.
    `left`: each name in the file that was not used, counters left out, and why; `groups`: what
    each of them is counted under, the prefix of a whole network or the part's name.
    `address`: "PLACE:PREFIX" of the network. `branches`: the address of each network that the
    layout names, the default first.
    `method_from`: "layout", "header", "sum" (the file is one that torchvision publishes), or "file
    name" when nothing proves a method; then `candidates` are methods that may have written it.
    `notes`: what a user should know about the reading, in whole sentences.
    """

    sha256: str
    container: str
    family: str
    state: dict[str, torch.Tensor]
    fpn: dict[str, torch.Tensor]
    left: dict[str, str]
    groups: dict[str, str]
    address: str
    branches: Mapping[str, str]
    info: BackboneInfo
    method_from: str
    candidates: tuple[str, ...]
    notes: tuple[str, ...]

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

    `branch` picks the student or the teacher where a file holds both (default: the one that the
    method's authors transfer). `trust` lets the file run its own code while it is read; without it
    only tensors and plain values are built. `prefix` names the network in a file of an unknown
    layout, as "PREFIX" or "PLACE:PREFIX"; `branch` then says what it is.
    Raises `UserError` when the file is unreadable, of an unknown layout or architecture, incomplete
    or degenerate; `LayoutError`, with the parts of the file, when it is not clear which network is
    meant.
    """
    file = open_checkpoint(Path(path), trust)
    chosen = choose(file, branch, prefix)
    network = network_under(chosen.place, chosen.address.prefix)
    architecture = _architecture(chosen, network)
    state = checked(network.tensors, architecture, chosen.prefix_in_file, file.path)
    fpn, fpn_names = _read_fpn(chosen)
    left, groups = _left(chosen, {network.origins[name] for name in state} | fpn_names)

    sha256 = sha256_file(file.path)
    known = BackboneInfo(file.path.stem.removesuffix(".pth"), architecture, branch=chosen.branch,
                         source_name=file.path.name, source_sha256=sha256)
    info, method_from = _identity(chosen, network, known)

    notes = _notes(chosen, network)
    if not chosen.family.known_network and file.header is None:
        note, fields = read_config_beside(file.path, architecture)
        notes.append(note)
        info = replace(info, **fields)
    if fpn:
        note = f"A pretrained FPN is in the file: {len(fpn)} tensors of its convolutions read"
        norms = [name for name in left if name.startswith(chosen.prefix_in_file) and _FPN_NORM.search(name)]
        if norms:
            note += f", {len(norms)} of its batch norm left (pretraining with --fpn-bn)"
        notes.append(f"{note}.")
    candidates = (chosen.methods or chosen.family.candidates) if method_from == "file name" else ()
    branches = {name: file.in_file(address) for name, address in chosen.networks.items()}
    return Reading(
        sha256=sha256, container=file.opened.container, family=chosen.family.name,
        state=state, fpn=fpn, left=left, groups=groups,
        address=file.in_file(chosen.address), branches=branches,
        info=info, method_from=method_from, candidates=candidates, notes=tuple(notes))


def _architecture(chosen: Chosen, network: Network) -> str:
    """The network's architecture; `UserError`, with what it is, for one that cannot be converted.
    """
    title, architecture = kind_of_network(network.tensors)
    found = f"a {title}"
    if title == OTHER_NETWORK:
        found = f"{title} ({listed(choices(places(chosen.place.tensors(chosen.address.prefix))))})"
    refuse((architecture is None,
            f"expected a ResNet-18, ResNet-34 or ResNet-50 under prefix {chosen.prefix_in_file!r} "
            f"of {chosen.file.path}, found {found}: other architectures cannot be converted"))
    return architecture


def _read_fpn(chosen: Chosen) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The convolutions of a pretrained FPN beside the network: by detectron2's names
    (`fpn_lateral5.weight`), and the names that they have in the place; both empty for methods that
    have none."""
    tensors, names, prefix = {}, set(), chosen.address.prefix
    for name, value in chosen.place.tensors(prefix).items():
        match = _FPN_CONVOLUTION.fullmatch(name)
        if match is None:
            continue
        layer, kind = match.groups()
        shape = _FPN_SHAPES[layer] if kind == "weight" else [256]
        refuse((list(value.shape) != shape or not value.isfinite().all(),
                f"expected finite numbers of the shape {shape} in "
                f"{chosen.place.names[prefix + name]} of {chosen.file.path}, found "
                f"{list(value.shape)}: this is not the FPN of a trained ResNet-50"))
        tensors[f"{layer}.{kind}"] = value.detach().to(torch.float32, copy=True).contiguous()
        names.add(prefix + name)
    return tensors, names


def _identity(chosen: Chosen, network: Network, known: BackboneInfo) -> tuple[BackboneInfo, str]:
    """What the network is, and what proves its method (`Reading.method_from`).

    `known`: what is known without layout.
    """
    family, content = chosen.family, chosen.file.opened.content
    header = chosen.file.header  # pixels and stride cannot be told from the tensors
    if header is None and family.name == OWN_CHECKPOINT:
        header = _finished_run(chosen.file.path, chosen.branch)
    if header is not None:
        header = replace(header, architecture=known.architecture)
        if family.name == OWN_FAMILY and header.source_sha256:
            return header, "header"  # a backbone keeps its first source
        source = {"source_name": known.source_name, "source_sha256": known.source_sha256}
        return replace(header, **source), "header"

    meta = content.get("meta")
    epoch = content.get("epoch", meta.get("epoch") if isinstance(meta, Mapping) else None)
    if type(epoch) is not int or not _counts_finished(chosen):
        epoch = None
    pixels = MSRA_PIXELS if network.dialect == CAFFE2 else family.pixels
    info = replace(known, epochs=epoch, **pixels)
    if len(chosen.methods) == 1:
        return replace(info, method=chosen.methods[0]), "layout"
    for weights in torchvision.models.get_model_weights(info.architecture):
        if weights.url.endswith(f"-{info.source_sha256[:8]}.pth"):  # its sum's first digits
            return replace(info, method="Supervised"), "sum"
    return info, "file name"


def _counts_finished(chosen: Chosen) -> bool:
    """Whether the stored epoch is the number of finished ones.

    Lightning counts from 0 or 1 by version.
    """
    return chosen.family.epochs and "pytorch-lightning_version" not in chosen.file.opened.content


def _finished_run(path: Path, branch: str) -> BackboneInfo | None:
    """The header of the finished run whose last checkpoint `path` is.

    None for an earlier checkpoint, which is not what that recipe makes, and for a file elsewhere.
    """
    folder = path.absolute().parent.parent
    try:
        steps = json.loads((folder / "done.json").read_text(encoding="utf-8"))["steps"]
        header = load_backbone(folder / "backbone.safetensors")[1]
        last = folder / "checkpoints" / f"step_{steps:08d}.pt"
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
    if path.absolute() != last:
        return None
    return replace(header, branch=branch)


def _left(chosen: Chosen, used: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The names that were not used: why, and what each is counted under.

    In the place of the network, and wherever else there is one.
    """
    here, own_prefix, others = chosen.address.where, chosen.prefix_in_file, chosen.others()
    left, groups = {}, {}
    for where in dict.fromkeys([here, *(address.where for address in others)]):
        place, before = chosen.file.places[where], "" if where == here else f"{where}/"
        for name, own_name in place.names.items():
            if where == here and name in used:
                continue
            holders = [address for address in others if address.where == where and name.startswith(address.prefix)]
            if holders:
                other = holders[0]
                why, group = others[other], place.in_file(other.prefix)
            elif where == here and own_name.startswith(own_prefix):
                rest = own_name.removeprefix(own_prefix)
                why, group = NOT_OF_THE_RESNET, own_prefix + re.match(r"[^.]*\.?", rest)[0]
            else:
                why, group = NOT_OF_THE_RESNET, part_of(own_name)
            left[before + own_name], groups[before + own_name] = why, before + group
    return left, groups


def _notes(chosen: Chosen, network: Network) -> list[str]:
    """What a user should know about the reading, in whole sentences."""
    content, family, notes = chosen.file.opened.content, chosen.family, []
    if family.note:
        notes.append(family.note)
    bias = chosen.place.tensors(chosen.address.prefix).get("conv1_b")
    if network.dialect == CAFFE2 and bias is not None and bias.any():
        notes.append("conv1_b is not zero and is left out, as detectron2 leaves it out.")
    if not _counts_finished(chosen) and "epoch" in content:
        notes.append(f"The stored epoch is {content['epoch']}, counted from 0 or 1 by version: "
                     "epochs are left open.")
    for address, what in chosen.others().items():
        if what == ANOTHER_NETWORK:
            shown = chosen.file.in_file(address).strip(":") or "with bare names"
            notes.append(f"The file holds another network, {shown}, that was not read.")
    if (author := content.get("__author__")) is not None:
        known = f", as converters of {AUTHORS[author]} do" if author in AUTHORS else ""
        notes.append(f"The file says __author__ {author!r}{known}.")
    return notes
