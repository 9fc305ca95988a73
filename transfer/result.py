"""result.json: what one fine-tuning or evaluation found, and everything that made it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from pretrain.atomic import write_text
from pretrain.errors import UserError
from transfer import evaluate, settings
from transfer.fit import batch_norm_images, images_at_once
from transfer.old_result import SCHEMA, read_as_now
from transfer.provenance import code_version, hardware, versions

FINETUNING, EVALUATION = "finetuning", "evaluation"  # the kinds
RESULT, CONFIG, WORDS = "result.json", "config.yaml", "request.json"
# An early look at a model leaves no trace in it: a run may go on with another period.
FREE_TO_CHANGE = {"TEST.EVAL_PERIOD"}


def about_config(cfg: CfgNode, processes: int) -> dict[str, Any]:
    """The entries of a result that follow from its resolved config."""
    config = settings.plain(cfg)
    return {"seed": cfg.SEED, "iterations": cfg.SOLVER.MAX_ITER, "processes": processes,
            "images_at_once": images_at_once(cfg), "batch_norm_images": batch_norm_images(cfg, processes),
            "eval_every": cfg.TEST.EVAL_PERIOD or None, "config": config, "config_sha256": settings.sha256(config)}


def about_measurement(task: str, measured: dict) -> dict[str, Any]:
    """The entries of a result that say what was measured, when, and with what; `measured` is what `work` wrote."""
    return {"schema": SCHEMA, "task": task, "table": evaluate.TABLES[task],
            **{key: measured[key] for key in ("metrics", "evaluator", "predictions", "wall_seconds", "peak_memory_mb",
                                              "started")},
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(), "hardware": hardware(), "code": code_version()}


def write(output: Path, result: dict) -> dict:
    """Write `result`, whole or not at all; returns it."""
    write_text(output / RESULT, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def read(output: Path) -> dict | None:
    """The finished result of a folder, None where there is none; one of an older version reads like today's."""
    path = output / RESULT
    if not path.is_file():
        return None
    try:
        found = read_as_now(json.loads(path.read_text(encoding="utf-8")))
        found["task"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): remove it, and the same words measure "
                        "the finished model again") from None
    return found


def begin(output: Path, words: dict, cfg: CfgNode) -> None:
    """Note what a folder is for, before anything runs."""
    write_text(output / CONFIG, cfg.dump())
    write_text(output / WORDS, json.dumps(words, indent=1) + "\n")


def withdraw(output: Path) -> None:
    """Take back what `begin` noted; the log stays."""
    for name in (CONFIG, WORDS):
        (output / name).unlink(missing_ok=True)


def check_same(output: Path, words: dict, cfg: CfgNode) -> None:
    """Refuse an output folder that holds another run, naming what differs."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: expected a folder for --output")
    before, now = {}, {**words, "config": settings.plain(cfg)}
    try:
        before |= json.loads((output / WORDS).read_text(encoding="utf-8"))
        before["config"] = yaml.safe_load((output / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(before["config"], dict):
            raise ValueError(f"a config of type {type(before['config']).__name__}")
    except FileNotFoundError:  # a run killed before it began
        if models := sorted(path.name for path in output.glob("model_*.pth")):
            raise UserError(f"{output} holds {', '.join(models)} but no {WORDS} and {CONFIG}, so that nobody can tell "
                            "which run they are of: use another --output") from None
        return
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{output} holds a run whose {WORDS} or {CONFIG} is damaged ({' '.join(str(error).split())}): "
                        "use another --output") from None
    config = settings.differences(before.pop("config"), now.pop("config"))
    config = {key: values for key, values in config.items() if key not in FREE_TO_CHANGE}
    other = settings.differences(before, now)
    if config or other:
        named = [f"{key} was {old}, is {new}" for key, (old, new) in list({**other, **config}.items())[:5]]
        more = f" and {len(config) + len(other) - 5} more" if len(config) + len(other) > 5 else ""
        raise UserError(f"{output} holds another run: {'; '.join(named)}{more}. Use the same words as before to go on, "
                        "or another --output")
