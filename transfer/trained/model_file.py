"""A finished detector: its file, the config it was made with, and what its run recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from torch import nn

from pretrain.common.errors import UserError, refuse
from transfer.data.dataset import Dataset
from transfer.finetuning import result
from transfer.finetuning.checkpoints import FINAL
from transfer.reading import safe_load
from transfer.reading.architecture import faults, first_names
from transfer.reading.naming import COUNTER

# Not in every file, and without effect: what the model computes from its config, and a counter.
ANCHORS = "anchor_generator.cell_anchors"
WITHOUT_EFFECT = ("pixel_mean", "pixel_std", COUNTER)


@dataclass(frozen=True)
class Model:
    """A model file with its config, and what its run recorded (None: not made by a run of ours)."""

    file: Path
    cfg: CfgNode
    found: dict | None


def read_model(path: Path, task: str) -> Model:
    """Find the model file, its config and the result of its run; `UserError` when one is missing
    or of another task."""
    file, found, trained_on = path, None, task
    if path.is_dir():
        file = path / FINAL
    config = file.parent / result.CONFIG
    if file.name == FINAL:
        found = result.read(file.parent)
    if found:
        trained_on = found["task"]
    expected = ("expected a folder of a finished fine-tuning, or a detectron2 model file with its "
                f"{config.name} beside it")
    refuse(
        (path.is_dir() and not (found and file.is_file()),
         f"{path} is not a finished run: expected {result.RESULT} and {FINAL} in it; run its "
         "command again to finish it, or name a model file"),
        (not file.is_file(), f"{expected}; found no {file}"),
        (not config.is_file(), f"{expected}; found no {config.name}"),
        (trained_on != task, f"--task {task}: {path} was fine-tuned on {trained_on}"))
    return Model(file, read_config(config), found)


def read_config(path: Path) -> CfgNode:
    """A detectron2 config file over detectron2's defaults; `UserError` for another file."""
    cfg = get_cfg()
    try:
        values = CfgNode.load_yaml_with_base(str(path))
        if "IMAGES_AT_ONCE" in values.get("SOLVER", {}):
            cfg.SOLVER.IMAGES_AT_ONCE = 0  # ours, see `batch_scaling.settle`
        if "SIXTEEN_BIT" in values.get("INPUT", {}):
            cfg.INPUT.SIXTEEN_BIT = "shift"  # ours, see transfer/finetuning/mapper.py
        cfg.merge_from_other_cfg(CfgNode(values))
    except (KeyError, ValueError, TypeError, AttributeError, AssertionError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} is not a detectron2 config ({' '.join(str(error).split())[:200]})") from None
    return cfg


def check_classes(trained_on: Sequence[str], dataset: Dataset) -> None:
    """`UserError` unless the data has the classes that a model was trained for."""
    refuse((list(trained_on) != list(dataset.classes),
            f"the data has the classes {first_names(dataset.classes)}, the model was trained for "
            f"{first_names(trained_on)}: expected the same, in the same order"))


def load(model: nn.Module, file: Path, trust: bool) -> None:
    """Load every tensor of `model` from a detectron2 model file.

    `UserError` when one is missing, foreign or of another shape. Without `trust` only tensors are
    read.
    """
    refuse((safe_load.kind_of(file) == safe_load.PICKLE and not trust,
            f"{file} is a pickle, which can run any code: expected a .pth file, or --trust for one "
            "that you know"))
    content = safe_load.load(file, trust).content
    state = content.get("model", content)
    refuse((not isinstance(state, dict) or not state,
            f"{file} holds no model: expected a state dict, alone or under the key model"))
    in_file, own = {}, {}
    for name, value in state.items():
        if not name.startswith(WITHOUT_EFFECT) and not name.endswith(WITHOUT_EFFECT) and ANCHORS not in name:
            in_file[name] = torch.as_tensor(value)
    for name, value in model.state_dict().items():
        if not name.endswith(COUNTER):
            own[name] = value
    both = own.keys() & in_file.keys()
    wrong = faults({"missing in the file": own.keys() - both, "unknown to the model": in_file.keys() - both,
                    "of another shape": {name for name in both if own[name].shape != in_file[name].shape}})
    refuse((wrong, f"expected the {len(own)} tensors of the model that {result.CONFIG} describes "
                   f"in {file}, found {wrong}"))
    model.load_state_dict(in_file, strict=False)
