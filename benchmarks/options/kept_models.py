"""Which fine-tuned models stay on the disk: `--keep none|last|best`. Metrics, figures and logs always stay.

A detector has some 350 MB with its heads; nine methods, three tasks and five trials make 50 GB. Without its model a run
cannot be evaluated or shown again (`clove evaluate`, `clove detections`), which needs the training once more.
"""

import json
from itertools import product
from pathlib import Path
from typing import Any

from transfer import tasks
from transfer.records.old_result import read_as_now

NONE, LAST, BEST = KINDS = ("none", "last", "best")
MODELS = ("model_*.pth", "last_checkpoint")
# What a result records of its run but for the trial and what was measured.
SETTINGS = ("kind", "heads", "scale", "schedule", "solver", "fit", "iterations", "overrides", "processes",
            "images_at_once", "weights", "dataset")


def tidy(folder: Path, keep: str) -> list[Path]:
    """Remove what `keep` does not want of a finished fine-tuning in `folder`; returns the files
    removed.

    `last`: everything stays. `none`: no model. `best`: of the finished trials of this method and
    task under the same settings, in folders beside this one, the model of the one with the highest
    value in the table's first column.
    """
    if keep == LAST or _metric(folder) is None:
        return []
    rivals = [folder]
    if keep == BEST:
        rivals = sorted(_trials(folder), key=lambda one: (_metric(one), one.name))[:-1]
    gone: list[Path] = []
    for rival, pattern in product(rivals, MODELS):
        gone += sorted(rival.glob(pattern))
    for path in gone:
        path.unlink(missing_ok=True)  # another job may tidy at the same time
    return gone


def _trials(folder: Path) -> list[Path]:
    """The finished trials of the same method and task under the same settings, this one among them.

    Names are STAGE-TRIAL-KEY; what --rerun set aside has a dot behind the key and is nobody's
    rival.
    """
    stem, own = folder.name.rsplit("-", 2)[0], _settings(folder)
    found = []
    for other in sorted(folder.parent.glob(f"{stem}-*-*")):
        name, _, key = other.name.rsplit("-", 2)
        if name == stem and "." not in key and _metric(other) is not None and _settings(other) == own:
            found.append(other)
    return found


def _settings(folder: Path) -> list[Any]:
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return [result.get(key) for key in SETTINGS]


def _metric(folder: Path) -> float | None:
    """The first column of a finished run (undefined: lowest of all); None while it is not finished."""
    try:
        result = read_as_now(json.loads((folder / "result.json").read_text(encoding="utf-8")))
        first = result["metrics"].get(tasks.get(result["task"]).columns[0].metric)
    except (OSError, ValueError, KeyError):
        return None
    if first is None:
        return -1.0
    return float(first)
