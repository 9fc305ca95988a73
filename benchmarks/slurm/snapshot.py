"""The code that runs is the code at submission: a copy of the sources, named after what is in
them."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pretrain.common.errors import refuse

PACKAGES = ("pretrain", "transfer", "benchmarks")
SUFFIXES = (".py", ".yaml", ".html", ".css", ".js")
REPORTED = ("results/expected.csv", "results/reported/*.csv")  # what the tables show beside our results


def sources(root: Path) -> dict[str, bytes]:
    """The Python files, YAML files and templates of our packages below `root`, committed or not, and the papers'
    metrics: {relative name: content}."""
    files = {}
    for pattern in (*(f"{package}/**/*{suffix}" for package in PACKAGES for suffix in SUFFIXES), *REPORTED):
        for path in root.glob(pattern):
            files[path.relative_to(root).as_posix()] = path.read_bytes()
    return files


def digest(files: dict[str, bytes]) -> str:
    """SHA-256 over names and contents."""
    lines = [f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in sorted(files.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def take(root: Path, folder: Path, version: dict[str, Any]) -> Path:
    """Copy the sources below `root` to FOLDER/code-HASH, whole or not at all; the same code is
    copied once.

    code.json beside the packages holds the hash and `version` (git's name for it). Returns the
    folder, to be put on PYTHONPATH; `UserError` when such a copy was changed afterwards.
    """
    files = sources(root)
    name = digest(files)
    place = folder / f"code-{name[:12]}"
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".code-", suffix=".part", dir=folder))
        try:
            for relative, content in files.items():
                path = part / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            (part / "code.json").write_text(json.dumps({"sha256": name, **version}, indent=2) + "\n", encoding="utf-8")
            part.chmod(0o755)
            os.rename(part, place)
        except OSError:
            if not place.exists():  # else another submission was faster
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    found = digest(sources(place))
    refuse((found != name,
            f"{place} was changed after it was taken (expected {name[:12]}, found {found[:12]}): jobs run from it, "
            "so it is left alone; move it away and submit again"))
    return place
