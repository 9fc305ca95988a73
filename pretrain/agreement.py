"""Whether the processes of a training agree: the same code, the same options, the same images.

They compare these before the first step and at each checkpoint. Where they differ, their networks
would be no copies of each other, or one would wait for batches that never come.
"""

import functools
import hashlib
import inspect
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain import objectives

SHOWN = 3  # options that differ


def facts(code: str, options: Mapping[str, Any], images: str = "") -> dict[str, Any]:
    """What one process tells the others, in plain types: with other code they know no class of ours."""
    return {"host": socket.gethostname(), "code": code, "options": dict(options), "images": images}


def difference(everyone: list[dict[str, Any]]) -> str | None:
    """The one line, the same in all processes, on `facts` that are not equal; None when all are."""
    code = _others(everyone, "code")
    if code:
        return (f"{_named(everyone, code)} run different code: expected one version everywhere, install or check out "
                "the same one on all machines")
    options = _others(everyone, "options")
    if options:
        first, other = everyone[0]["options"], everyone[options[0]]["options"]
        differing = [f"{key} {first.get(key)!r} and {other.get(key)!r}"
                     for key in [*first, *(key for key in other if key not in first)]
                     if first.get(key) != other.get(key)]
        if len(differing) > SHOWN:
            differing[SHOWN:] = [f"{len(differing) - SHOWN} more"]
        return (f"{_named(everyone, options)} were started with different options ({', '.join(differing)}): expected "
                "the same command everywhere")
    images = _others(everyone, "images")
    if images:
        return (f"{_named(everyone, images)} have different images: expected the same names and sizes everywhere, copy "
                "--data again or name one folder")
    return None


def _others(everyone: list[dict[str, Any]], key: str) -> list[int]:
    """The ranks whose value is not that of the first."""
    return [rank for rank, other in enumerate(everyone) if other[key] != everyone[0][key]]


def _named(everyone: list[dict[str, Any]], others: list[int]) -> str:
    there = ", ".join(f"{rank} on {everyone[rank]['host']}" for rank in others)
    return f"processes 0 on {everyone[0]['host']} and {there}"


@functools.cache
def code_sha256(objective: str) -> str:
    """SHA-256 of the sources of a pretraining with this objective, as they were when this process
    first asked: what it runs."""
    folder, total = Path(__file__).parent, hashlib.sha256()
    for path in [*sorted(folder.rglob("*.py")), Path(inspect.getfile(objectives.get(objective)))]:
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
        total.update(f"{name}\0".encode() + path.read_bytes())
    return total.hexdigest()
