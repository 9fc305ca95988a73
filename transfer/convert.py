"""Writes a checkpoint as detectron2 weights, and proves that detectron2 holds the same network afterwards.

The proof has two halves: every tensor of detectron2's ResNet, as its own checkpointer loaded it into an FPN backbone,
equals the file bit for bit; and the maps after the stem and after each stage equal those of torchvision's ResNet with
the same weights on a fixed input. Renaming follows detectron2's own names (modeling/backbone/resnet.py).
"""

import json
import logging
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone
from torch import nn

from pretrain import __version__
from pretrain.atomic import atomic_path, sha256_file, write_text
from pretrain.backbone_file import save_backbone
from pretrain.errors import UserError
from transfer.intake import ARCHITECTURES, expected_shapes, read_checkpoint

CANONICAL, WEIGHTS, CERTIFICATE = "backbone.safetensors", "detectron2.pkl", "conversion.json"
STAGES = ("stem", "res2", "res3", "res4", "res5")
# Float64 on both sides leaves rounding of about 1e-15; a wrong tensor is off by far more than this.
TOLERANCE = 1e-9

_LAYERS = {"conv1": "conv1", "conv2": "conv2", "conv3": "conv3", "bn1": "conv1.norm", "bn2": "conv2.norm",
           "bn3": "conv3.norm", "downsample.0": "shortcut", "downsample.1": "shortcut.norm"}
_TORCHVISION_NAME = re.compile(r"(?:layer([1-4])\.(\d+)\.)?(conv\d|bn\d|downsample\.[01])"
                               r"\.(weight|bias|running_mean|running_var)")
# From the stem or a stage on, after any prefix; heads and FPN layers have none of these names.
_RESNET_TENSOR = re.compile(r"(?:^|\.)((?:stem|res[2-5])\..+)")


def convert(source: str | Path, output: str | Path, method: str | None = None, branch: str | None = None,
            trust: bool = False) -> dict[str, Any]:
    """Write `source` into the folder `output` as backbone.safetensors, detectron2.pkl and conversion.json.

    conversion.json, returned as a dictionary, is written last: a folder without it is not a finished conversion.
    `method` names the row of the tables (default: what the file says). `branch` and `trust` as in `read_checkpoint`.
    Raises `UserError` when the file cannot be read or what detectron2 loaded is not the same network.
    """
    source, output = Path(source), Path(output)
    reading = read_checkpoint(source, branch, trust)
    state, info = reading.state, reading.info
    if method:
        info = replace(info, method=method)
    _check_output(source, output)
    source_sha256 = sha256_file(source)
    (output / CERTIFICATE).unlink(missing_ok=True)
    canonical_sha256 = save_backbone(output / CANONICAL, state, info)
    _write_weights(output / WEIGHTS, state)
    differences = verify(output / WEIGHTS, state, info.architecture)
    certificate = {
        "schema": 1,
        "source": source.name,
        "source_sha256": source_sha256,
        "canonical_sha256": canonical_sha256,
        "pkl_sha256": sha256_file(output / WEIGHTS),
        "family": reading.family,
        "method": info.method,
        "architecture": info.architecture,
        "standard": info.architecture == "resnet50",
        "branch": info.branch,
        "epochs": info.epochs,
        "consumed": len(state),
        "expected": len(expected_shapes(info.architecture)),
        "left_over": reading.left_over,
        "pixel_format": {"channel_order": info.channel_order, "mean": info.pixel_mean, "std": info.pixel_std},
        "largest_difference": differences,
        "tolerance": TOLERANCE,
        "header": asdict(info),
        "versions": {"tool": __version__, "torch": torch.__version__, "torchvision": torchvision.__version__,
                     "detectron2": detectron2.__version__},
    }
    write_text(output / CERTIFICATE, json.dumps(certificate, indent=1, sort_keys=True) + "\n")
    return json.loads(json.dumps(certificate))


