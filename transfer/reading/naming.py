"""A ResNet's tensors under other programs' names, turned into torchvision's.

Five dialects are known: torchvision's own; detectron2's (modeling/backbone/resnet.py); Caffe2's, of
the MSRA and Detectron model zoos; torchvision's children by their index, which
nn.Sequential(*resnet.children()) leaves; and Hugging Face's (transformers,
models/resnet/modeling_resnet.py).
"""

import re
from collections.abc import Collection

COUNTER = "num_batches_tracked"  # of batch norm: says nothing about the network, never read
# What DistributedDataParallel, torch.compile, FSDP, activation checkpointing and Lightning's Fabric
# put into names.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module",
            "_forward_module")

_CAFFE2_PARTS = {None: "conv1", "1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_CAFFE2_KINDS = {"gamma": "weight", "s": "weight", "beta": "bias", "b": "bias",
                 "running_mean": "running_mean", "rm": "running_mean",
                 "running_var": "running_var", "riv": "running_var"}
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def without_wrappers(name: str) -> str:
    """`module.encoder.layer1._orig_mod.0.conv1.weight` is `encoder.layer1.0.conv1.weight`.

    Works for prefixes too.
    """
    return ".".join(word for word in name.split(".") if word not in WRAPPERS)


def _name(stage: str | None, block: str | None, part: str, norm: str | None, kind: str) -> str:
    """From detectron2's parts of a name: res`stage`.`block`.`part`.norm.`kind`, without stage and
    block of the stem."""
    layer = f"layer{int(stage) - 1}.{block}." if stage else ""
    if part == "shortcut":
        part = f"downsample.{1 if norm else 0}"
    elif norm:
        part = part.replace("conv", "bn")
    return f"{layer}{part}.{kind}"


def _from_caffe2(stage: str | None, block: str | None, branch: str | None, norm: str | None, kind: str) -> str | None:
    """A convolution's own bias (`conv1_b`) belongs to no layer of the network, which has batch norm
    there."""
    kind = (_CAFFE2_KINDS if norm else {"w": "weight"}).get(kind)
    return kind and _name(stage, block, _CAFFE2_PARTS[branch], norm, kind)


def _from_hugging_face(*parts: str | None) -> str:
    stage, block, shortcut, number, part, kind = parts
    norm = part if part == "normalization" else None
    return _name(stage and str(int(stage) + 2), block, shortcut or f"conv{int(number or 0) + 1}", norm, kind)


TORCHVISION, CAFFE2 = "torchvision", "Caffe2"
# Of each dialect: how some name of a network begins; the pattern of its first tensor with what
# stands before it, and a second tensor that must be beside it; the pattern of the ResNet's names,
# and what makes torchvision's of its groups (None: not of the ResNet).
_DIALECTS = {
    # The ResNet's own children, and those of its relatives with another stem or head, which make it
    # another network.
    TORCHVISION: (
        r"layer1\.", r"(|.*\.)conv1\.weight", "layer1.0.conv1.weight",
        r"((?:conv[1-3]|bn[1-3]|layer\d+|attnpool)\..*)", str),
    "detectron2": (  # `res4.0.conv2.norm.bias` is `layer3.0.bn2.bias`
        r"stem\.conv1\.|res2\.", r"(|.*\.)stem\.conv1\.weight", "res2.0.conv1.weight",
        r"(?:stem|res([2-5])\.(\d+))\.(conv[1-3]|shortcut)(\.norm)?\.(\w+)", _name),
    CAFFE2: (  # `res4_0_branch2b_bn_beta` is `layer3.0.bn2.bias`, `res_conv1_bn_gamma` is `bn1.weight`
        r".*branch2a", r"(|.*\.)conv1_w", "res2_0_branch2a_w",
        r"(?:(?:res_)?conv1|res([2-5])_(\d+)_branch(1|2[abc]))(_bn)?_(\w+)", _from_caffe2),
    "index": (  # `6.0.bn2.bias` is `layer3.0.bn2.bias`
        r"4\.0\.", r"(|.*\.)0\.weight", "4.0.conv1.weight",
        r"([014567])\.(.+)", lambda child, rest: f"{_CHILDREN[child]}.{rest}"),
    "Hugging Face": (  # `encoder.stages.2.layers.0.layer.1.normalization.bias` is `layer3.0.bn2.bias`
        r"embedder\.embedder\.", r"(|.*\.)embedder\.embedder\.convolution\.weight",
        "encoder.stages.0.layers.0.layer.0.convolution.weight",
        r"(?:embedder\.embedder|encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:(shortcut)|layer\.(\d)))"
        r"\.(convolution|normalization)\.(\w+)", _from_hugging_face),
}


def dialect(names: Collection[str]) -> str:
    """The dialect of a network's names. Those that fit none are taken as torchvision's, so that
    what is missing can be said."""
    for title, (mark, *_) in _DIALECTS.items():
        if any(re.match(mark, name) for name in names):
            return title
    return TORCHVISION


def to_torchvision(title: str, name: str) -> str | None:
    """torchvision's name of a tensor that has `name` in the dialect `title`; None: not of the
    ResNet."""
    *_, pattern, build = _DIALECTS[title]
    match = re.fullmatch(pattern, name)
    return build(*match.groups()) if match else None


def prefixes(names: Collection[str]) -> list[str]:
    """What stands before the names of each ResNet among `names`, in their order."""
    found: dict[str, None] = {}
    for name in names:
        for _, first, beside, *_ in _DIALECTS.values():
            match = re.fullmatch(first, name)
            if match and match[1] + beside in names:
                found[match[1]] = None
    return list(found)
