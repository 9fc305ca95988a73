"""Tiny jobs: a gate that holds them before a step, and stand-alone pretrainings to compare with."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import launch, snapshot
from benchmarks.follow import Submission, state
from pretrain.config import Config, load_config
from pretrain.drill import compare, logged_steps
from tests.benchmarks.launch.slurm_cluster import Cluster, missing
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
        for package, text in (("pretrain", GATE), ("transfer", FINETUNING_GATE)):
            with open(self.root / package / "trainer.py", "a", encoding="utf-8") as trainer:
                trainer.write(text.format(gate=str(self.file)))

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


@pytest.fixture(scope="session")
def words() -> Callable[..., list[str]]:
    """words(data, output, **changes): the same as words of `python -m pretrain`."""
    return lambda data, output, **changes: [
        "--data", str(data), "--output", str(output),
        *(word for key, value in (TINY | changes).items()
          for word in (f"--{key.replace('_', '-')}", *str(value).split()))]


@pytest.fixture(scope="session")
def alone(
    photos: Path, words: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[int, int], Path]]:
    """alone(processes, epochs): output of an undisturbed run without any cluster, made once."""
    made: dict[tuple[int, int], Path] = {}
    home = tmp_path_factory.mktemp("alone")

    def run(processes: int, epochs: int) -> Path:
        if (processes, epochs) not in made:
            output = home / f"{processes}-{epochs}"
            start = ["-m", "pretrain"] if processes == 1 else [
                "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "pretrain"]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(launch.ROOT)}
            subprocess.run([sys.executable, "-P", *start, *words(photos, output, epochs=epochs)], env=environment,
                           check=True, capture_output=True, timeout=600)
            made[processes, epochs] = output
        return made[processes, epochs]

    yield run
    shutil.rmtree(home)


@pytest.fixture
def same(alone: Callable[[int, int], Path]) -> Callable[..., None]:
    """same(output, processes, epochs): the finished run equals one alone, bit for bit, every step there once."""

    def check(output: Path, processes: int, epochs: int) -> None:
        other = alone(processes, epochs)
        steps = json.loads((other / "done.json").read_text(encoding="utf-8"))["steps"]
        assert compare(other, output, steps) == []

    return check


@pytest.fixture(autouse=True)
def _tidy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread for every process, as for the runs alone; no checkpoints stay, and no local job runs on."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("benchmarks.follow.ASK_EVERY", {"slurm": 0.2, "local": 0.2})
    monkeypatch.delenv("MASTER_PORT", raising=False)
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    for record in folder.rglob("submission.json") if folder else ():
        left = Submission(**json.loads(record.read_text(encoding="utf-8")))
        if left.cluster == "local" and state(left) == "RUNNING":  # a test that failed
            os.kill(int(left.job_id), 15)
    for path in folder.rglob("step_*.pt") if folder else ():
        path.unlink()


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


@pytest.fixture
def resumed() -> Callable[[Submission], list[int]]:
    """resumed(submission): the steps from which its starts went on, as its log tells."""
    return lambda submission: [int(step) for step in re.findall(
        r"goes on from step (\d+)", submission.log().read_text(encoding="utf-8"))]
