"""Paired comparisons of two models that `python -m benchmarks bootstrap` left, in words. Standard library only."""

import json
from pathlib import Path

from benchmarks.paper_tables import TABLES
from benchmarks.results import digest


def sentence(record: dict) -> str:
    """The outcome in words, as it stands under a table."""
    parts = [f"{metric.replace('_', ' ')} {found['difference']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]"
             for metric, found in record["outcome"].items()]
    first, second = record["names"]
    return (f"Paired bootstrap over the evaluation images ({record['samples']} samples, 95 % interval; it knows "
            f"nothing of other trainings): {first} minus {second}: {', '.join(parts)}.")


def read_comparisons(folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    """({table: sentences}, one line for each file that is no good) of the comparisons in `folder`."""
    found: dict[str, list[str]] = {}
    problems = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            record = json.loads(path.read_bytes())
            if record["digest"] != digest(record):
                problems.append(f"{path.name}: changed after it was written (its digest does not match); compare again")
            elif record["table"] in TABLES:
                found.setdefault(record["table"], []).append(sentence(record))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{path.name}: no comparison ({error}); compare again")
    return found, problems
