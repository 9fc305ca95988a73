"""What each measured row is made of, trial by trial, and from all of them what, when, where and by which code."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.formats.provenance_text import code_text, hardware_text, items_text, trial_facts, value_text
from benchmarks.tables.table_model import Row, TableModel
from pretrain.common.plain_file import read_plain

MOST_TRIALS = 2000  # that are listed on the page


def measured(tables: list[TableModel], shown: list[TableModel], runs: Path) -> dict:
    """All evaluations of the page: read the files of all trials in `tables`, which lie in `runs`, one by one.

    `rows`: of those of `shown`, by the row's id(), what all of its trials share, those that are listed, and how many
    more there are. Counters: of results.
    """
    listed = {id(row) for table in shown for row in table.rows() if row.group}
    each = max(MOST_TRIALS // max(len(listed), 1), 1)
    rows, seen = {}, []
    for table in tables:
        for row in table.rows():
            if row.group:
                facts = _row_facts(row, table.columns[0], runs, each, seen)
                if id(row) in listed:
                    rows[id(row)] = facts
    columns = list(zip(*seen, strict=True)) or [()] * 8
    methods, pretrainings, began, ended, hours, codes, machines, versions = columns
    return {"rows": rows, "results": len(seen), "methods": set(methods), "pretrainings": set(pretrainings) - {None},
            "began": min(began, default=None), "ended": max(ended, default=None), "hours": sum(hours),
            "codes": Counter(codes), "hardware": Counter(machines), "versions": Counter(versions)}


def _row_facts(row: Row, column: str, runs: Path, most: int, seen: list[tuple]) -> dict:
    """What the trials of a row are made of; what the page counts of each goes into `seen`."""
    shared, trials = {}, []
    for trial in row.group.trials:
        result = json.loads(read_plain(runs / trial.file))
        seen.append(_counted(result))
        own = trial_facts(result)
        shared = {name: text for name, text in (shared or own).items() if own.get(name) == text}
        if len(trials) < most:
            trials.append({"place": trial.place.text(), "value": value_text(trial.columns[column]), "file": trial.file,
                           "digest": result["digest"][:12], "facts": own})
    return {"shared": shared, "trials": trials, "more": len(row.group.trials) - len(trials)}


def _counted(result: dict) -> tuple:
    pretraining = result["weights"].get("pretraining")
    if pretraining:
        pretraining = pretraining["recipe_sha256"], pretraining["images_sha256"], pretraining["seed"]
    began, ended = (datetime.fromisoformat(result[name]).astimezone(UTC) for name in ("started", "ended"))
    versions = {name: version for name, version in result["versions"].items() if version}
    return (result["method"], pretraining or None, began, ended, result["wall_seconds"] / 3600,
            code_text(result["code"]), hardware_text(result["hardware"]), items_text(versions))
