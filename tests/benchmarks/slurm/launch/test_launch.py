"""One process of a job, in this process."""

import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import submitit

from benchmarks.slurm import job_signals, launch
from benchmarks.slurm.job_signals import JobSignals
from benchmarks.slurm.jobs import Ending
from pretrain import ROOT
from pretrain.config import Config
from pretrain.runs.drill import logged_steps, saved_steps
from pretrain.trainer import Trainer


@dataclass(frozen=True)
class Pretraining(launch.Job):
    """One process of a pretraining, without a graph around it."""

    config: Config
    data: Path
    output: Path
    folder: Path
    code: Path

    def work(self, job, signals):
        return launch.run_pretraining(self.config, self.data, self.output, job, signals)


Uncompleted = submitit.core.utils.UncompletedJobError
USR2 = signal.SIGUSR2


@pytest.fixture
def in_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a local job of one process."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "left from somewhere")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "4711")
    monkeypatch.setattr(launch, "GRACE", 0.0)


@pytest.fixture
def submitits():
    """The place of submitit's handler of SIGUSR2: calls are noted, and do what `answers` says, one after the other."""
    seen = SimpleNamespace(calls=0, answers=[SystemExit(144)])

    def handler(number, frame):
        seen.calls += 1
        answer = seen.answers.pop(0)
        if answer is not None:
            raise answer

    before = signal.signal(USR2, handler)
    yield seen
    signal.signal(USR2, before)


@pytest.fixture
def make_job(tiny, photos, tmp_path):
    def make(**changes) -> Pretraining:
        (tmp_path / "jobs").mkdir(exist_ok=True)
        values = {"config": tiny(epochs=1), "data": photos, "output": tmp_path / "out", "folder": tmp_path / "jobs",
                  "code": ROOT}
        return Pretraining(**values | changes)

    return make


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch):
    """signal_at(step, number): the process gets a signal when that step, from 0, begins."""

    def install(step: int, number: int) -> None:
        original = Trainer.step

        def stepping(self, at, batches):
            if at == step:
                signal.raise_signal(number)
            return original(self, at, batches)

        monkeypatch.setattr(Trainer, "step", stepping)

    return install


def test_job__told_to_save_is_requeued_by_submitit_and_goes_on(
    in_job, submitits, make_job, signal_at, tmp_path, capfd
):
    signal_at(0, USR2)
    job = pickle.loads(pickle.dumps(make_job()))
    with pytest.raises(SystemExit) as left:
        job()
    assert left.value.code == 144 and submitits.calls == 1  # submitit's own way out, taken after the save
    assert saved_steps(tmp_path / "out") == [1] and list((tmp_path / "jobs").iterdir()) == []
    assert job.checkpoint().function is job
    assert job() == str(tmp_path / "out" / "backbone.safetensors")
    assert "resumes from step 1 of 2" in capfd.readouterr().out
    assert logged_steps(tmp_path / "out") == [1, 2] and submitits.calls == 1


