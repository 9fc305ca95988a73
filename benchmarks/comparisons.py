"""Paired comparisons of two models that `python -m benchmarks bootstrap` left, in words. Standard library only."""

import zlib
from pathlib import Path
from typing import Any

from benchmarks.paper_tables import TABLES
from benchmarks.results import POSITIVE, SHA256, TEXT, Check, canonical, check_fields, parse_sealed, read_sealed

TABLE = {"coco": "coco_detection_segmentation", "coco-c4": "coco_detection_segmentation_c4",
         "keypoints": "coco_keypoints"}
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


def read_comparisons(folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    """({table: sentences}, one line for each file that is no good) of the comparisons in `folder`."""
    found: dict[str, list[str]] = {}
    records, problems = read_sealed(folder, parse_comparison)
    for record in records:
        found.setdefault(record["table"], []).append(sentence(record))
    return found, [f"{problem}; no comparison: compare again" for problem in problems]
