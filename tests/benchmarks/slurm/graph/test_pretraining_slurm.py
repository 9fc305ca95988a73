"""A pretraining as a job on a real Slurm: it computes what a run alone computes, whatever happens to it."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.slurm import jobs, status
from benchmarks.stages.saved_plan import read_plan
from pretrain.runs.drill import compare
from tests.benchmarks.slurm.graph.conftest import ON_SLURM, until

pytestmark = pytest.mark.slow


class Submitted:
    """A graph of a pretraining of two steps an epoch, and its conversion, in OUTPUT."""

    def __init__(self, output: Path) -> None:
        self.output, self.record = output, jobs.newest(output)["pretrain-clove"]
        self.stage = read_plan(output).stages()[0]
        self.folder = self.stage.folder(output, self.stage.key({}))

    def told(self, rank: int = 0) -> str:
        """What a process has printed so far, over all starts."""
        log = self.record.log(rank)
        return log.read_text(encoding="utf-8") if log.is_file() else ""

    def resumed(self) -> list[int]:
        """The steps from which its starts went on."""
        return [int(step) for step in re.findall(r"resumes from step (\d+)", self.told())]

    def state(self) -> str:
        return {row.stage: row.state for row in status.snapshot(read_plan(self.output))}["pretrain-clove"]

    def task(self, rank: int = 0) -> int:
        """Process number of one of its tasks, which run on this machine; its loader's workers have the same words."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                words = (place / "cmdline").read_bytes().split(b"\0")
                environment = (place / "environ").read_bytes().split(b"\0")
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if b"submitit.core._submit" in words and b"srun" not in words[0] and {
                    f"SLURM_JOB_ID={self.record.job_id}".encode(), f"SLURM_PROCID={rank}".encode()} <= set(environment):
                found[int(place.name)] = parent
        (first,) = (number for number, parent in found.items() if parent not in found)
        return first

    def ends_like_one_alone(self, alone: Path, processes: int, steps: int) -> None:
        """Waits for its end; it equals an undisturbed run without a cluster, bit for bit, every step there once."""
        until(lambda: self.state() not in status.ALIVE, "the end")
        assert self.state() == "done", self.told()
        command = self.stage.command(alone, {})
        if processes > 1:
            start = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
            command = [*command[:3], *start, *command[3:]]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        assert compare(alone, self.folder, steps) == []


