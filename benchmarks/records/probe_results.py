"""Probes of frozen backbones: results/probes/*.json.

A file is what `python -m transfer probe` wrote, with the row and the stage that it belongs to and the digest that finds
changes by hand.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.records.results import FIELDS as RUN_FIELDS
from benchmarks.records.results import (
    PERCENT,
    SHA256_OR_NULL,
    TRUTH,
    canonical,
    check_fields,
    digest,
    parse_sealed,
    read_sealed,
)
from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError

_SHARED = ("method", "epochs", "demo", "stage", "stage.name", "stage.key", "task", "weights", "weights.architecture",
           "dataset", "dataset.train.images", "dataset.train.annotations_sha256", "dataset.val.images",
           "dataset.val.annotations_sha256", "dataset.classes", "seed", "versions", "hardware", "code", "wall_seconds",
           "started", "ended")
OPTIONAL = ("dataset.name", "dataset.label", "weights.pretraining")
MAPPING = RUN_FIELDS["weights"]
FIELDS = {name: RUN_FIELDS[name] for name in _SHARED} | {
    "schema": ("1", lambda v: v == 1 and not TRUTH[1](v)), "kind": ("probe", lambda v: v == "probe"),
    "metrics": MAPPING, "baselines": MAPPING, "protocol": MAPPING, "details": MAPPING,
    "weights.file_sha256": SHA256_OR_NULL, **{name: RUN_FIELDS[name] for name in OPTIONAL}}


def validate(probe: Any) -> list[str]:
    """What is wrong with a probe's content, one sentence a field; empty: nothing. Ignores `digest`."""
    problems = check_fields(probe, FIELDS, OPTIONAL)
    if problems:
        return problems
    for row in (probe["metrics"], *probe["baselines"].values()):
        if not isinstance(row, dict) or not row:
            return ["metrics: expected a mapping of at least one metric for the backbone and each baseline"]
        problems += [f"metrics.{name}: expected {PERCENT[0]}, found {value!r:.60}"
                     for name, value in row.items() if not PERCENT[1](value)]
    try:
        canonical(probe)
    except (TypeError, ValueError, RecursionError) as error:
        problems.append(f"expected finite numbers and plain JSON types everywhere, found otherwise ({error})")
    return problems


def write_probe(folder: Path, probe: dict) -> Path:
    """Put a probe into `folder`, whole or not at all; the same method, epochs, task and stage key replace their file.
    UserError when it is not valid."""
    if problems := validate(probe):
        raise UserError(f"expected a valid probe, found: {'; '.join(problems)}; nothing was written")
    probe = json.loads(canonical(probe))
    probe["digest"] = digest(probe)
    path = Path(folder) / file_name(probe)
    write_text(path, json.dumps(probe, indent=1, sort_keys=True) + "\n")
    return path


def file_name(probe: dict) -> str:
    """The name that a probe's content gives it, safe on every file system."""
    identity = canonical([probe["method"], probe["epochs"], probe["task"], probe["stage"]["key"]])
    slug, task = (re.sub(r"[^A-Za-z0-9.+-]+", "-", probe[key]).strip(".-")[:60] or "unnamed"
                  for key in ("method", "task"))
    return f"{slug}__probe__{task}__{hashlib.sha256(identity.encode('ascii')).hexdigest()[:8]}.json"


def parse_probe(content: bytes) -> dict:
    """A probe file's content; ValueError says what is wrong with it."""
    return parse_sealed(content, validate)


def read_probes(folder: Path) -> tuple[list[dict], list[str]]:
    """All good probes of `folder` (none when it is not there), and one line (file: reason) for each other file."""
    return read_sealed(folder, parse_probe)
