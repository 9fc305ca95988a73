"""Paired comparisons of two models that `clove compare` left, in words. Standard library only.

A comparison says nothing of the data and protocol of its models: it stands under the block of a
table where both of its results stand, found by the hash of their predictions, and nowhere else.
"""

import zlib
from typing import Any

from benchmarks.records.imported import problems_of, task_of
from benchmarks.records.results import POSITIVE, SHA256, TEXT, Check, canonical, check_fields
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


def sentence(record: dict) -> str:
    """The outcome in words, as it stands under a table: metrics are called as the task's columns
    are."""
    names, parts = {}, []
    if record["task"] in TASKS:
        for column in TASKS[record["task"]].columns:
            names[column.metric] = column.name.replace("_", " ")
    for metric, found in record["outcome"].items():
        name = names.get(metric, metric)
        parts.append(f"{name} {found['difference']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]")
    first, second = record["names"]
    return (f"Paired bootstrap over the evaluation images ({record['samples']} samples, 95 % interval; one model each: "
            f"it knows nothing of other pretrainings and fine-tunings): {first} minus {second}: {', '.join(parts)}.")


def validate(record: Any) -> list[str]:
    """What is wrong with a comparison, one sentence a field; empty: nothing. Ignores `digest`."""
    def wrong_outcomes(outcome: dict) -> list[str]:
        problems = []
        for metric, found in outcome.items():
            for text in check_fields(found, {"difference": DIFFERENCE, "low": DIFFERENCE, "high": DIFFERENCE}):
                problems.append(f"outcome of {metric}: {text}")
        return problems

    return problems_of(record, FIELDS, "outcome", wrong_outcomes)


def file_name(record: dict) -> str:
    """The name that a comparison's content gives it: the same models, data, samples and seed have
    the same."""
    identity = [record[key] for key in ("predictions_sha256", "annotations_sha256", "samples", "seed")]
    return f"{task_of(record)}-{zlib.crc32(canonical(identity).encode()):08x}.json"
