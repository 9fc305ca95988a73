"""Paired comparisons of two models that `clove compare` left, in words. Standard library only.

A comparison says nothing of the data and protocol of its models: it stands under the block of a
table where both of its results stand, found by the hash of their predictions, and nowhere else.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records.imported import by_metric, problems_of, read_known, task_of
from benchmarks.records.results import POSITIVE, SHA256, TEXT, Check, canonical, check_fields, parse_sealed
from pretrain.common.fields import is_number, is_whole
from transfer.tasks import TASKS

FIELDS: dict[str, Check] = {
    "kind": ("bootstrap", lambda v: v == "bootstrap"),
    "names": ("two names", lambda v: isinstance(v, list) and len(v) == 2 and all(map(TEXT[1], v))),
    "predictions_sha256": ("two hashes", lambda v: isinstance(v, list) and len(v) == 2 and all(map(SHA256[1], v))),
    "annotations_sha256": SHA256,
    "samples": POSITIVE,
    "seed": ("an integer", is_whole),
    "outcome": ("a mapping of metrics", lambda v: isinstance(v, dict) and v != {}),
}
DIFFERENCE: Check = ("a number from -100 to 100", lambda v: is_number(v, -100, 100))


@dataclass(frozen=True)
class Comparison:
    """One file: its task, the hashes of the two predictions it is of, and what it says."""

    file: str
    task: str
    predictions: frozenset[str]
    text: str


def sentence(record: dict) -> str:
    """The outcome in words, as it stands under a table: metrics are called as the task's columns
    are."""
    names, parts = {}, []
    if task_of(record) in TASKS:
        names = {column.metric: column.name.replace("_", " ") for column in TASKS[task_of(record)].columns}
    for metric, found in by_metric(record, "outcome").items():
        parts.append(f"{names.get(metric, metric)} {found['difference']:+.1f} "
                     f"[{found['low']:+.1f}, {found['high']:+.1f}]")
    first, second = record["names"]
    return (f"Paired bootstrap over the evaluation images ({record['samples']} samples, 95 % interval; one model each: "
            f"it knows nothing of other pretrainings and fine-tunings): {first} minus {second}: {', '.join(parts)}.")


def validate(record: Any) -> list[str]:
    """What is wrong with a comparison, one sentence a field; empty: nothing. Ignores `digest`."""
    return problems_of(record, FIELDS, "outcome", _wrong_outcomes)


def _wrong_outcomes(outcome: dict) -> list[str]:
    problems = []
    for metric, found in outcome.items():
        for text in check_fields(found, dict.fromkeys(("difference", "low", "high"), DIFFERENCE)):
            problems.append(f"outcome of {metric}: {text}")
    return problems


def file_name(record: dict) -> str:
    """The name that a comparison's content gives it: the same models, data, samples and seed have
    the same."""
    identity = canonical([record[key] for key in ("predictions_sha256", "annotations_sha256", "samples", "seed")])
    return f"{task_of(record)}-{zlib.crc32(identity.encode()):08x}.json"


def parse_comparison(content: bytes) -> dict:
    """A comparison file's content; ValueError says what is wrong with it."""
    return parse_sealed(content, validate)


def read_comparisons(folder: Path) -> tuple[list[Comparison], list[str]]:
    """(comparisons, one line for each file that is damaged or whose task is not known) of `folder`,
    sorted by file."""
    records, problems = read_known(folder, parse_comparison, "compare again")
    comparisons = []
    for record in records:
        predictions = frozenset(record["predictions_sha256"])
        comparisons.append(Comparison(file_name(record), task_of(record), predictions, sentence(record)))
    return comparisons, problems
