"""`clove setup`: installs detectron2, cityscapesscripts and lvis into this Python, as run_all.sh does into .venv."""

import argparse
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.environment import APART, WHEEL, WHEEL_OPTIONS, move_wheel
from pretrain import PRINTED, ROOT
from pretrain.common.errors import refuse

MODULES = ("detectron2", "cityscapesscripts", "lvis")  # what pip does not install with the suite
CHECK = f"import {', '.join(MODULES)}"


def build_parser() -> argparse.ArgumentParser:
    """The options of `clove setup`: none."""
    return argparse.ArgumentParser(
        prog="clove setup",
        description="Installs what pip does not install with the suite: detectron2, whose only "
                    "wheel is tagged for Python 3.10, and cityscapesscripts and lvis, which ask "
                    f"for packages that do harm. Into this Python: {sys.executable}. A detectron2 "
                    "of your own stays.")


def main(given: Sequence[str] | None = None) -> int:
    """Install what is missing; returns the exit code. `UserError` when pip fails."""
    build_parser().parse_args(given)
    if subprocess.run([sys.executable, "-c", CHECK], capture_output=True, check=False).returncode == 0:
        print(f"nothing to do: {', '.join(MODULES)} are there")
        return 0
    pip = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    others = [requirement for requirement in APART if requirement != "detectron2"]
    _run([*pip, "--no-deps", *others, "lvis"])
    if subprocess.run([sys.executable, "-c", "import detectron2"], capture_output=True, check=False).returncode != 0:
        folder = ROOT if (ROOT / WHEEL).is_file() else PRINTED
        with tempfile.TemporaryDirectory() as temporary:
            _run([*pip, *WHEEL_OPTIONS, temporary, "-r", str(folder / WHEEL)])
            move_wheel(Path(temporary), Path(sysconfig.get_path("purelib")))
    _run([sys.executable, "-c", CHECK])
    print(f"installed: {', '.join(MODULES)}")
    return 0


def _run(command: list[str]) -> None:
    refuse((subprocess.run(command, check=False).returncode != 0,
            f"failed: {' '.join(command)}; its own message is above"))
