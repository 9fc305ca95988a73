"""One hash of all that decides a fine-tuning's figures in this code. Standard library only."""

import ast
import hashlib
from functools import cache
from pathlib import Path

from transfer.tasks import OWN_FILES

FOLDER = Path(__file__).resolve().parent
# Everything else in this package can change a fine-tuning's figures. These only look, fetch or describe, ...
WITHOUT_EFFECT = {"__init__.py", "__main__.py", "code_hash.py", "diff.py", "fetch.py", "hold_out.py", "identity.py",
                  "inspection.py", "old_result.py", "picture.py", "excerpt.py", "preflight.py", "provenance.py",
                  "show.py", "where.py"}
# ... these make the starting weights, whose hash and certificate are part of every result, ...
CONVERSION = {"architecture.py", "archive.py", "certificate.py", "config_beside.py", "convert.py", "families.py",
              "intake.py", "layout.py", "loading.py", "maps.py", "naming.py", "network_choice.py", "pickled_arrays.py",
              "pretrained_fpn.py", "proof.py", "protocol2.py", "random_convolutions.py", "writers.py"}
# ... and these are the probes, which have a table of their own.
PROBES = {"dense_labels.py", "dense_measure.py", "dense_probe.py", "frozen.py", "probe_picture.py", "segmentation.py"}


@cache
def finetuning_sha256(task: str | None = None) -> str:
    """SHA-256 over the fine-tuning's sources and configs, without blank lines and lines that are only a comment.

    A `task` that is defined in a file of its own, outside of this package, adds that file.
    """
    total = hashlib.sha256()
    for path in sorted([*FOLDER.glob("*.py"), *FOLDER.glob("configs/*.yaml")]):
        if path.name not in WITHOUT_EFFECT | CONVERSION | PROBES:
            total.update(f"{path.name}\n{_code(path.read_text(encoding='utf-8'))}\n".encode())
    own = [OWN_FILES[task]] if task in OWN_FILES else []
    for path in [*sorted(FOLDER.glob("tasks/*.py")), *own]:
        total.update(f"{path.name}\n{_functions(path.read_text(encoding='utf-8'))}\n".encode())
    return total.hexdigest()


def _code(source: str) -> str:
    lines = [line.rstrip() for line in source.splitlines()]
    return "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))


def _functions(source: str) -> str:
    """Of a task's file: its facts reach a result through the config that this records, or are columns and words."""
    found = [ast.get_source_segment(source, node) for node in ast.parse(source).body
             if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in ("excerpt", "pixel_labels")]
    return _code("\n".join(found))
