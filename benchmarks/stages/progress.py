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
    """Steps or iterations that are done, as "15/40"; seconds left, as the last steps took; the last metric in words."""

    steps: str = ""
    seconds_left: float | None = None
    metric: str = ""


def read(stage: Stage, folder: Path | None) -> Progress:
    """Progress of `stage` in its `folder`; an empty one for stages without steps."""
    if folder is None or stage.kind not in ("pretrain", "finetune"):
        return Progress()
    if stage.kind == "pretrain":
        return _pretraining(stage, folder)
    try:
        result = read_as_now(json.loads((folder / "result.json").read_text(encoding="utf-8")))
        column = tasks.get(stage.task).columns[0]
        metric = _metric(column.name, result["metrics"].get(column.metric))
        return Progress(f"{stage.steps}/{stage.steps}", 0.0, metric)
    except (OSError, ValueError, KeyError):  # not finished
        return _finetuning(stage, folder)


def _pretraining(stage: Stage, folder: Path) -> Progress:
    last = None
    for line in read_entries(folder / "metrics.jsonl", TAIL):
        if "loss" in line:
            last = line
    if last is None:
        return Progress()
    done, speed, left = last["step"], last.get("images_per_second"), None
    if speed:
        left = (stage.steps - done) * stage.batch / speed
    metric = _metric("loss", last["loss"], ".3g")
    for name in objectives.get(stage.numbers["objective"]).shown[:1]:
        if last.get(name) is not None:
            metric += f", {name} {last[name]:.3g}"
    return Progress(f"{done}/{stage.steps}", left, metric)


def _finetuning(stage: Stage, folder: Path) -> Progress:
    last, early = None, ""
    for line in read_entries(folder / "metrics.json", TAIL):
        if "total_loss" in line:
            last = line
        name = min((key for key in line if key.startswith("early/")), default="")
        if name:
            early = ", " + _metric(name.removeprefix("early/"), line[name])
    if last is None:
        return Progress()
    done, left = last["iteration"] + 1, None
    if "time" in last:
        left = (stage.steps - done) * last["time"]
    return Progress(f"{done}/{stage.steps}", left, _metric("loss", last["total_loss"], ".3g") + early)


def _metric(name: str, value: float | None, form: str = ".1f") -> str:
    return f"{name} -" if value is None else f"{name} {value:{form}}"
