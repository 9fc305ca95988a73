"""A small graph: the tiny recipe and scale on generated pictures, with real options of ./run_all.sh."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.options.run_options import Options, parse
from benchmarks.stages.checked_inputs import find_inputs
from benchmarks.stages.saved_plan import Plan
from pretrain import ROOT
from tests.benchmarks.slurm.launch.conftest import gate, running_cluster, slurm, until  # noqa: F401 (fixtures)

ON_SLURM = ("--cluster", "slurm", "--time", "20")


def planned(options: Options) -> Plan:
    """As ./run_all.sh plans it."""
    return Plan(options, find_inputs(options))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 photographs, and COCO's layout of 4 and 2 images."""
    folder = tmp_path_factory.mktemp("pictures") / "data"
    subprocess.run([sys.executable, "-P", "-m", "benchmarks.demo.demo_data", "--output", folder, "--photos", "8",
                    "--train", "4", "--val", "2"], check=True, capture_output=True, cwd=ROOT)
    return folder


@pytest.fixture
def words(pictures: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """words(*more, methods=..., output=..., **changes of --set): words of ./run_all.sh for the small graph."""

    def make(*more: str, methods: str = "clove,rand", output: Path = tmp_path / "out", **changes: str) -> list[str]:
        sets = {name.replace("__", "."): value for name, value in changes.items()}
        photos = ["--photos", str(pictures / "photos"), "--recipe", "tiny"] if "clove" in methods else []
        return [*photos, "--coco", str(pictures / "coco"), "--tasks", "coco", "--scale", "tiny", "--device", "cpu",
                "--methods", methods, "--output", str(output),
                *(word for item in sets.items() for word in ("--set", "=".join(item))), *more]

    return make


@pytest.fixture
def plan(words: Callable[..., list[str]]) -> Callable[..., Plan]:
    """plan(...): as words(...), planned."""

    def make(*more: str, **changes: str) -> Plan:
        return planned(parse(words(*more, **changes)))

    return make


@pytest.fixture
def run_all(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """run_all(words): ./run_all.sh in this process; returns its exit code."""

    def run(words: list[str]) -> int:
        monkeypatch.setattr(sys, "argv", ["benchmarks", *words])
        return command.main()

    return run
