"""Proofs that a written file holds the same network: bit for bit, in the file and in what the target loads from it.

For detectron2 three things must hold: the file's tensors equal the source's; every tensor of
detectron2's ResNet, as its own checkpointer loaded it into an FPN backbone, equals the file; and
the maps after the stem and after each stage equal those of torchvision's ResNet with the source's
weights, which shows that the names mean the same there. The other targets are loaded by their own
code where it is installed, and otherwise read back, which the proof says. So detectron2 is imported
only by the functions that need it.
"""

import importlib
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
import torchvision
from torch import nn

from pretrain.common.backbone_file import BackboneInfo
from pretrain.common.errors import refuse
from transfer.conversion.certificate import TOLERANCE
from transfer.conversion.stage_maps import (
    STAGES,
    fixed_images,
    reference_network,
    relative_differences,
    stage_maps,
    torchvision_maps,
)
from transfer.conversion.writers import State, detectron2_name, read_detectron2, without_biases
from transfer.detectron2_compat import quiet
from transfer.reading.architecture import faults, set_architecture
from transfer.reading.naming import COUNTER

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# From the stem, a stage or a layer of the FPN on, after any prefix; heads have none of these names.
_TENSOR = re.compile(r"(?:^|\.)((?:stem|res[2-5]|fpn_(?:lateral|output)\d)\..+)")
_AGAIN = "convert the checkpoint again"

# What a proof says: who loaded the file, how many tensors were equal, and by how much each map
# differs (None: the target's network could not be built here).
Proof = dict[str, Any]


def backbone_config(architecture: str, stride_in_1x1: bool = False) -> "CfgNode":
    """A detectron2 config with the FPN over this ResNet, as the fine-tuning has it but with plain
    BN."""
    from detectron2.config import get_cfg

    config, stages = get_cfg(), ["res2", "res3", "res4", "res5"]
    config.merge_from_list([
        "MODEL.DEVICE", "cpu",
        "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone",
        "MODEL.RESNETS.NORM", "BN",
        "MODEL.RESNETS.OUT_FEATURES", stages,
        "MODEL.RESNETS.STRIDE_IN_1X1", stride_in_1x1,  # torchvision strides in the 3x3 convolution
        "MODEL.FPN.NORM", "BN",
        "MODEL.FPN.IN_FEATURES", stages])
    set_architecture(config, architecture)
    return config


def assert_loaded(model: nn.Module, pkl_path: str | Path) -> int:
    """Check that a built detectron2 model's ResNet holds exactly the tensors of a converted file.

    Compares every tensor of the stem and res2 to res5, wherever in the model they are
    (backbone.bottom_up for FPN; backbone and roi_heads for C4), and the pretrained FPN's if the
    file has any, bit for bit, and returns their number. Raises `UserError` naming the first
    differences and the counts. To be called right after loading: detectron2 only warns when nothing
    matched.
    """
    file, own = read_detectron2(pkl_path), {}
    for name, value in model.state_dict().items():
        match = _TENSOR.search(name)
        if match and not name.endswith(COUNTER) and (match[1] in file or not match[1].startswith("fpn_")):
            own[match[1]] = value
    advice = f"{_AGAIN}, and check MODEL.WEIGHTS and the architecture in the config"
    if any(name.startswith("fpn_") for name in file.keys() - own.keys()):
        advice = "this file holds a pretrained FPN: use it with an FPN network, or convert without --fpn"
    what = f"backbone tensors of the detectron2 model to equal {pkl_path} ({len(file)} tensors)"
    _require_equal(own, file, what, advice)
    return len(own)


def prove_detectron2(path: Path, state: State, info: BackboneInfo, fpn: State) -> Proof:
    """Load a converted file with detectron2 and compare it with torchvision's network of the
    weights `state`.

    Raises `UserError` when a tensor of the file or of detectron2's network differs from `state` in
    a bit, or a map by over `TOLERANCE` of its standard deviation.
    """
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_backbone

    source = without_biases(fpn)
    for name, value in state.items():
        source[detectron2_name(name)] = value
    what = f"tensors of the source to equal those in {path}"
    _require_equal(source, read_detectron2(path), what, _AGAIN)
    backbone = build_backbone(backbone_config(info.architecture, info.stride_in_1x1))
    with quiet():  # the checkpointer lists the FPN's own layers as missing, as they must be
        DetectionCheckpointer(backbone).load(str(path.absolute()))
    tensors = assert_loaded(backbone, path)
    maps = stage_maps(backbone.bottom_up.double(), fixed_images(), STAGES)
    return {"loader": "detectron2's DetectionCheckpointer, into an FPN backbone", "tensors": tensors,
            "largest_difference": _map_differences(state, info, maps, path)}


