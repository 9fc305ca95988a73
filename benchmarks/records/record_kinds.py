"""The four kinds of files in results/ that a bundle carries: how each is read, and what its content names it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.records import comparisons, imported, probe_results, results
from pretrain.common.atomic import write_text


@dataclass(frozen=True)
class Kind:
    """One kind of file. `check` says what is wrong with content of any schema; `file_name` follows
    from the content; `current` is it in today's schema."""

    word: str
    plural: str
    check: Callable[[Any], list[str]]
    file_name: Callable[[dict], str]
    current: Callable[[dict], dict]


# Folder in results/, and in a bundle -> what lies in it.
KINDS = {
    "runs": Kind("result", "results", results.problems_of, results.file_name, results.current),
    "probes": Kind("probe", "probes", probe_results.validate, probe_results.file_name, dict),
    "imported": Kind("imported", "imported", imported.validate, imported.file_name,
                     partial(imported.in_todays_schema, key="metrics")),
    "comparisons": Kind("comparison", "comparisons", comparisons.validate, comparisons.file_name,
                        partial(imported.in_todays_schema, key="outcome"))}
Records = dict[str, list[dict]]  # folder -> contents


def put(folder: Path, kind: str, record: dict) -> Path:
    """Write a checked record into its place in the folder of results, whole or not at all."""
    path = folder / kind / KINDS[kind].file_name(record)
    write_text(path, results.stored_text(record))
    return path


def parse_members(members: dict[str, bytes]) -> Records:
    """All records of a bundle's members; ValueError names the first that is damaged."""
    records: Records = {kind: [] for kind in KINDS}
    for name, content in sorted(members.items()):
        kind = name.partition("/")[0]
        if kind in KINDS:
            try:
                records[kind].append(results.parse_sealed(content, KINDS[kind].check))
            except ValueError as error:
                raise ValueError(f"{name} is not a good {KINDS[kind].word} ({error})") from None
    # Of the same trial measured twice the later one counts, whatever it is called: it must be written last.
    records["runs"].sort(key=lambda result: (results.ended(result), result["digest"]))
    return records
