"""result.json: what one fine-tuning or evaluation found, and everything that made it."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError
from transfer import tasks
from transfer.evaluators import predictions
from transfer.finetuning.checkpoints import FINAL
from transfer.reading import archive
from transfer.records import identity
from transfer.records.old_result import SCHEMA, read_as_now
from transfer.records.provenance import code_version, hardware, versions
from transfer.settings import resolved_config
from transfer.settings.batch_scaling import batch_norm_images, images_at_once

FINETUNING, EVALUATION = "finetuning", "evaluation"  # the kinds
RESULT, CONFIG, REQUEST, PICTURE = "result.json", "config.yaml", "request.json", "predictions.png"


def about_config(cfg: CfgNode, processes: int) -> dict[str, Any]:
    """The entries of a result that follow from its resolved config."""
    config = resolved_config.plain(cfg)
    return {"seed": cfg.SEED, "iterations": cfg.SOLVER.MAX_ITER, "processes": processes,
            "images_at_once": images_at_once(cfg), "batch_norm_images": batch_norm_images(cfg, processes),
            "eval_every": cfg.TEST.EVAL_PERIOD or None, "config": config,
            "config_sha256": resolved_config.sha256(config)}


def about_measurement(task: str, measured: dict) -> dict[str, Any]:
    """The entries of a result that say what was measured, when, and with what; `measured` is what `work` wrote."""
    return {"schema": SCHEMA, "task": task, "table": tasks.get(task).table.name,
            **{key: measured[key] for key in ("metrics", "predictions", "wall_seconds", "peak_memory_mb", "started")},
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(), "hardware": hardware(), "code": code_version(task)}


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
        raise _damaged(path, error) from None
    return found


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({type(error).__name__}: {error}): remove it, and the same command evaluates "
                     "the finished model again")


def begin(output: Path, about: dict, cfg: CfgNode) -> None:
    """Note what a folder is for, before anything runs: `about` without what config.yaml and the weights' folder say."""
    weights = {key: value for key, value in about["weights"].items() if key != "conversion"}
    request = {key: value for key, value in about.items() if key not in ("config", "config_sha256")}
    write_text(output / CONFIG, cfg.dump())
    write_text(output / REQUEST, json.dumps({**request, "weights": weights}, indent=1) + "\n")


def withdraw(output: Path) -> None:
    """Take back what `begin` noted; the log stays."""
    for name in (CONFIG, REQUEST):
        (output / name).unlink(missing_ok=True)


def check_training(output: Path, about: dict) -> None:
    """Refuse an output folder that holds another training than `about` describes, naming what differs.

    What it was evaluated on may be another: see `finished`.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: expected a folder for --output")
    try:
        # Which images batch norm sees was not noted by older versions.
        before = {"batch_norm_images": about["batch_norm_images"],
                  **json.loads((output / REQUEST).read_text(encoding="utf-8")),
                  "config": yaml.safe_load((output / CONFIG).read_text(encoding="utf-8"))}
        other = identity.differences(identity.training(before), identity.training(about))
    except FileNotFoundError:  # a run killed before it began
        there = sorted(path.name for path in [*output.glob("model_*.pth"), *output.glob(RESULT)])
        if there:
            raise UserError(f"{output} holds {', '.join(there)} but no {REQUEST} and {CONFIG}, so that nobody can tell "
                            "which run they are of: use another --output") from None
        return
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{output} holds a run whose {REQUEST} or {CONFIG} is damaged ({why}): use another "
                        "--output") from None
    if other:
        raise UserError(f"{output} holds another run: {identity.in_words(other)}. Use the same options as before to "
                        "resume it, or another --output")


def finished(output: Path, about: dict, keep_predictions: bool) -> dict | None:
    """The result that the folder holds of this very training and evaluation; None: there is something to do.

    Raises `UserError` when only an evaluation is missing and the finished model is gone.
    """
    found = read(output)
    if found is None:
        return None
    try:
        before = identity.evaluation(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(output / RESULT, error) from None
    other = identity.differences(before, identity.evaluation(about))
    if other:
        why = f"{output} was evaluated on something else ({identity.in_words(other)})"
    elif keep_predictions and not (output / predictions.NAME).is_file():
        why = f"--keep-predictions: {output} is finished"
    else:
        return found
    more = "another evaluation needs the training once more, into another --output"
    if not (output / FINAL).is_file():
        raise UserError(f"{why}, found no {FINAL} in it any more: {more}")
    try:
        archive.check(output / FINAL)
    except UserError as error:
        raise UserError(f"{why}, and {str(error).partition(': download')[0]}: {more}") from None
    return None


def set_aside(output: Path, about: dict) -> None:
    """Keep a result of another evaluation than `about` describes under another name, with its predictions, and say so.

    result.json goes last: when this is interrupted, the next start does the rest.
    """
    found = read(output)
    if found is None:
        return
    before, now = identity.evaluation(found), identity.evaluation(about)
    if before == now:
        return
    ending = identity.sha256(before)[:8]
    for name in (predictions.NAME, PICTURE, RESULT):
        stem, _, suffixes = name.partition(".")
        if (output / name).is_file():
            (output / name).replace(output / f"{stem}-{ending}.{suffixes}")
    print(f"{output} was evaluated on something else ({identity.in_words(identity.differences(before, now))}): its "
          f"finished model is evaluated again, the result so far stays as result-{ending}.json", file=sys.stderr)
