"""A small graph: generated pictures, ResNet-18, two steps and two iterations, with real options of ./run_all.sh."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.options import ROOT, parse
from benchmarks.saved_plan import Plan
from benchmarks.suite import find_inputs
from tests.benchmarks.launch.conftest import running_cluster, slurm, until  # noqa: F401 (fixtures)

SMALL = {"pretrain.architecture": "resnet18", "pretrain.epochs": "1", "pretrain.batch_size": "8",
         "pretrain.warmup_epochs": "0", "pretrain.probe_images": "8", "transfer.SOLVER.MAX_ITER": "2",
         "transfer.SOLVER.STEPS": "(1,)", "transfer.SOLVER.CHECKPOINT_PERIOD": "1",
         "transfer.TEST.PRECISE_BN.NUM_ITER": "1",
         # Most of a test's time would go into writing checkpoints of the detector's usual size.
         "transfer.MODEL.FPN.OUT_CHANNELS": "32", "transfer.MODEL.ROI_BOX_HEAD.CONV_DIM": "32",
         "transfer.MODEL.ROI_BOX_HEAD.FC_DIM": "64", "transfer.MODEL.ROI_MASK_HEAD.CONV_DIM": "32"}
ON_SLURM = ("--cluster", "slurm", "--time", "20")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 photographs, and COCO's layout of 4 and 2 images."""
    folder = tmp_path_factory.mktemp("pictures") / "data"
    subprocess.run([sys.executable, "-P", "-m", "benchmarks.demo_data", "--output", folder, "--photos", "16", "--train",
                    "4", "--val", "2"], check=True, capture_output=True, cwd=ROOT)
    return folder


@pytest.fixture
def words(pictures: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """words(*more, methods=..., output=..., **changes of --set): words of ./run_all.sh for the small graph."""

    def make(*more: str, methods: str = "clove,rand", output: Path = tmp_path / "out", **changes: str) -> list[str]:
        sets = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
        if "clove" not in methods:
            sets = {name: value for name, value in sets.items() if not name.startswith("pretrain.")}
        photos = ["--photos", str(pictures / "photos"), "--recipe", "demo"] if "clove" in methods else []
        return [*photos, "--coco", str(pictures / "coco"), "--tasks", "coco", "--scale", "demo", "--device", "cpu",
                "--methods", methods, "--output", str(output),
                *(word for item in sets.items() for word in ("--set", "=".join(item))), *more]

    return make


@pytest.fixture
def plan(words: Callable[..., list[str]]) -> Callable[..., Plan]:
    """plan(...): as words(...), planned."""

    def make(*more: str, **changes: str) -> Plan:
        options = parse(words(*more, **changes))
        return Plan(options, find_inputs(options))

    return make


@pytest.fixture
def run_all(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """run_all(words): ./run_all.sh in this process; returns its exit code."""

    def run(words: list[str]) -> int:
        monkeypatch.setattr(sys, "argv", ["benchmarks", *words])
        return command.main()

    return run
