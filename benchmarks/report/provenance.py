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


@dataclass(frozen=True)
class TrialFacts:
    """One evaluation: what is its own, its file in results/runs and its value in the table's first column."""

    place: str
    value: str
    file: str
    digest: str
    facts: dict[str, str]


@dataclass
class RowFacts:
    """What all trials of a row share, and those that are listed; `more`: trials that are not."""

    shared: dict[str, str]
    trials: list[TrialFacts] = field(default_factory=list)
    more: int = 0


@dataclass
class Measured:
    """All evaluations of the page. Counters: of results."""

    rows: dict[int, RowFacts] = field(default_factory=dict)  # by the row's id()
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


def _row_facts(found: Measured, row: Row, column: str, runs: Path, most: int) -> RowFacts:
    facts, listed = RowFacts({}), []
    for number, (place, trial) in enumerate(row.group.trials.items()):
        result = json.loads(read_plain(runs / trial.file))
        found.add(result)
        own = trial_facts(result)
        facts.shared = own if number == 0 else dict(facts.shared.items() & own.items())
        if len(listed) < most:
            value = value_text(trial.columns[column])
            listed.append((place_text(place), value, trial.file, result["digest"][:12], own))
    order = list(listed[0][-1])
    facts.shared = {name: facts.shared[name] for name in order if name in facts.shared}
    for place, value, file, digest, own in listed:
        rest = {name: text for name, text in own.items() if name not in facts.shared}
        facts.trials.append(TrialFacts(place, value, file, digest, rest))
    facts.more = len(row.group.trials) - len(listed)
    return facts