def describe(certificate: Mapping[str, Any], output: str | Path) -> str:
    """What a user reads after a conversion: a few lines."""
    epochs = f"{certificate['epochs']} epochs" if certificate["epochs"] is not None else "epochs not stored"
    largest = ", ".join(f"{stage} {certificate['largest_difference'][stage]:.1e}" for stage in STAGES)
    lines = [f"{certificate['source']}: {certificate['family']} layout, {ARCHITECTURES[certificate['architecture']]}, "
             f"{certificate['branch']}, {epochs}; method {certificate['method']}",
             f"{certificate['consumed']} of {certificate['expected']} tensors converted and found again in detectron2; "
             f"{len(certificate['left_over'])} left over (named in {CERTIFICATE})",
             f"largest difference to torchvision's network, in standard deviations of each map: {largest}"]
    if not certificate["standard"]:
        lines.append("note: not a ResNet-50: the transfer is not the published protocol, and its rows say so")
    lines.append("wrote " + ", ".join(str(Path(output) / name) for name in (CANONICAL, WEIGHTS, CERTIFICATE)))
    return "\n".join(lines)


def detectron2_name(name: str) -> str:
    """The name in detectron2's ResNet of a tensor under its torchvision name.

    `conv1.weight` is `stem.conv1.weight`, `layer3.0.bn2.bias` is `res4.0.conv2.norm.bias`, and
    `layer1.0.downsample.1.weight` is `res2.0.shortcut.norm.weight`. Raises ValueError for a name a ResNet has not.
    """
    match = _TORCHVISION_NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"not a tensor of a torchvision ResNet: {name}")
    layer, block, part, kind = match.groups()
    place = f"res{int(layer) + 1}.{block}" if layer else "stem"
    return f"{place}.{_LAYERS[part]}.{kind}"


def backbone_config(architecture: str) -> CfgNode:
    """A detectron2 config whose backbone is the FPN over this ResNet, as the fine-tuning uses it but with plain BN."""
    config = get_cfg()
    config.MODEL.DEVICE = "cpu"
    config.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    config.MODEL.RESNETS.DEPTH = int(architecture.removeprefix("resnet"))
    config.MODEL.RESNETS.RES2_OUT_CHANNELS = 256 if architecture == "resnet50" else 64
    config.MODEL.RESNETS.STRIDE_IN_1X1 = False  # torchvision strides in the 3x3 convolution
    config.MODEL.RESNETS.OUT_FEATURES = config.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    config.MODEL.RESNETS.NORM = config.MODEL.FPN.NORM = "BN"
    return config


def assert_loaded(model: nn.Module, pkl_path: str | Path) -> int:
    """Check that a built detectron2 model's ResNet holds exactly the tensors of a converted file.

    Compares every tensor of the stem and res2 to res5, wherever in the model they are (backbone.bottom_up for FPN;
    backbone and roi_heads for C4), bit for bit, and returns their number. Raises `UserError` naming the first
    differences and the counts. To be called right after loading: detectron2 only warns when nothing matched.
    """
    file = _read_weights(Path(pkl_path))
    own = {match[1]: value for name, value in model.state_dict().items()
           if (match := _RESNET_TENSOR.search(name)) and not name.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - file.keys())
    surplus = sorted(file.keys() - own.keys())
    different = [name for name in own if name in file and not _same(own[name], file[name])]
    if missing or surplus or different:
        equal = len(own.keys() & file.keys()) - len(different)
        faults = [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
                  for what, names in (("missing in the file", missing), ("unknown to the model", surplus),
                                      ("different", different)) if names]
        raise UserError(f"expected all {len(own)} backbone tensors of the detectron2 model to equal {pkl_path} "
                        f"({len(file)} tensors), found {equal} equal, {', '.join(faults)}: convert the checkpoint "
                        "again, and check MODEL.WEIGHTS and the architecture in the config")
    return len(own)


