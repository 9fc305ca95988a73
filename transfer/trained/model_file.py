"""A finished detector: its file, the config it was made with, and what its run recorded."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from torch import nn

from pretrain.common.errors import UserError
from transfer.finetuning import result
from transfer.finetuning.checkpoints import FINAL
from transfer.reading import archive
from transfer.reading.architecture import faults

# Not in every file, and without effect: what the model computes from its config, and a counter.
WITHOUT_EFFECT = ("anchor_generator.cell_anchors", "pixel_mean", "pixel_std", "num_batches_tracked")


@dataclass(frozen=True)
class Model:
    """A model file with its config, and what its run recorded (None: a model that no run of ours made)."""

    file: Path
    cfg: CfgNode
    found: dict | None


def read_model(path: Path, task: str) -> Model:
    """Find the model file, its config and its run's result; `UserError` when one is missing or of another task."""
    folder = path if path.is_dir() else path.parent
    found = result.read(folder) if path.is_dir() or path.name == FINAL else None
    file = path / FINAL if path.is_dir() else path
    if path.is_dir() and (found is None or not file.is_file()):
        raise UserError(f"{path} is no finished run: expected {result.RESULT} and {FINAL} in it; run its "
                        "command again to finish it, or name a model file")
    if not file.is_file() or not (folder / result.CONFIG).is_file():
        raise UserError(f"expected a folder of a finished fine-tuning, or a detectron2 model file with its "
                        f"{result.CONFIG} beside it; found no {result.CONFIG if file.is_file() else file}")
    if found and found["task"] != task:
        raise UserError(f"--task {task}: {path} was fine-tuned on {found['task']}")
    return Model(file, read_config(folder / result.CONFIG), found)


def read_config(path: Path) -> CfgNode:
    """A detectron2 config file over detectron2's defaults; `UserError` when it is none."""
    cfg = get_cfg()
    try:
        values = CfgNode.load_yaml_with_base(str(path))
        if "IMAGES_AT_ONCE" in values.get("SOLVER", {}):
            cfg.SOLVER.IMAGES_AT_ONCE = 0  # ours, see `batch_scaling.settle`
        if "SIXTEEN_BIT" in values.get("INPUT", {}):
            cfg.INPUT.SIXTEEN_BIT = "shift"  # ours, see transfer/finetuning/mapper.py
        cfg.merge_from_other_cfg(CfgNode(values))
    except (KeyError, ValueError, TypeError, AttributeError, AssertionError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no detectron2 config ({' '.join(str(error).split())[:200]})") from None
    return cfg


def load(model: nn.Module, file: Path, trust: bool) -> None:
    """Load every tensor of `model` from a detectron2 model file; `UserError` when one is missing, foreign or of
    another shape. Without `trust` nothing but tensors is read."""
    try:
        if file.suffix == ".pkl":
            if not trust:
                raise UserError(f"{file} is a pickle, which can run any code: expected a .pth file, or --trust for one "
                                "that you know")
            content = pickle.loads(file.read_bytes())
        else:
            archive.check(file)
            content = torch.load(file, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        raise UserError(f"{file} holds more than tensors, or is no model file ({_first_line(error)}); `python -m "
                        "transfer evaluate --trust` reads it all the same, only for files you know") from None
    except (EOFError, RuntimeError) as error:
        raise UserError(f"{file} cannot be read ({_first_line(error)}): expected a whole model file") from None
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise UserError(f"{file} holds no model: expected a state dict, alone or under the key model")
    file_state = {name: torch.as_tensor(value) for name, value in state.items() if not name.endswith(WITHOUT_EFFECT)
                  and not name.startswith(WITHOUT_EFFECT) and WITHOUT_EFFECT[0] not in name}
    own = {name: value for name, value in model.state_dict().items() if not name.endswith(WITHOUT_EFFECT[-1])}
    both = own.keys() & file_state.keys()
    wrong = faults({"missing in the file": own.keys() - both, "unknown to the model": file_state.keys() - both,
                    "of another shape": {name for name in both if own[name].shape != file_state[name].shape}})
    if wrong:
        raise UserError(f"expected the {len(own)} tensors of the model that {result.CONFIG} describes in {file}, found "
                        f"{wrong}")
    model.load_state_dict(file_state, strict=False)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__  # an empty file's EOFError says nothing
