"""`python -m transfer diff A B`: what differs between two runs, in their resolved configs and in where they come from.

Each of A and B is the folder of a run, finished or not (config.yaml, with request.json and result.json where they are
there), or a result: result.json or one of results/runs. Figures and times are no part of the comparison.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from pretrain.common.errors import UserError
from transfer.records import identity

# What a run measured, when, and what only repeats or names its other entries.
OUTCOME = ("metrics", "details", "config", "config_sha256", "wall_seconds", "peak_memory_mb", "started", "ended",
           "stage", "digest", "schema", "table", "early", "training", "evaluation")
DIFFERENT = 1  # exit code, as diff's own; 0: the same, 2: wrong input
WIDEST = 60  # characters of a value in the table


@dataclass(frozen=True)
class Run:
    """One side: the config as nested plain values, and {dotted name: value} of everything else that made it."""

    config: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Differences:
    """{key: (value in A, value in B)}; `unrecorded`: what only one side records ("versions" when the other has none of
    versions.*), with the side that has it."""

    config: dict[str, tuple[Any, Any]]
    provenance: dict[str, tuple[Any, Any]]
    unrecorded: dict[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m transfer diff`."""
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), type=Path,
                            help="a run's folder, its result.json, or a file of results/runs")
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the differences; returns the exit code: 0 for none, 1 for some."""
    found = compare(read(args.a), read(args.b))
    if args.json:
        print(json.dumps({"config": found.config, "provenance": found.provenance, "unrecorded": found.unrecorded},
                         indent=1))
    else:
        print(describe(found))
    return DIFFERENT if found.config or found.provenance else 0


def read(path: Path) -> Run:
    """The run at `path`; `UserError` when there is none."""
    if path.is_dir():
        result, config = path / "result.json", path / "config.yaml"
        if result.is_file():
            return _from_result(result)
        if not config.is_file():
            raise UserError(f"{path} holds no run: expected config.yaml or result.json in it, as `python -m transfer "
                            "finetune` leaves them")
        words = path / "request.json"
        return Run(_mapping(config, yaml.safe_load), _origin(_mapping(words, json.loads) if words.is_file() else {}))
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder: expected a run's folder, or a result")
    return _from_result(path)


def compare(a: Run, b: Run) -> Differences:
    """What differs from `a` to `b`. Configs are compared key by key, without the places of weights and output."""
    both = sorted(a.provenance.keys() & b.provenance.keys())
    only = {}
    for side, own, other in (("A", a.provenance, b.provenance), ("B", b.provenance, a.provenance)):
        groups = {name.partition(".")[0] for name in other}
        for name in own.keys() - other.keys():
            group = name.partition(".")[0]
            only[name if group in groups else group] = side
    return Differences(config_differences(a.config, b.config),
                       {name: (a.provenance[name], b.provenance[name]) for name in both
                        if a.provenance[name] != b.provenance[name]}, dict(sorted(only.items())))


def config_differences(a: dict, b: dict) -> dict[str, tuple[Any, Any]]:
    """{key: (value in a, value in b)} where two nested configs differ, sorted, places left out."""
    found = identity.differences(identity.flatten(a), identity.flatten(b))
    return {key: found[key] for key in sorted(found.keys() - set(identity.PLACES))}


def describe(found: Differences) -> str:
    """The differences as a table."""
    parts = []
    for title, rows in (("configuration", found.config), ("where it comes from", found.provenance)):
        if rows:
            parts.append(tabulate([(key, _short(a), _short(b)) for key, (a, b) in rows.items()],
                                  headers=(title, "A", "B"), disable_numparse=True))
    for side in ("A", "B"):
        names = [name for name, which in found.unrecorded.items() if which == side]
        if names:
            parts.append(f"recorded in {side} alone, not compared: {', '.join(names)}")
    if not found.config and not found.provenance:
        parts.insert(0, "no difference")
    return "\n\n".join(parts)


def _from_result(path: Path) -> Run:
    result = _mapping(path, json.loads)
    if not isinstance(result.get("config"), dict):
        raise UserError(f"{path} is not a result: it has no config; expected result.json of a fine-tuning, or a file "
                        "of results/runs")
    return Run(result["config"], _origin(result))


def _mapping(path: Path, parse: Any) -> dict:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}): expected the file of a "
                        "fine-tuning") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}: expected the file of a fine-tuning")
    return content


def _origin(about: dict) -> dict[str, Any]:
    flat = identity.flatten({key: value for key, value in about.items() if key not in OUTCOME})
    return {name: value for name, value in flat.items() if not name.startswith("weights.conversion")}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= WIDEST else f"{text[:WIDEST - 3]}..."
