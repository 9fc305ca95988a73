"""Paired comparisons of two models that `python -m benchmarks bootstrap` left, in words. Standard library only.

A comparison says nothing of the data and protocol of its models: it stands under the block of a table where both of its
results stand, found by the hash of their predictions, and nowhere else.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measured import Group
from benchmarks.paper_tables import TABLES
from benchmarks.results import SHA256, TEXT, digest


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


def read_comparisons(folder: Path) -> tuple[list[Comparison], list[str]]:
    """(comparisons, one line for each file that is no good) of `folder`, sorted by file."""
    found, problems = [], []
    for path in sorted(folder.glob("[!.]*.json")) if folder.is_dir() else []:
        try:
            record = json.loads(path.read_bytes())
            wrong = _wrong(record)
        except (OSError, ValueError, RecursionError) as error:
            wrong = f"no comparison ({error})"
        if wrong:
            problems.append(f"{path.name}: {wrong}; compare again")
        else:
            found.append(Comparison(path.name, record["table"], frozenset(record["predictions_sha256"]),
                                    sentence(record)))
    return found, problems


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


def _wrong(record: Any) -> str:
    """What is wrong with a comparison's content; empty: nothing."""
    if not isinstance(record, dict) or "digest" not in record:
        return "no comparison (expected a mapping with a digest)"
    if record["digest"] != digest(record):
        return "changed after it was written (its digest does not match)"
    for key, expected, holds in (
            ("table", "the name of a table", lambda v: isinstance(v, str) and v in TABLES),
            ("names", "two texts", lambda v: _is_pair(v, TEXT[1])),
            ("predictions_sha256", "two hashes", lambda v: _is_pair(v, SHA256[1])),
            ("samples", "a number", _is_number),
            ("outcome", "difference, low and high of each metric", _is_outcome)):
        if not holds(record.get(key)):
            return f"no comparison ({key}: expected {expected}, found {record.get(key)!r:.60})"
    return ""


def _is_pair(value: Any, holds: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(holds, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_outcome(value: Any) -> bool:
    return (isinstance(value, dict) and value != {} and all(
        isinstance(found, dict) and all(_is_number(found.get(key)) for key in ("difference", "low", "high"))
        for found in value.values()))
