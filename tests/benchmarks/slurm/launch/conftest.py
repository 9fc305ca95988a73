"""Tiny jobs: a gate that holds them before a step, and a private Slurm."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.slurm import launch, snapshot
from pretrain.config import Config, load_config
from pretrain.runs.drill import logged_steps
from tests.benchmarks.slurm.launch.slurm_cluster import Cluster, missing
from tests.pretrain.conftest import TINY, write_photos

GATE = """

import os as _os, time as _time
_step = Trainer.step
def _gated(self, number, batches):
    if number >= int(open({gate!r}).read()):
        open({gate!r} + f"-{{number}}-{{_os.environ.get('RANK', '0')}}", "w").close()
    while number >= int(open({gate!r}).read()):
        _time.sleep(0.02)
    return _step(self, number, batches)
Trainer.step = _gated
"""
FINETUNING_GATE = """

import time as _time
_before = SeededSteps.before_step
def _gated(self):
    if self.trainer.iter >= int(open({gate!r}).read()):
        open({gate!r} + f"-{{self.trainer.iter}}-0", "w").close()
    while self.trainer.iter >= int(open({gate!r}).read()):
        _time.sleep(0.02)
    _before(self)
SeededSteps.before_step = _gated
"""
# At the end of a pretraining: they take longer than the tiny ones here.
NO_FIGURES = "\ndraw_curves = draw_views = draw_run = lambda *_: None\n"


def until(ready: Callable[[], object], what: str, seconds: float = 400.0) -> None:
    """Wait for something that has to happen."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.02)


class Gate:
    """`open_to(n)` lets pretrainings and fine-tunings submitted from now on take their first n steps; before step n + 1
    they wait."""

    def __init__(self, folder: Path) -> None:
        self.file, self.root = folder / "gate", folder / "root"
        self.open_to(0)
        for name, content in snapshot.sources(launch.ROOT).items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for name, text in (("pretrain/trainer.py", GATE), ("transfer/finetuning/trainer.py", FINETUNING_GATE),
                           ("pretrain/train.py", NO_FIGURES)):
            path = self.root / name
            path.write_text(path.read_text(encoding="utf-8") + text.format(gate=str(self.file)), encoding="utf-8")

    def open_to(self, steps: int) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(str(steps))
        part.replace(self.file)

    def pass_to(self, steps: int, output: Path) -> None:
        """Open, and wait until the run has taken these steps."""
        self.open_to(steps)
        until(lambda: steps in logged_steps(output), f"step {steps} of {output.name}")

    def hold_after(self, steps: int, output: Path, processes: int = 1) -> None:
        """The same, until every process stands before the gate: what it is told now it hears in the next step."""
        self.pass_to(steps, output)
        self.wait_for(steps, processes)

    def wait_for(self, steps: int, processes: int = 1) -> None:
        """Until every process of any run stands before the gate after these steps."""
        marks = [Path(f"{self.file}-{steps}-{rank}") for rank in range(processes)]
        until(lambda: all(mark.exists() for mark in marks), f"all before step {steps + 1}")


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate(tmp_path)
    monkeypatch.setattr(launch, "ROOT", made.root)
    return made


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine photographs: two steps an epoch."""
    return write_photos(tmp_path_factory.mktemp("photos"), 9)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Config]:
    """tiny(**changes): the smallest useful configuration."""
    return lambda **changes: load_config(None, TINY | changes)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MASTER_PORT", raising=False)


@pytest.fixture(scope="module")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    why_not = missing()
    if why_not:
        pytest.skip(f"no Slurm: {why_not}")
    with Cluster(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def slurm(running_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A private cluster that submissions and `squeue` here reach."""
    for name, value in running_cluster.environment.items():
        monkeypatch.setenv(name, value)
    return running_cluster
