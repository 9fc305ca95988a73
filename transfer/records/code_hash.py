"""One hash of all that decides a fine-tuning's metrics in this code. Standard library only."""

import ast
import hashlib
from functools import cache
from pathlib import Path

from pretrain import ROOT
from transfer.tasks import OWN_FILES

FOLDER = Path(__file__).resolve().parents[1]
# What of the pretraining a fine-tuning computes with: image files as pixels, batch norm over
# processes.
SHARED = (ROOT / "pretrain" / "data" / "pixels.py", ROOT / "pretrain" / "batch_norm.py")
# Folders of this package that cannot change a fine-tuning's metrics, and why. All the others are in
# the hash.
LEFT_OUT = {
    "reading": "what a checkpoint file is: its hash is part of every result",
    "conversion": "what the starting weights are: their hash and certificate are part of every "
                  "result",
    "probing": "the probes have a table of their own",
    "records": "what a result says of where it comes from",
}
TASKS = "tasks"  # of its files only the functions and classes count


@cache
def finetuning_sha256(task: str | None = None) -> str:
    """SHA-256 over the fine-tuning's sources and configs, without blank lines and lines that are
    only a comment.

    A `task` that is defined in a file of its own, outside of this package, adds that file.
    """
    total = hashlib.sha256()
    for path in sorted([*FOLDER.rglob("*.py"), *FOLDER.rglob("*.yaml")]):
        folder = path.relative_to(FOLDER).parts[0]
        if folder not in (*LEFT_OUT, "__init__.py", "__main__.py"):
            _add(total, path, only_functions=folder == TASKS)
    for path in SHARED:
        _add(total, path, only_functions=False)
    if task in OWN_FILES:
        _add(total, OWN_FILES[task], only_functions=True)
    return total.hexdigest()


def _add(total: "hashlib._Hash", path: Path, only_functions: bool) -> None:
    source = path.read_text(encoding="utf-8")
    if only_functions:  # a task's facts reach a result through its config, or are columns and texts
        found = [ast.get_source_segment(source, node) for node in ast.parse(source).body
                 if isinstance(node, ast.FunctionDef | ast.ClassDef)
                 and node.name not in ("excerpt", "pixel_labels")]
        source = "\n".join(found)
    lines = []
    for line in source.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            lines.append(line.rstrip())
    total.update((path.name + "\n" + "\n".join(lines) + "\n").encode())
