"""A ResNet's tensors under other programs' names, turned into torchvision's.

Five dialects are known: torchvision's own; detectron2's (modeling/backbone/resnet.py); Caffe2's, of
the MSRA and Detectron model zoos; torchvision's children by their index, which
nn.Sequential(*resnet.children()) leaves; and Hugging Face's (transformers,
models/resnet/modeling_resnet.py).
"""

import re
from collections.abc import Callable, Collection

COUNTER = "num_batches_tracked"  # of batch norm: says nothing about the network, never read
# What DistributedDataParallel, torch.compile, FSDP, activation checkpointing and Lightning's Fabric
# put into names.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module",
            "_forward_module")

_DETECTRON2 = re.compile(r"(?:stem|res([2-5])\.(\d+))\.(conv[1-3]|shortcut)(\.norm)?\.(\w+)")
_CAFFE2 = re.compile(r"(?:(?:res_)?conv1|res([2-5])_(\d+)_branch(1|2[abc]))(_bn)?_(\w+)")
_CAFFE2_PARTS = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_CAFFE2_KINDS = {"gamma": "weight", "s": "weight", "beta": "bias", "b": "bias",
                 "running_mean": "running_mean", "rm": "running_mean",
                 "running_var": "running_var", "riv": "running_var"}
_INDEX = re.compile(r"([014567])\.(.+)")
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_HUGGING_FACE = re.compile(
    r"(?:embedder\.embedder|encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:(shortcut)|layer\.(\d)))"
    r"\.(convolution|normalization)\.(\w+)")
# The ResNet's own children, and those of its relatives with another stem or head, which make it
# another network.
_TORCHVISION = re.compile(r"(?:conv[1-3]|bn[1-3]|layer\d+|attnpool)\.")


def without_wrappers(name: str) -> str:
    """`module.encoder.layer1._orig_mod.0.conv1.weight` is `encoder.layer1.0.conv1.weight`.

    Works for prefixes too.
    """
    return ".".join(word for word in name.split(".") if word not in WRAPPERS)


def from_detectron2(name: str) -> str | None:
    """`res4.0.conv2.norm.bias` is `layer3.0.bn2.bias`, `stem.conv1.weight` is `conv1.weight`."""
    match = _DETECTRON2.fullmatch(name)
    if match is None:
        return None
    stage, block, part, norm, kind = match.groups()
    return _name(stage, block, part, bool(norm), kind)


def from_caffe2(name: str) -> str | None:
    """`res4_0_branch2b_bn_beta` is `layer3.0.bn2.bias`, `res_conv1_bn_gamma` is `bn1.weight`.

    A convolution's own bias (`conv1_b`) belongs to no layer of the network, which has batch norm
    there.
    """
    match = _CAFFE2.fullmatch(name)
    if match is None:
        return None
    stage, block, branch, norm, kind = match.groups()
    kind = (_CAFFE2_KINDS if norm else {"w": "weight"}).get(kind)
    return kind and _name(stage, block, _CAFFE2_PARTS.get(branch, "conv1"), bool(norm), kind)


def from_index(name: str) -> str | None:
    """`0.weight` is `conv1.weight`, `6.0.bn2.bias` is `layer3.0.bn2.bias`."""
    match = _INDEX.fullmatch(name)
    return f"{_CHILDREN[match[1]]}.{match[2]}" if match else None


def from_hugging_face(name: str) -> str | None:
    """`encoder.stages.2.layers.0.layer.1.normalization.bias` is `layer3.0.bn2.bias`."""
    match = _HUGGING_FACE.fullmatch(name)
    if match is None:
        return None
    stage, block, shortcut, number, part, kind = match.groups()
    part_name = shortcut or f"conv{int(number or 0) + 1}"
    return _name(stage and str(int(stage) + 2), block, part_name, part == "normalization", kind)


def _from_torchvision(name: str) -> str | None:
    return name if _TORCHVISION.match(name) else None


def _name(stage: str | None, block: str | None, part: str, norm: bool, kind: str) -> str:
    layer = f"layer{int(stage) - 1}.{block}." if stage else ""
    if part == "shortcut":
        part = f"downsample.{int(norm)}"
    elif norm:
        part = part.replace("conv", "bn")
    return f"{layer}{part}.{kind}"


CAFFE2 = "Caffe2"
# Of each dialect: how some name of a network begins, the pattern of its first tensor with what
# stands before it, a second tensor that must be beside it, and the function to torchvision's name
# (None: not of the ResNet).
_DIALECTS = (
    ("torchvision", r"layer1\.", r"(|.*\.)conv1\.weight", "layer1.0.conv1.weight",
     _from_torchvision),
    ("detectron2", r"stem\.conv1\.|res2\.", r"(|.*\.)stem\.conv1\.weight", "res2.0.conv1.weight",
     from_detectron2),
    (CAFFE2, r".*branch2a", r"(|.*\.)conv1_w", "res2_0_branch2a_w", from_caffe2),
    ("index", r"4\.0\.", r"(|.*\.)0\.weight", "4.0.conv1.weight", from_index),
    ("Hugging Face", r"embedder\.embedder\.", r"(|.*\.)embedder\.embedder\.convolution\.weight",
     "encoder.stages.0.layers.0.layer.0.convolution.weight", from_hugging_face),
)


def dialect(names: Collection[str]) -> tuple[str, Callable[[str], str | None]]:
    """The dialect of a network's names, and the function from such a name to torchvision's.

    The function returns None for a name that is not of the ResNet. Names that fit no dialect are
    taken as torchvision's, so that what is missing can be said.
    """
    for title, mark, _, _, translate in _DIALECTS:
        if any(re.match(mark, name) for name in names):
            return title, translate
    return "torchvision", _from_torchvision


def prefixes(names: Collection[str]) -> list[str]:
    """What stands before the names of each ResNet among `names`, in their order."""
    found: dict[str, None] = {}
    for name in names:
        for _, _, first, beside, _ in _DIALECTS:
            match = re.fullmatch(first, name)
            if match and match[1] + beside in names:
                found[match[1]] = None
    return list(found)
