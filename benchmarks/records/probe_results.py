"""Probes of frozen backbones: results/probes/*.json.

A file is what `clove probe` wrote, with the row and the stage that it belongs to and
the digest that finds changes by hand.
"""

import hashlib
from pathlib import Path
from typing import Any

from benchmarks.records.results import FIELDS as RUN_FIELDS
from benchmarks.records.results import (
    PERCENT,
    SHA256_OR_NULL,
    TRUTH,
    canonical,
    check_fields,
    json_problems,
    read_sealed,
    slug,
    write_sealed,
)

_SHARED = ("method", "epochs", "demo", "stage", "stage.name", "stage.key", "task", "weights", "weights.architecture",
           "dataset", "dataset.train.images", "dataset.train.annotations_sha256", "dataset.val.images",
           "dataset.val.annotations_sha256", "dataset.classes", "seed", "versions", "hardware", "code", "wall_seconds",
           "started", "ended")
OPTIONAL = ("dataset.name", "dataset.label", "weights.pretraining")
MAPPING = RUN_FIELDS["weights"]
FIELDS = {name: RUN_FIELDS[name] for name in (*_SHARED, *OPTIONAL)} | {
    "schema": ("1", lambda v: v == 1 and not TRUTH[1](v)), "kind": ("probe", lambda v: v == "probe"),
    "metrics": MAPPING, "baselines": MAPPING, "protocol": MAPPING, "details": MAPPING,
    "weights.file_sha256": SHA256_OR_NULL}


def validate(probe: Any) -> list[str]:
    """What is wrong with a probe's content, one sentence a field; empty: nothing. Ignores `digest`.
    """
    problems = check_fields(probe, FIELDS, OPTIONAL)
    if problems:
        return problems
    for row in (probe["metrics"], *probe["baselines"].values()):
        if not isinstance(row, dict) or not row:
            return ["metrics: expected a mapping of at least one metric for the backbone and each baseline"]
        for name, value in row.items():
            if not PERCENT[1](value):
                problems.append(f"metrics.{name}: expected {PERCENT[0]}, found {value!r:.60}")
    return problems + json_problems(probe)


def write_probe(folder: Path, probe: dict) -> Path:
    """Put a probe into `folder`, whole or not at all; the same method, epochs, task and stage key
    replace their file. UserError when it is not valid."""
    return write_sealed(folder, probe, validate(probe), file_name)


def file_name(probe: dict) -> str:
    """The name that a probe's content gives it, safe on every file system."""
    identity = canonical([probe["method"], probe["epochs"], probe["task"], probe["stage"]["key"]])
    hashed = hashlib.sha256(identity.encode("ascii")).hexdigest()[:8]
    return f"{slug(probe['method'])}__probe__{slug(probe['task'])}__{hashed}.json"


def read_probes(folder: Path) -> tuple[list[dict], list[str]]:
    """All good probes of `folder` (none when it is not there), and one line (file: reason) for each
    other file."""
    return read_sealed(folder, validate)
