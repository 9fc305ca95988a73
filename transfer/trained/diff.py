"""`clove diff A B`: what differs between two runs, in their configs and in their
origin.

Each of A and B is the folder of a run, finished or not (config.yaml, with request.json and
result.json where they are there), or a result: result.json or one of results/runs. Metrics and
times are not compared.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from pretrain.common.errors import UserError, refuse
from transfer.records import identity

# What a run measured, when, and what only repeats or names its other entries.
OUTCOME = ("metrics", "details", "config", "config_sha256", "wall_seconds", "peak_memory_mb", "started", "ended",
           "stage", "digest", "schema", "table", "early", "training", "evaluation")
DIFFERENT = 1  # exit code, as diff's own; 0: the same, 2: wrong input
WIDEST = 60  # characters of a value in the table


@dataclass(frozen=True)
class Run:
    """One side: the config as nested plain values, and {dotted name: value} of all else that made
    it."""

    config: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Differences:
    """{key: (value in A, value in B)}; `unrecorded`: {what only one side records: "A" or "B"}, with
    "versions" when the other side has none of versions.*."""

    config: dict[str, tuple[Any, Any]]
    provenance: dict[str, tuple[Any, Any]]
    unrecorded: dict[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), type=Path,
                            help="a run's folder, its result.json, or a file of results/runs")
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the differences; returns the exit code: 0 for none, 1 for some."""
    found = compare(read(args.a), read(args.b))
    if args.json:
        print(json.dumps(vars(found), indent=1))
    else:
        print(describe(found))
    return DIFFERENT if found.config or found.provenance else 0


def read(path: Path) -> Run:
    """The run at `path`; `UserError` when there is none."""
    config, request = path / "config.yaml", path / "request.json"
    if (path / "result.json").is_file():
        path /= "result.json"
    if path.is_dir():
        refuse((not config.is_file(),
                f"{path} holds no run: expected config.yaml or result.json in it, as `clove "
                "finetune` leaves them"))
        about = _parsed(request, json.loads) if request.is_file() else {}
        return Run(_parsed(config, yaml.safe_load), _origin(about))
    refuse((not path.is_file(), f"{path}: no such file or folder: expected a run's folder, or a "
                                "result"))
    content = _parsed(path, json.loads)
    refuse((not isinstance(content, dict) or not isinstance(content.get("config"), dict),
            f"{path} is not a result: it has no config; expected result.json of a fine-tuning, or "
            "a file of results/runs"))
    return Run(content["config"], _origin(content))


def compare(a: Run, b: Run) -> Differences:
    """What differs from `a` to `b`. Configs are compared key by key, without the places of
    weights and output."""
    differing, unrecorded = {}, {}
    for name in sorted(a.provenance.keys() | b.provenance.keys()):
        if name not in a.provenance or name not in b.provenance:
            side, other = ("B", a) if name in b.provenance else ("A", b)
            group = name.partition(".")[0]
            known = any(one.partition(".")[0] == group for one in other.provenance)
            unrecorded[name if known else group] = side
        elif a.provenance[name] != b.provenance[name]:
            differing[name] = (a.provenance[name], b.provenance[name])
    configs = config_differences(a.config, b.config)
    return Differences(configs, differing, dict(sorted(unrecorded.items())))


def config_differences(a: dict, b: dict) -> dict[str, tuple[Any, Any]]:
    """{key: (value in a, value in b)} where two nested configs differ, sorted, places left out."""
    found = identity.differences(identity.flatten(a), identity.flatten(b))
    return {key: found[key] for key in sorted(found.keys() - set(identity.PLACES))}


def describe(found: Differences) -> str:
    parts = []
    if not found.config and not found.provenance:
        parts.append("no difference")
    for title, rows in (("configuration", found.config), ("where it comes from", found.provenance)):
        if rows:
            lines = [(key, _short(a), _short(b)) for key, (a, b) in rows.items()]
            parts.append(tabulate(lines, headers=(title, "A", "B"), disable_numparse=True))
    for side in ("A", "B"):
        names = [name for name, which in found.unrecorded.items() if which == side]
        if names:
            parts.append(f"recorded in {side} alone, not compared: {', '.join(names)}")
    return "\n\n".join(parts)


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}): expected the "
                        "file of a fine-tuning") from None


def _origin(about: dict) -> dict[str, Any]:
    origin = {}
    for name, value in identity.flatten(about).items():
        if name.partition(".")[0] not in OUTCOME and not name.startswith("weights.conversion"):
            origin[name] = value
    return origin


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) > WIDEST:
        return f"{text[:WIDEST - 3]}..."
    return text
