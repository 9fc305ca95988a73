"""JSON-lines files, such as metrics.jsonl and detectron2's metrics.json: the one reader of other programs' entries."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any


def read_entries(path: Path, tail: int | None = None) -> list[dict[str, Any]]:
    """The entries of a file in their order; a line that a kill cut off or that is just being written is left out.

    No file has no entries. `tail`: only those in the last so many bytes.
    """
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        start = 0 if tail is None else max(path.stat().st_size - tail, 0)
        file.seek(start)
        lines = file.read().split(b"\n")
    found = []
    for line in lines[1:] if start else lines:
        with suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return [entry for entry in found if isinstance(entry, dict)]
