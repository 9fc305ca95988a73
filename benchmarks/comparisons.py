"""Paired comparisons of two models that `python -m benchmarks bootstrap` left, in words. Standard library only.

A comparison says nothing of the data and protocol of its models: it stands under the block of a table where both of its
results stand, found by the hash of their predictions, and nowhere else.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measured import Group
from benchmarks.paper_tables import TABLES
from benchmarks.results import POSITIVE, SHA256, TEXT, Check, canonical, check_fields, parse_sealed, read_sealed

TABLE = {TABLES[name].task: name for name in TABLES if name.startswith("coco_")}  # task -> table: annotations as COCO's
FIELDS: dict[str, Check] = {
    "kind": ("bootstrap", lambda v: v == "bootstrap"),
    "table": ("one of " + ", ".join(TABLE.values()), lambda v: v in TABLE.values()),
    "names": ("two names", lambda v: isinstance(v, list) and len(v) == 2 and all(map(TEXT[1], v))),
    "predictions_sha256": ("two hashes", lambda v: isinstance(v, list) and len(v) == 2 and all(map(SHA256[1], v))),
    "annotations_sha256": SHA256,
    "samples": POSITIVE,
    "seed": ("an integer", lambda v: isinstance(v, int) and not isinstance(v, bool)),
    "outcome": ("a mapping of metrics", lambda v: isinstance(v, dict) and v != {}),
}
FIGURE: Check = ("a number from -100 to 100", lambda v: isinstance(v, int | float) and not isinstance(v, bool)
                 and -100 <= v <= 100)


@dataclass(frozen=True)
class Comparison:
    """One file: its table, the hashes of the two predictions it is of, and what it says."""

    file: str
    table: str
    predictions: frozenset[str]
    text: str

    def stands_in(self, groups: Iterable[Group]) -> bool:
        """Whether both of its results are among these."""
        return self.predictions <= {trial.predictions for group in groups for trial in group.trials.values()}


def sentence(record: dict) -> str:
    """The outcome in words, as it stands under a table."""
    parts = [f"{metric.replace('_', ' ')} {found['difference']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]"
             for metric, found in record["outcome"].items()]
    first, second = record["names"]
    return (f"Paired bootstrap over the evaluation images ({record['samples']} samples, 95 % interval; it knows "
            f"nothing of other trainings): {first} minus {second}: {', '.join(parts)}.")


def validate(record: Any) -> list[str]:
    """What is wrong with a comparison, one sentence a field; empty: nothing. Ignores `digest`."""
    problems = check_fields(record, FIELDS)
    if problems:
        return problems
    if unknown := set(record["outcome"]) - set(TABLES[record["table"]].metrics):
        return [f"outcome: expected metrics of {record['table']}, found {min(unknown)!r:.60}"]
    fields = {f"{metric}.{key}": FIGURE for metric in record["outcome"] for key in ("difference", "low", "high")}
    return [f"outcome.{problem}" for problem in check_fields(record["outcome"], fields)]


def file_name(record: dict) -> str:
    """The name that a comparison's content gives it: the same models, data, samples and seed have the same."""
    task = next(task for task, table in TABLE.items() if table == record["table"])
    identity = canonical([record[key] for key in ("predictions_sha256", "annotations_sha256", "samples", "seed")])
    return f"{task}-{zlib.crc32(identity.encode()):08x}.json"


def parse_comparison(content: bytes) -> dict:
    """A comparison file's content; ValueError says what is wrong with it."""
    return parse_sealed(content, validate)


def read_comparisons(folder: Path) -> tuple[list[Comparison], list[str]]:
    """(comparisons, one line for each file that is no good) of `folder`, sorted by file."""
    records, problems = read_sealed(folder, parse_comparison)
    return ([Comparison(file_name(record), record["table"], frozenset(record["predictions_sha256"]), sentence(record))
             for record in records], [f"{problem}; no comparison: compare again" for problem in problems])


def without_place(comparisons: Iterable[Comparison], groups: Iterable[Group], hidden: set[str]
                  ) -> tuple[list[str], int]:
    """(one line for each comparison that no block can show, how many only wait for demo results to be shown).

    `hidden`: hashes of the predictions of results that are not shown.
    """
    blocks: dict[tuple, list[Group]] = {}
    for group in groups:
        blocks.setdefault((group.example["table"], group.block), []).append(group)
    lines, waiting = [], 0
    for one in comparisons:
        if any(one.table == table and one.stands_in(members) for (table, _), members in blocks.items()):
            continue
        if one.predictions & hidden:
            waiting += 1
        elif one.stands_in(member for members in blocks.values() for member in members):
            lines.append(f"{one.file}: its two results stand in different blocks, which are not compared")
        else:
            lines.append(f"{one.file}: not both of its results are among those shown")
    return lines, waiting