def test_job__stopped_by_sigterm_leaves_with_143_and_says_so(in_job, submitits, make_job, signal_at, tmp_path, capfd):
    signal_at(0, signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        make_job()()
    assert left.value.code == 143 and submitits.calls == 0
    told = "stopped after step 1, saved; run the same command again to resume"
    note = json.loads((tmp_path / "jobs" / "ended_0.json").read_text())
    assert note == {"exit_code": 143, "message": told, "rank": 0}
    assert f"error: {told}" in capfd.readouterr().err and saved_steps(tmp_path / "out") == [1]


def test_job__a_users_mistake_is_one_line_and_exit_code_2(in_job, submitits, make_job, tmp_path, capfd):
    with pytest.raises(SystemExit) as left:
        make_job(data=tmp_path / "absent")()
    printed = capfd.readouterr()
    assert left.value.code == 2 and "Traceback" not in printed.err
    assert printed.err.startswith(f"error: image folder {tmp_path / 'absent'} does not exist")


def test_job__other_sources_than_those_submitted_are_refused(in_job, submitits, make_job, tmp_path, capfd):
    with pytest.raises(SystemExit) as left:
        make_job(code=tmp_path)()
    assert left.value.code == 2
    assert capfd.readouterr().err == (
        f"error: expected the sources of the submission, {tmp_path}, found those of {ROOT}: a --setup line or the "
        "node's own start-up files change PYTHONPATH\n")


def test_job__our_own_mistake_keeps_its_traceback_and_leaves_a_note(
    in_job, submitits, make_job, tmp_path, monkeypatch
):
    def broken(*_):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(Trainer, "step", broken)
    with pytest.raises(RuntimeError, match="two"):
        make_job()()
    assert json.loads((tmp_path / "jobs" / "ended_0.json").read_text()) == {
        "exit_code": 1, "message": "RuntimeError: two lines", "rank": 0}


def test_job__meets_the_others_at_a_port_of_its_own_number(in_job, submitits, make_job, tmp_path, capfd):
    with pytest.raises(SystemExit):
        make_job(data=tmp_path / "absent")()
    assert {name: os.environ[name] for name in ("MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK")} == {
        "MASTER_PORT": "14711", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def test_deaf__a_process_without_handlers_outlives_the_jobs_signals_and_then_hears_them():
    program = ("import os, signal; [os.kill(os.getpid(), s) for s in (signal.SIGUSR2, signal.SIGTERM)]; "
               "signal.signal(signal.SIGUSR2, lambda *_: print('heard')); os.kill(os.getpid(), signal.SIGUSR2)")
    command = [*shlex.split(job_signals.DEAF), sys.executable, "-c", program, "a 'word'"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "heard\n"


def leave(job: Pretraining, code: int, rank: int = 0, received: tuple[int, ...] = ()):
    """The end of a process that has saved: its `Ending`, or the code that it exits with."""
    with JobSignals() as signals:
        signals.received.update(received)
        try:
            return job._leave(signals, Ending(code, "saved", rank))
        except SystemExit as left:
            return left.code


def test_leave__other_processes_than_the_first_end_without_a_result(submitits, make_job, tmp_path):
    submitits.answers = [None]  # submitit's handler returns in them
    assert leave(make_job(), 75, rank=1) == 0
    assert list((tmp_path / "jobs").iterdir()) == []


def test_leave__a_controller_that_was_away_is_asked_again(submitits, make_job, monkeypatch):
    monkeypatch.setattr(job_signals, "REQUEUE_PAUSE", 0.0)
    away = subprocess.CalledProcessError(1, ["scontrol", "requeue", "7"])
    submitits.answers = [away, subprocess.TimeoutExpired("scontrol", 60), SystemExit(255)]
    assert leave(make_job(), 75) == 255
    submitits.answers = [away] * job_signals.REQUEUE_TRIES
    assert leave(make_job(), 75) == Ending(
        75, f"saved, but the job could not be requeued ({away}); `clove retry --failed` resumes it")


def test_leave__submitit_has_had_enough(submitits, make_job):
    submitits.answers = [Uncompleted("Job not requeued because: timed-out too many times.")]
    assert leave(make_job(), 75).message == (
        "saved, but the job could not be requeued (Job not requeued because: timed-out too many times.); "
        "`clove retry --failed` resumes it")


def test_leave__after_sigterm_a_preemption_may_still_say_so(submitits, make_job, tmp_path):
    """Slurm sends SIGTERM first; a process that left at once would end the job for good."""
    timer = threading.Timer(0.3, os.kill, (os.getpid(), USR2))
    timer.start()
    assert leave(make_job(), 143, received=(signal.SIGTERM,)) == 144
    timer.join()
    assert submitits.calls == 1 and list((tmp_path / "jobs").iterdir()) == []


def test_leave__after_sigterm_alone_the_note_is_there_before_the_kill(submitits, make_job, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(job_signals.JobSignals, "wait_for_usr2",
                        lambda _, seconds: seen.append((seconds, (tmp_path / "jobs" / "ended_0.json").is_file())))
    assert leave(make_job(), 143) == Ending(143, "saved")
    assert seen == [(job_signals.GRACE, True)] and submitits.calls == 0


def test_submitit__is_imported_by_launch_alone():
    importers = [path.name for package in ("pretrain", "transfer", "benchmarks")
                 for path in (ROOT / package).rglob("*.py")
                 if any(line.lstrip().startswith(("import submitit", "from submitit"))
                        for line in path.read_text(encoding="utf-8").splitlines())]
    assert importers == ["launch.py"]
