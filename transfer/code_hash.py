"""One hash of all that decides a fine-tuning's metrics in this code. Standard library only."""

import ast
import hashlib
from functools import cache
from pathlib import Path

from pretrain import ROOT
from transfer.tasks import OWN_FILES

FOLDER = Path(__file__).resolve().parent
PIXELS = ROOT / "pretrain" / "pixels.py"  # what an image file is as pixels, in a fine-tuning too
# Folders of this package that cannot change a fine-tuning's metrics, and why. All the others are in the hash.
LEFT_OUT = {
    "reading": "what a checkpoint file is: its hash is part of every result",
    "conversion": "the starting weights, whose hash and certificate are part of every result",
    "probing": "the probes have a table of their own",
    "looking": "looks, fetches or describes",
}
# Files that do not lie in their folder yet. One that moves is taken off this list; nothing else here changes.
NOT_MOVED = {
    "reading": ("architecture", "archive", "config_beside", "families", "intake", "layout", "loading", "naming",
                "network_choice", "pickled_arrays", "pretrained_fpn", "protocol2", "fetch", "inspection", "methods"),
    "conversion": ("certificate", "convert", "convert_command", "maps", "proof", "random_convolutions", "writers"),
    "probing": ("dense_labels", "dense_measure", "dense_probe", "frozen", "probe_picture", "segmentation"),
    "looking": ("__init__", "__main__", "code_hash", "diff", "excerpt", "hold_out", "identity", "old_result", "picture",
                "preflight", "provenance", "show", "where"),
}
TASKS = "tasks"  # of its files only the functions and classes count


@cache
def finetuning_sha256(task: str | None = None) -> str:
    """SHA-256 over the fine-tuning's sources and configs, without blank lines and lines that are only a comment.

    A `task` that is defined in a file of its own, outside of this package, adds that file.
    """
    total = hashlib.sha256()
    for path in sorted([*FOLDER.rglob("*.py"), *FOLDER.rglob("*.yaml")]):
        folder = folder_of(path)
        if folder not in LEFT_OUT:
            _add(total, path, only_functions=folder == TASKS)
    _add(total, PIXELS, only_functions=False)
    if task in OWN_FILES:
        _add(total, OWN_FILES[task], only_functions=True)
    return total.hexdigest()


def folder_of(path: Path) -> str:
    """The folder of this package that a file lies in, or will lie in; "" for what stays beside this file."""
    inside = path.relative_to(FOLDER).parts
    if len(inside) > 1:
        return inside[0]
    for folder, stems in NOT_MOVED.items():
        if path.stem in stems:
            return folder
    return ""


def _add(total: "hashlib._Hash", path: Path, only_functions: bool) -> None:
    source = path.read_text(encoding="utf-8")
    if only_functions:
        source = _functions(source)
    total.update(f"{path.name}\n{_code(source)}\n".encode())


def _code(source: str) -> str:
    lines = [line.rstrip() for line in source.splitlines()]
    return "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))


def _functions(source: str) -> str:
    """Of a task's file: its facts reach a result through the config that this records, or are columns and words."""
    found = [ast.get_source_segment(source, node) for node in ast.parse(source).body
             if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in ("excerpt", "pixel_labels")]
    return "\n".join(found)
