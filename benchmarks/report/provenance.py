"""What each measured row is made of, trial by trial, and from all of them what, when, where and by which code."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.formats.provenance_text import code_text, hardware_text, trial_facts, value_text
from benchmarks.tables.table_model import Row, TableModel
from pretrain.common.plain_file import read_plain

MOST_TRIALS = 2000  # that are listed on the page
NEVER_BEGAN, NEVER_ENDED = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def measured(tables: list[TableModel], shown: list[TableModel], runs: Path) -> dict:
    """All evaluations of the page: read the files of all trials in `tables`, which lie in `runs`,
    one by one.

    `rows`: of those of `shown`, by the row's id(), what all of its trials share, those that are
    listed, and how many more there are. Counters: of results.
    """
    made = {"rows": {}, "results": 0, "methods": set(), "pretrainings": set(), "hours": 0.0, "codes": Counter(),
            "hardware": Counter(), "versions": Counter(), "began": NEVER_ENDED, "ended": NEVER_BEGAN}
    listed = {id(row) for table in shown for row in table.rows() if row.group}
    each = max(MOST_TRIALS // max(len(listed), 1), 1)
    for table in tables:
        for row in table.rows():
            if row.group:
                facts = _row_facts(row, table.columns[0], runs, each, made)
                if id(row) in listed:
                    made["rows"][id(row)] = facts
    return made


def _row_facts(row: Row, column: str, runs: Path, most: int, made: dict) -> dict:
    """What the trials of a row are made of; each is counted in `made`."""
    shared, trials = {}, []
    for trial in row.group.trials:
        result = json.loads(read_plain(runs / trial.file))
        pretraining = result["weights"].get("pretraining")
        if pretraining:
            key = (pretraining["recipe_sha256"], pretraining["images_sha256"], pretraining["seed"])
            made["pretrainings"].add(key)
        made["methods"].add(result["method"])
        made["began"] = min(made["began"], datetime.fromisoformat(result["started"]).astimezone(UTC))
        made["ended"] = max(made["ended"], datetime.fromisoformat(result["ended"]).astimezone(UTC))
        made["results"] += 1
        made["hours"] += result["wall_seconds"] / 3600
        made["codes"][code_text(result["code"])] += 1
        made["hardware"][hardware_text(result["hardware"])] += 1
        made["versions"][hardware_text(result["versions"])] += 1
        own = trial_facts(result)
        shared = {name: text for name, text in (shared or own).items() if own.get(name) == text}
        if len(trials) < most:
            value = value_text(trial.columns[column])
            trials.append({"place": trial.place.text(), "value": value, "file": trial.file,
                           "digest": result["digest"][:12], "facts": own})
    return {"shared": shared, "trials": trials, "more": len(row.group.trials) - len(trials)}