def prove_torchvision(path: Path, state: State, info: BackboneInfo, _fpn: State) -> Proof:
    """Load with torch.load and torchvision's own network, where only the classifier may be missing.
    """
    network = torchvision.models.get_model(info.architecture, weights=None)
    incompatible = network.load_state_dict(torch.load(path, weights_only=True), strict=False)
    unloaded = set(incompatible.missing_keys) - {"fc.weight", "fc.bias"}
    refuse((unloaded or incompatible.unexpected_keys,
            f"expected torchvision's {info.architecture} to miss only fc in {path}, found "
            f"{len(unloaded)} missing and {len(incompatible.unexpected_keys)} unexpected: {_AGAIN}"))
    return {"loader": f"torchvision {torchvision.__version__}, load_state_dict(strict=False): only "
                      "fc missing",
            **_prove_network(network, path, state, info)}


def prove_timm(path: Path, state: State, info: BackboneInfo, _fpn: State) -> Proof:
    """Load with timm's own strict loader where timm is installed, else read the file back."""
    if (timm := optional("timm")) is None:
        return _prove_read(safetensors.torch.load_file(path), path, state, "timm")
    with quiet():
        network = timm.create_model(info.architecture, num_classes=0, checkpoint_path=str(path))
    return {"loader": f"timm {timm.__version__}, create_model(num_classes=0, checkpoint_path=...), "
                      "strict",
            **_prove_network(network, path, state, info)}


def prove_mmdet(path: Path, state: State, info: BackboneInfo, _fpn: State) -> Proof:
    """Load with mmengine's loader, which mmdetection's `init_cfg` calls, else read the file back.

    The network is torchvision's, whose names mmdetection's ResNet has: its own needs compiled code
    to be imported.
    """
    if (runner := optional("mmengine.runner")) is None:
        return _prove_read(torch.load(path, weights_only=True)["state_dict"], path, state, "mmengine")
    blank = {name: torch.zeros_like(value) for name, value in state.items()}
    network = reference_network(blank, info.architecture, info.stride_in_1x1)
    runner.load_checkpoint(network, str(path), map_location="cpu", strict=False, logger="silent")
    return {"loader": f"mmengine {metadata.version('mmengine')}, load_checkpoint, into "
                      "torchvision's network",
            **_prove_network(network, path, state, info)}


PROOFS: dict[str, Callable[[Path, State, BackboneInfo, State], Proof]] = {
    "detectron2": prove_detectron2, "torchvision": prove_torchvision, "timm": prove_timm, "mmdet": prove_mmdet}


def optional(module: str) -> Any:
    """A module that not everybody has, or None where it is missing or its installation is broken.
    """
    try:
        return importlib.import_module(module)
    except Exception:  # an old package on a new interpreter raises anything
        return None


def _prove_network(network: nn.Module, path: Path, state: State, info: BackboneInfo) -> Proof:
    """The rest of a proof for a loaded network with torchvision's names: its tensors, then its
    maps."""
    loaded = {name: value for name, value in network.state_dict().items()
              if not name.startswith("fc.") and not name.endswith(COUNTER)}
    _require_equal(state, loaded, f"tensors of the source to be loaded from {path}", _AGAIN)
    maps = stage_maps(network.double(), fixed_images())
    return {"tensors": len(loaded), "largest_difference": _map_differences(state, info, maps, path)}


def _prove_read(found: Mapping[str, torch.Tensor], path: Path, state: State, absent: str) -> Proof:
    _require_equal(state, found, f"tensors of the source to equal those in {path}", _AGAIN)
    return {"loader": f"none: {absent} cannot be imported here; names, shapes and values were read "
                      "back",
            "tensors": len(found), "largest_difference": None}


def _map_differences(state: State, info: BackboneInfo, found: Mapping[str, torch.Tensor], path: Path
                     ) -> dict[str, float]:
    expected = torchvision_maps(state, info.architecture, fixed_images(), info.stride_in_1x1)
    differences = relative_differences(expected, found)
    wrong = [f"{stage} {value:.1e}" for stage, value in differences.items() if not value <= TOLERANCE]
    refuse((wrong, f"expected the maps of {path} within {TOLERANCE:.0e} standard deviations of "
                   f"torchvision's, found {', '.join(wrong)}: the file is not a conversion of this "
                   "checkpoint"))
    return differences


def _require_equal(expected: State, found: Mapping[str, torch.Tensor | np.ndarray], what: str,
                   advice: str) -> None:
    """Raise unless both have the same names with the same bits; counts and names what differs."""
    both = expected.keys() & found.keys()
    different = [name for name in both if not _same(expected[name], found[name])]
    wrong = faults({"missing in the file": expected.keys() - both,
                    "unknown to the model": found.keys() - both,
                    "different": different})
    refuse((wrong, f"expected all {len(expected)} {what}, found {len(both) - len(different)} "
                   f"equal, {wrong}: {advice}"))


def _same(tensor: torch.Tensor, other: torch.Tensor | np.ndarray) -> bool:
    """Bit for bit: shape, type and bytes (-0.0 and nan included)."""
    own, other = tensor.detach().cpu().numpy(), np.asarray(other)
    return own.shape == other.shape and own.dtype == other.dtype and own.tobytes() == other.tobytes()