@pytest.fixture
def submit(words: Callable, run_all: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """submit(*more words, epochs=...): hands a graph without tasks over."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def hand_over(*more: str, epochs: int, workers: int = 0) -> Submitted:
        changes = {"pretrain__epochs": epochs, "pretrain__checkpoint_every": 2, "pretrain__workers": workers}
        texts = {key: str(value) for key, value in changes.items()}
        assert run_all(words(*ON_SLURM, "--tasks", "none", *more, methods="clove", **texts)) == 0
        return Submitted(tmp_path / "out")

    return hand_over


def test_two_nodes_of_two_processes__equal_a_run_without_cluster(slurm, submit, tmp_path):
    run = submit("--nodes", "2", "--gpus-per-node", "2", epochs=1)
    run.ends_like_one_alone(tmp_path / "alone", 4, 2)
    assert slurm.show(run.record.job_id, "NodeList") == "node[1-2]" and "fp32 on cpu x 4" in run.told()


def test_one_process_of_two_is_told_to_save__both_do_and_come_back(slurm, submit, gate, tmp_path):
    run = submit("--tasks-per-node", "2", epochs=2)
    gate.hold_after(1, run.folder, processes=2)
    os.kill(run.task(1), signal.SIGUSR2)
    until(lambda: "SIGUSR2 received" in run.told(1), "the signal")
    # Another copy of the code lies where the job was submitted from; the job keeps its own.
    (gate.root / "pretrain" / "train.py").write_text("raise SystemExit('edited after the submission')")
    gate.open_to(100)
    run.ends_like_one_alone(tmp_path / "alone", 2, 4)
    assert run.resumed() == [2] and "SIGUSR2 received" not in run.told(0)


def test_one_process_of_two_is_killed__the_job_starts_both_again(slurm, submit, gate, tmp_path):
    run = submit("--tasks-per-node", "2", epochs=2)
    gate.hold_after(3, run.folder, processes=2)
    os.kill(run.task(1), signal.SIGKILL)
    gate.open_to(100)
    run.ends_like_one_alone(tmp_path / "alone", 2, 4)
    assert run.resumed() == [2] and slurm.show(run.record.job_id, "Restarts") == "0"
    assert "another process of this run has ended: see its own message: started again, 1 of 2 times" in run.told()


def test_stalled__a_signal_ends_both_processes_within_seconds(slurm, submit, gate, tmp_path):
    """They wait before the gate for ever: after SIGUSR2 the job comes back, after SIGTERM it is Slurm's to decide."""
    run = submit("--tasks-per-node", "2", epochs=2)
    job = run.record.job_id
    gate.hold_after(3, run.folder, processes=2)
    for rank in (0, 1):
        Path(f"{gate.file}-3-{rank}").unlink()
    slurm.run("scancel", "--signal=USR2", job)
    until(lambda: slurm.show(job, "Restarts") == "1", "back from the queue", 100)
    assert "stopped by SIGUSR2: this process did not get on within" in run.told()
    until(lambda: run.resumed() == [2], "the second start")
    gate.wait_for(3, processes=2)

    slurm.run("scancel", "--signal=TERM", job)
    until(lambda: run.state() not in status.ALIVE, "the end", 100)
    assert run.state() == "stopped" and slurm.show(job, "ExitCode") == "143:0"
    assert {ending.exit_code for ending in run.record.endings()} == {143}


def test_job__disturbed_in_every_way_equals_one_left_alone(slurm, submit, gate, tmp_path):
    """Preempted; told to save by a signal; requeued without a word; killed."""
    run = submit(epochs=6, workers=1)
    job = run.record.job_id

    gate.hold_after(1, run.folder)
    slurm.run("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    until(lambda: run.told().count("SIGUSR2 received") == 1, "preemption")
    gate.pass_to(2, run.folder)
    until(lambda: run.resumed() == [2], "back after a preemption")

    gate.hold_after(3, run.folder)
    slurm.run("scancel", "--signal=USR2", job)
    until(lambda: run.told().count("SIGUSR2 received") == 2, "the signal")
    gate.pass_to(4, run.folder)
    until(lambda: run.resumed() == [2, 4], "back after a signal")

    gate.hold_after(5, run.folder)
    before = run.told().count("SIGTERM received")
    slurm.run("scontrol", "requeue", job)
    until(lambda: run.told().count("SIGTERM received") > before, "the end of a bare requeue")
    gate.pass_to(6, run.folder)
    until(lambda: run.resumed() == [2, 4, 6], "back after a bare requeue")
    assert run.told().count("SIGUSR2 received") == 2  # this one really came without

    gate.hold_after(9, run.folder)
    os.kill(run.task(), signal.SIGKILL)
    gate.open_to(100)
    until(lambda: (run.folder / "done.json").is_file(), "the end")
    run.ends_like_one_alone(tmp_path / "alone", 1, 12)
    assert run.resumed() == [2, 4, 6, 8]
    assert slurm.show(job, "Restarts") == "3"  # the last start is the job's own


def test_node_failure__the_job_comes_back_on_the_other_node(slurm, submit, gate, tmp_path):
    run = submit(epochs=6, workers=1)
    job = run.record.job_id
    gate.hold_after(3, run.folder)
    failed = slurm.show(job, "NodeList")
    slurm.fail_node(failed)
    try:
        gate.open_to(100)
        until(lambda: (run.folder / "done.json").is_file(), "the end")
        assert slurm.show(job, "NodeList") not in ("", failed)
    finally:
        slurm.mend_node(failed)
    run.ends_like_one_alone(tmp_path / "alone", 1, 12)
    assert run.resumed() == [2] and slurm.show(job, "Restarts") == "1"


def test_time_limit__the_job_saves_comes_back_and_ends_equal(slurm, submit, gate, tmp_path):
    run = submit("--time", "1", "--signal-delay", "30", epochs=6)
    job = run.record.job_id
    gate.open_to(1)
    until(lambda: "SIGUSR2 received" in run.told(), "the signal before the time limit")
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=20")  # enough for the second start
    gate.open_to(100)
    run.ends_like_one_alone(tmp_path / "alone", 1, 12)
    assert "this job is timed-out" in run.told() and slurm.show(job, "Restarts") == "1"


def test_controller_away__the_job_goes_on_to_its_end(slurm, submit, gate):
    run = submit(epochs=1)
    gate.hold_after(1, run.folder)
    slurm.stop_controller()
    try:
        gate.open_to(100)
        until(lambda: (run.folder / "done.json").is_file(), "the end without a controller")
    finally:
        slurm.start_controller()
    until(lambda: run.state() == "done", "the controller's word")
