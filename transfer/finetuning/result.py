"""result.json: what one fine-tuning or evaluation found, and everything that made it."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError, refuse
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
EXAMPLES = "examples.json"


def about_config(cfg: CfgNode, processes: int) -> dict[str, Any]:
    """The entries of a result that follow from its resolved config."""
    config = resolved_config.plain(cfg)
    return {"seed": cfg.SEED, "iterations": cfg.SOLVER.MAX_ITER, "processes": processes,
            "earlier_processes": [], "images_at_once": images_at_once(cfg),
            "batch_norm_images": batch_norm_images(cfg, processes),
            "eval_every": cfg.TEST.EVAL_PERIOD or None, "config": config,
            "config_sha256": resolved_config.sha256(config)}


def about_measurement(task: str, measured: dict) -> dict[str, Any]:
    """The entries of a result that say what was measured, when, and with what; `measured`:
    measured.json."""
    return {"schema": SCHEMA, "task": task, "table": tasks.get(task).table.name, **measured,
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(), "hardware": hardware(), "code": code_version(task)}


def write(output: Path, result: dict) -> dict:
    """Write `result`, whole or not at all; returns it."""
    write_text(output / RESULT, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def read(output: Path) -> dict | None:
    """The finished result of a folder, None where there is none; one of an older version reads
    like today's."""
    if not (output / RESULT).is_file():
        return None
    with _named_when_damaged(output):
        found = read_as_now(json.loads((output / RESULT).read_text(encoding="utf-8")))
        found["task"]  # every result has one
    return found


@contextmanager
def _named_when_damaged(output: Path) -> Iterator[None]:
    """Inside, what a damaged result.json raises becomes a `UserError`."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{output / RESULT} is damaged ({type(error).__name__}: {error}): remove it, and the "
                        "same command evaluates the finished model again") from None


def earlier_processes(output: Path, now: int) -> list[int]:
    """The other numbers of processes that trained parts of the interrupted run in a folder; empty: none, or no run."""
    if not any(output.glob("model_*.pth")):
        return []
    before = json.loads((output / REQUEST).read_text(encoding="utf-8"))
    return sorted({*before.get("earlier_processes", []), before.get("processes", now)} - {now})


def begin(output: Path, about: dict, cfg: CfgNode) -> None:
    """Write what a folder is for, before anything runs: `about` without what stands in
    config.yaml and in the folder of the weights."""
    weights = {key: value for key, value in about["weights"].items() if key != "conversion"}
    request = {key: value for key, value in about.items() if key not in ("config", "config_sha256")}
    write_text(output / CONFIG, cfg.dump())
    write_text(output / REQUEST, json.dumps({**request, "weights": weights}, indent=1) + "\n")


def check_training(output: Path, about: dict) -> None:
    """Raises `UserError` for an output folder with another training than `about`, naming what
    differs.

    It may have been evaluated on something else: see `finished`.
    """
    refuse((output.exists() and not output.is_dir(), f"{output} is a file: expected a folder for --output"))
    try:
        # Older versions did not record which images batch norm sees.
        before = {"batch_norm_images": about["batch_norm_images"],
                  **json.loads((output / REQUEST).read_text(encoding="utf-8")),
                  "config": yaml.safe_load((output / CONFIG).read_text(encoding="utf-8"))}
        was, now = identity.training(before), identity.training(about)
        other = identity.on_other_processes(identity.differences(was, now), was, now)
    except FileNotFoundError:  # a run killed before it began
        there = sorted(path.name for path in [*output.glob("model_*.pth"), *output.glob(RESULT)])
        refuse((there, f"{output} holds {', '.join(there)} but no {REQUEST} and {CONFIG}, so it is not known which run "
                       "they are of: use another --output"))
        return
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{output} holds a run whose {REQUEST} or {CONFIG} is damaged ({why}): use another "
                        "--output") from None
    refuse((other, f"{output} holds another run: {identity.in_words(other)}. Use the same options as before to resume "
                   f"it, {_keeping_batch_norm(other)}or another --output"))


def _keeping_batch_norm(other: dict[str, tuple]) -> str:
    """How a run that began on several processes goes on with one, whose batch norm sees fewer images."""
    before, now = other.get("batch_norm_images", (None, None))
    if before is None or now is None or now >= before:
        return ""
    return (f"--fit accumulate={before} where its memory is large enough (batch norm took its statistics from {before} "
            f"images at once and would now take them from {now}), ")


def finished(output: Path, about: dict, keep_predictions: bool) -> dict | None:
    """The result in the folder of this very training and evaluation; None: there is something to
    do.

    Raises `UserError` when only an evaluation is missing and the finished model is gone.
    """
    found = read(output)
    if found is None:
        return None
    with _named_when_damaged(output):
        other = identity.differences(identity.evaluation(found), identity.evaluation(about))
    if other:
        why = f"{output} was evaluated on something else ({identity.in_words(other)})"
    elif keep_predictions and not (output / predictions.NAME).is_file():
        why = f"--keep-predictions: {output} is finished"
    else:
        return found
    try:
        archive.check(output / FINAL)
    except (FileNotFoundError, UserError) as error:
        reason = f"found no {FINAL} in it"
        if isinstance(error, UserError):
            reason = str(error).partition(": download")[0]
        raise UserError(f"{why}, and {reason}: another evaluation needs the training once more, into another "
                        "--output") from None
    return None


def set_aside(output: Path, about: dict) -> None:
    """Rename a result of another evaluation than `about` describes, with its predictions, and say
    so.

    result.json goes last: after an interruption the next start does the rest.
    """
    found = read(output)
    if found is None:
        return
    before = identity.evaluation(found)
    other = identity.differences(before, identity.evaluation(about))
    if not other:
        return
    ending = identity.sha256(before)[:8]
    for name in (predictions.NAME, PICTURE, EXAMPLES, RESULT):
        stem, _, suffixes = name.partition(".")
        if (output / name).is_file():
            (output / name).replace(output / f"{stem}-{ending}.{suffixes}")
    print(f"{output} was evaluated on something else ({identity.in_words(other)}): its finished model is "
          f"evaluated again, the result so far stays as result-{ending}.json", file=sys.stderr)
