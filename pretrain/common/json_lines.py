"""JSON-lines files, such as metrics.jsonl and detectron2's metrics.json: the one reader of other programs' entries."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any


def read_entries(path: Path, tail: int | None = None) -> list[dict[str, Any]]:
    """The entries of a file in their order; a line that a kill cut off or that is just being
    written is left out.

    A missing file has no entries. `tail`: read only the last so many bytes.
    """
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        if tail is not None:
            file.seek(max(path.stat().st_size - tail, 0))
        cut = file.tell() > 0
        lines = file.read().split(b"\n")
    if cut:
        del lines[0]
    return list(_entries(lines))


def each_entry(path: Path) -> Iterator[dict[str, Any]]:
    """The same one by one, of a file of any length."""
    if path.is_file():
        with open(path, "rb") as file:
            yield from _entries(file)


def _entries(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry
