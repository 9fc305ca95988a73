"""How far a stage is, from the files that its program writes: step, time left, last metric."""

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stages.stage import Stage
from pretrain import objectives
from pretrain.common.json_lines import read_entries
from transfer import tasks
from transfer.records.old_result import read_as_now

TAIL = 65536  # bytes at a file's end that are read


@dataclass(frozen=True)
class Progress:
    """`done` of `total` steps or iterations; seconds left, as the last steps took; the last metric in words."""

    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    metric: str = ""


def read(stage: Stage, folder: Path) -> Progress:
    """Progress of `stage` in its `folder`; an empty one for stages without steps."""
    if stage.kind == "pretrain":
        return _pretraining(stage, folder)
    if stage.kind == "finetune":
        return _finished(stage, folder) or _finetuning(stage, folder)
    return Progress()


def _pretraining(stage: Stage, folder: Path) -> Progress:
    lines = [line for line in read_entries(folder / "metrics.jsonl", TAIL) if "loss" in line]
    if not lines:
        return Progress(0, stage.steps)
    last, speed = lines[-1], lines[-1].get("images_per_second")
    left = (stage.steps - last["step"]) * stage.batch / speed if speed else None
    metric = _metric("loss", last["loss"], ".3g")
    for name in objectives.get(stage.numbers["objective"]).shown[:1]:
        if last.get(name) is not None:
            metric += f", {name} {last[name]:.3g}"
    return Progress(last["step"], stage.steps, left, metric)


def _finished(stage: Stage, folder: Path) -> Progress | None:
    """Of a fine-tuning with a result."""
    try:
        result = read_as_now(json.loads((folder / "result.json").read_text(encoding="utf-8")))
        column = tasks.get(stage.task).columns[0]
        return Progress(stage.steps, stage.steps, 0.0, _metric(column.name, result["metrics"].get(column.metric)))
    except (OSError, ValueError, KeyError):
        return None


def _finetuning(stage: Stage, folder: Path) -> Progress:
    last, early = None, ""
    for line in read_entries(folder / "metrics.json", TAIL):
        if "total_loss" in line:
            last = line
        name = min((key for key in line if key.startswith("early/")), default="")
        if name:
            early = ", " + _metric(name.removeprefix("early/"), line[name])
    if last is None:
        return Progress(0, stage.steps)
    done = last["iteration"] + 1
    left = (stage.steps - done) * last["time"] if "time" in last else None
    return Progress(done, stage.steps, left, _metric("loss", last["total_loss"], ".3g") + early)


def _metric(name: str, value: float | None, form: str = ".1f") -> str:
    return f"{name} -" if value is None else f"{name} {value:{form}}"