def verify(pkl_path: Path, state: Mapping[str, torch.Tensor], architecture: str) -> dict[str, float]:
    """Load a converted file with detectron2 and compare it with torchvision's network of the weights `state`.

    Returns the largest difference of each map (stem, res2 to res5) on a fixed random input, relative to the map's
    standard deviation. Raises `UserError` when a tensor is not as in the file or a map differs by over `TOLERANCE`.
    """
    backbone = build_backbone(backbone_config(architecture))
    with _quiet():  # the checkpointer lists the FPN's own layers as missing, as they must be
        DetectionCheckpointer(backbone).load(str(pkl_path.resolve()))
    assert_loaded(backbone, pkl_path)
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    differences = relative_differences(torchvision_maps(state, architecture, images),
                                       detectron2_maps(backbone.bottom_up.double(), images))
    wrong = [f"{stage} {value:.1e}" for stage, value in differences.items() if not value <= TOLERANCE]
    if wrong:
        raise UserError(f"expected detectron2's maps of {pkl_path} within {TOLERANCE:.0e} standard deviations of "
                        f"torchvision's, found {', '.join(wrong)}: the file is not a conversion of this checkpoint")
    return differences


def torchvision_maps(state: Mapping[str, torch.Tensor], architecture: str, images: torch.Tensor
                     ) -> dict[str, torch.Tensor]:
    """Maps of torchvision's own ResNet with `state`, in evaluation mode and in the precision of `images` [B, 3, H, W].

    Keys are detectron2's names of the stages; "stem" is after the pooling, as in detectron2.
    """
    with torch.device("meta"):
        network = torchvision.models.get_model(architecture, weights=None)
    network.fc = nn.Identity()
    network.load_state_dict({name: value.to(images.dtype) for name, value in state.items()}, strict=False, assign=True)
    modules = (network.maxpool, network.layer1, network.layer2, network.layer3, network.layer4)
    return _recorded(network, dict(zip(STAGES, modules, strict=True)), images)


def detectron2_maps(bottom_up: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Maps of a detectron2 ResNet (the `bottom_up` of an FPN), in evaluation mode; keys as in `torchvision_maps`."""
    return _recorded(bottom_up, {stage: getattr(bottom_up, stage) for stage in STAGES}, images)


def relative_differences(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Largest absolute difference of each map, divided by the expected map's standard deviation (nan if undefined)."""
    return {stage: float((found[stage] - expected[stage]).abs().max() / expected[stage].std()) for stage in expected}


def _recorded(network: nn.Module, modules: Mapping[str, nn.Module], images: torch.Tensor) -> dict[str, torch.Tensor]:
    maps: dict[str, torch.Tensor] = {}

    def keep(stage: str) -> Any:
        # A copy: the layers after it work in place.
        return lambda _module, _inputs, output: maps.__setitem__(stage, output.clone())

    hooks = [module.register_forward_hook(keep(stage)) for stage, module in modules.items()]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(images)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return maps


def _check_output(source: Path, output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"expected a folder for --output, found the file {output}: name another one")
    if source.resolve() in [(output / name).resolve() for name in (CANONICAL, WEIGHTS, CERTIFICATE)]:
        raise UserError(f"{source} would be overwritten by its own conversion: choose another --output")
    if "?" in str(output.resolve()):
        raise UserError(f"detectron2 cannot read a path with a question mark ({output}): choose another --output")


def _write_weights(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """detectron2's model-zoo format. Matching by name endings puts stem... under backbone.bottom_up."""
    content = {"model": {detectron2_name(name): value.numpy() for name, value in state.items()},
               # Anything but "Caffe2", which would make detectron2 rename the tensors.
               "__author__": "clove-suite", "matching_heuristics": True}
    with atomic_path(path) as sibling, open(sibling, "wb") as file:
        pickle.dump(content, file, protocol=4)


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:
            return pickle.load(file)["model"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: run `python -m transfer convert` first") from None
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a converted checkpoint ({error}): convert it again") from None


def _same(tensor: torch.Tensor, array: np.ndarray) -> bool:
    """Bit for bit: shape, type and bytes (-0.0 and nan included)."""
    own = tensor.detach().cpu().numpy()
    return own.shape == array.shape and own.dtype == array.dtype and own.tobytes() == array.tobytes()


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


