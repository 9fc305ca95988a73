"""Files that other programs load, each written from the canonical checkpoint: one function for each target.

Names follow the targets' own code: detectron2 modeling/backbone/resnet.py; timm
(timm/models/resnet.py) and mmdetection (mmdet/models/backbones/resnet.py) have torchvision's names
for a plain ResNet. What differs is the container and the loader: timm's `load_checkpoint` is
strict, so the network must be made with num_classes=0; mmengine takes the dictionary under
"state_dict" and wants names without a prefix for a backbone's `init_cfg`.
"""

import io
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from pretrain.common.atomic import atomic_path
from pretrain.common.backbone_file import AUTHOR, HEADER_KEY, BackboneInfo, header_of
from pretrain.common.errors import UserError
from transfer.reading.pickled_arrays import read_arrays

State = Mapping[str, torch.Tensor]

_LAYERS = {"conv1": "conv1", "conv2": "conv2", "conv3": "conv3",
           "bn1": "conv1.norm", "bn2": "conv2.norm", "bn3": "conv3.norm",
           "downsample.0": "shortcut", "downsample.1": "shortcut.norm"}
_TORCHVISION_NAME = re.compile(r"(?:layer([1-4])\.(\d+)\.)?(conv\d|bn\d|downsample\.[01])"
                               r"\.(weight|bias|running_mean|running_var)")


@dataclass(frozen=True)
class Writer:
    """A target: its file in the output folder, who writes it, and one line that says how to load it
    (see `usage`).

    `strides_in_1x1`: whether the target's ResNet can stride in the first 1x1 convolution, as MSRA's
    networks do.
    """

    file: str
    write: Callable[[Path, State, BackboneInfo, State], None]
    usage: str
    strides_in_1x1: bool


def detectron2_name(name: str) -> str:
    """The name in detectron2's ResNet of a tensor under its torchvision name.

    `conv1.weight` is `stem.conv1.weight`, `layer3.0.bn2.bias` is `res4.0.conv2.norm.bias`, and
    `layer1.0.downsample.1.weight` is `res2.0.shortcut.norm.weight`. Raises ValueError for a name
    that a ResNet does not have.
    """
    match = _TORCHVISION_NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"not a tensor of a torchvision ResNet: {name}")
    layer, block, part, kind = match.groups()
    place = f"res{int(layer) + 1}.{block}" if layer else "stem"
    return f"{place}.{_LAYERS[part]}.{kind}"


def without_biases(fpn: State) -> dict[str, torch.Tensor]:
    """What of a pretrained FPN goes to detectron2.

    The configs here normalise in the FPN (FPN.NORM SyncBN), and detectron2's convolutions then have
    no bias (modeling/backbone/fpn.py): the weights go over, the biases do not, and the norms start
    from scratch.
    """
    return {name: value for name, value in fpn.items() if not name.endswith(".bias")}


def pixel_format(info: BackboneInfo) -> dict[str, Any]:
    """What the network must be fed: means and deviations of 0..255 values, in channel order."""
    return {"channel_order": info.channel_order,
            "mean": [round(255 * value, 6) for value in info.pixel_mean],
            "std": [round(255 * value, 6) for value in info.pixel_std],
            "stride_in_1x1": info.stride_in_1x1}


def read_detectron2(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a detectron2.pkl.

    Only numpy arrays and plain values are built: nothing can run.
    """
    try:
        return {name: np.asarray(value) for name, value in read_arrays(path)["model"].items()}
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path} is not a converted checkpoint ({error}): convert it again") from None


def _write_detectron2(path: Path, state: State, info: BackboneInfo, fpn: State) -> None:
    """detectron2's model-zoo format.

    Matching by name endings puts stem... and fpn_... where the model has them. detectron2 ignores
    the header, from which `intake` knows pixels and stride again.
    """
    model = {detectron2_name(name): value.numpy() for name, value in state.items()}
    for name, value in without_biases(fpn).items():
        model[name] = value.numpy()
    # Anything but the author "Caffe2", which would make detectron2 rename the tensors.
    content = {"model": model, "__author__": AUTHOR, "matching_heuristics": True,
               HEADER_KEY: header_of(info)}
    with atomic_path(path) as sibling, open(sibling, "wb") as file:
        pickle.dump(content, file, protocol=4)


def _write_torchvision(path: Path, state: State, _info: BackboneInfo, _fpn: State) -> None:
    _save_torch(path, dict(state))


def _write_timm(path: Path, state: State, _info: BackboneInfo, _fpn: State) -> None:
    with atomic_path(path) as sibling:
        sibling.write_bytes(safetensors.torch.save(dict(state), metadata={"format": "pt"}))


def _write_mmdet(path: Path, state: State, info: BackboneInfo, _fpn: State) -> None:
    meta = {**asdict(info), "pixel_format": pixel_format(info), HEADER_KEY: header_of(info)}
    _save_torch(path, {"state_dict": dict(state), "meta": meta})


def _save_torch(path: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()  # torch.save to a path would write the file's passing name into it
    torch.save(content, buffer)
    with atomic_path(path) as sibling:
        sibling.write_bytes(buffer.getvalue())


_FEED = "feed {form[channel_order]}, mean {mean}, std {std} of 0..1"
WRITERS = {
    "detectron2": Writer(
        "detectron2.pkl", _write_detectron2,
        "MODEL.WEIGHTS {file} INPUT.FORMAT {form[channel_order]} MODEL.PIXEL_MEAN {form[mean]} MODEL.PIXEL_STD "
        "{form[std]} MODEL.RESNETS.STRIDE_IN_1X1 {form[stride_in_1x1]}", strides_in_1x1=True),
    "torchvision": Writer(
        "torchvision.pth", _write_torchvision,
        "torchvision.models.{architecture}().load_state_dict(torch.load({file!r}), strict=False)  # fc stays random; "
        + _FEED, strides_in_1x1=False),
    "timm": Writer(
        "timm.safetensors", _write_timm,
        "timm.create_model({architecture!r}, num_classes=0, checkpoint_path={file!r})  # there is no fc; " + _FEED,
        strides_in_1x1=False),
    "mmdet": Writer(
        "mmdet.pth", _write_mmdet,
        "backbone=dict(type='ResNet', depth={depth}, style={style!r}, init_cfg=dict(type='Pretrained', "
        "checkpoint={file!r})), data_preprocessor=dict(mean={form[mean]}, std={form[std]}, bgr_to_rgb={to_rgb})",
        strides_in_1x1=True),
}


def usage(target: str, info: BackboneInfo) -> str:
    """One line that says how to load the file of `target`, and how to feed the network."""
    return WRITERS[target].usage.format(
        file=WRITERS[target].file, form=pixel_format(info), architecture=info.architecture,
        mean=list(info.pixel_mean), std=list(info.pixel_std), depth=info.architecture.removeprefix("resnet"),
        style="caffe" if info.stride_in_1x1 else "pytorch", to_rgb=info.channel_order == "RGB")
