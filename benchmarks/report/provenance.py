"""What each measured row is made of, trial by trial, and from all of them what, when, where and by which code."""

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.formats.provenance_text import code_text, hardware_text, items_text, trial_facts, value_text
from benchmarks.tables.paired import place_text
from benchmarks.tables.table_model import Row, TableModel
from pretrain.common.plain_file import read_plain

MOST_TRIALS = 2000  # that are listed on the page


@dataclass
class Measured:
    """All evaluations of the page. Counters: of results. `rows`: by the row's id(), what all of its trials share, those
    that are listed, and how many more there are."""

    rows: dict[int, dict] = field(default_factory=dict)
    results: int = 0
    methods: set[str] = field(default_factory=set)
    pretrainings: set[tuple] = field(default_factory=set)
    began: datetime | None = None
    ended: datetime | None = None
    hours: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    hardware: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)

    def add(self, result: dict) -> None:
        """Count one result."""
        self.results += 1
        self.methods.add(result["method"])
        if pretraining := result["weights"].get("pretraining"):
            self.pretrainings.add((pretraining["recipe_sha256"], pretraining["images_sha256"], pretraining["seed"]))
        began, ended = (datetime.fromisoformat(result[name]).astimezone(UTC) for name in ("started", "ended"))
        self.began, self.ended = min(self.began or began, began), max(self.ended or ended, ended)
        self.hours += result["wall_seconds"] / 3600
        self.codes[code_text(result["code"])] += 1
        self.hardware[hardware_text(result["hardware"])] += 1
        self.versions[items_text({name: version for name, version in result["versions"].items() if version})] += 1


def measured(tables: list[TableModel], shown: list[TableModel], runs: Path) -> Measured:
    """Read the files of all trials in `tables`, which lie in `runs`, one by one. Those of `shown` are listed."""
    found = Measured()
    listed = {id(row) for table in shown for row in table.rows() if row.group}
    each = max(MOST_TRIALS // max(len(listed), 1), 1)
    for table in tables:
        for row in table.rows():
            if row.group:
                facts = _row_facts(found, row, table.columns[0], runs, each)
                if id(row) in listed:
                    found.rows[id(row)] = facts
    return found


def _row_facts(found: Measured, row: Row, column: str, runs: Path, most: int) -> dict:
    shared, trials = {}, []
    for place, trial in row.group.trials.items():
        result = json.loads(read_plain(runs / trial.file))
        found.add(result)
        own = trial_facts(result)
        shared = {name: text for name, text in (shared or own).items() if own.get(name) == text}
        if len(trials) < most:
            trials.append({"place": place_text(place), "value": value_text(trial.columns[column]), "file": trial.file,
                           "digest": result["digest"][:12], "facts": own})
    return {"shared": shared, "trials": trials, "more": len(row.group.trials) - len(trials)}
