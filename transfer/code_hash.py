"""One hash of all that decides a fine-tuning's figures in this code. Standard library only."""

import hashlib
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# Everything else in this package can change a fine-tuning's figures. These only look, fetch or describe, ...
WITHOUT_EFFECT = {"__init__.py", "__main__.py", "code_hash.py", "diff.py", "fetch.py", "identity.py", "inspection.py",
                  "old_result.py", "picture.py", "excerpt.py", "preflight.py", "provenance.py", "show.py"}
# ... these make the starting weights, whose hash and certificate are part of every result, ...
CONVERSION = {"architecture.py", "certificate.py", "convert.py", "families.py", "intake.py", "layout.py", "loading.py",
              "maps.py", "naming.py", "proof.py", "writers.py"}
# ... and these are the probes, which have a table of their own.
PROBES = {"dense_labels.py", "dense_measure.py", "dense_probe.py", "frozen.py", "probe_picture.py", "segmentation.py"}


@cache
def finetuning_sha256() -> str:
    """SHA-256 over the fine-tuning's sources and configs, without blank lines and lines that are only a comment."""
    total = hashlib.sha256()
    for path in sorted([*FOLDER.glob("*.py"), *FOLDER.glob("configs/*.yaml")]):
        if path.name not in WITHOUT_EFFECT | CONVERSION | PROBES:
            lines = [line.rstrip() for line in path.read_text(encoding="utf-8").splitlines()]
            code = "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))
            total.update(f"{path.name}\n{code}\n".encode())
    return total.hexdigest()
