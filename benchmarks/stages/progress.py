"""How far a stage is, from the files that its program writes: step, time left, last figure."""

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
    """`done` of `total` steps or iterations; seconds left, as the last steps took; the last figure in words."""

    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    metric: str = ""


def read(stage: Stage, folder: Path) -> Progress:
    """Progress of `stage` in its `folder`; an empty one for stages without steps."""
    if stage.kind == "pretrain":
        return _pretraining(stage, folder)
    if stage.kind == "finetune":
        return _finetuning(stage, folder)
    return Progress()


def _pretraining(stage: Stage, folder: Path) -> Progress:
    lines = [line for line in read_entries(folder / "metrics.jsonl", TAIL) if "loss" in line]
    if not lines:
        return Progress(0, stage.steps)
    last = lines[-1]
    speed = last.get("images_per_second")
    left = (stage.steps - last["step"]) * stage.batch / speed if speed else None
    metric = _figure("loss", last["loss"])
    for name in objectives.get(stage.numbers["objective"]).shown[:1]:
        if last.get(name) is not None:
            metric += f", {name} {last[name]:.3g}"
    return Progress(last["step"], stage.steps, left, metric)


def _finetuning(stage: Stage, folder: Path) -> Progress:
    total = stage.steps
    try:
        result = read_as_now(json.loads((folder / "result.json").read_text(encoding="utf-8")))
        column = tasks.get(stage.task).columns[0]
        return Progress(total, total, 0.0, _figure(column.name, result["metrics"].get(column.metric)))
    except (OSError, ValueError, KeyError):
        pass
    entries = read_entries(folder / "metrics.json", TAIL)
    lines = [line for line in entries if "total_loss" in line]
    if not lines:
        return Progress(0, total)
    last = lines[-1]
    done = last["iteration"] + 1
    left = (total - done) * last["time"] if "time" in last else None
    early = [line for line in entries if any(key.startswith("early/") for key in line)]
    if early:
        name, value = next((key, value) for key, value in early[-1].items() if key.startswith("early/"))
        named = _figure(name.removeprefix("early/"), value)
        return Progress(done, total, left, f"{_figure('loss', last['total_loss'])}, {named}")
    return Progress(done, total, left, _figure("loss", last["total_loss"]))


def _figure(name: str, value: float | None) -> str:
    return f"{name} {'-' if value is None else f'{value:.3g}' if name == 'loss' else f'{value:.1f}'}"
