"""A process of a job that waits in vain ends within seconds of Slurm's signals; submitit's handler is a stand-in."""

import json
import signal
import subprocess
import sys

import pytest

from tests.pretrain.conftest import environment  # noqa: F401 (a fixture)

CODE = """
import signal, sys, time
from pathlib import Path
import submitit
from benchmarks.slurm import launch
from benchmarks.slurm.job_signals import JobSignals
from pretrain.common import stalls

stalls.PATIENCE = 0.5
rank, answer = int(sys.argv[2]), sys.argv[3]

class Waits(launch.Job):
    folder, code = Path(sys.argv[1]), Path()

    def work(self, job, signals):
        pass

def handler(number, frame):
    if rank == 0 and answer == "requeued":
        print("requeued", flush=True)
        sys.exit(-1)
    if rank == 0:
        raise submitit.core.utils.UncompletedJobError(answer)

signal.signal(signal.SIGUSR2, handler)
with JobSignals() as signals, Waits().ended_when_stalled(rank, signals):
    print("ready", flush=True)
    while True:
        time.sleep(60)
"""
NOT_WITHIN = "this process did not get on within 0 s, perhaps it waits for another one or for images"


@pytest.fixture
def ended(tmp_path, environment):  # noqa: F811
    """ended(signals..., rank=..., answer=...): exit code of a process that gets them, what it printed, and its note."""
    def run(*numbers: int, rank: int = 0, answer: str = "requeued") -> tuple[int, str, str | None]:
        process = subprocess.Popen([sys.executable, "-P", "-c", CODE, str(tmp_path), str(rank), answer],
                                   env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline() == "ready\n"
            for number in numbers:
                process.send_signal(number)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        note = tmp_path / f"ended_{rank}.json"
        message = json.loads(note.read_text())["message"] if note.is_file() else None
        return process.returncode, out, message

    return run


def test_sigterm__leaves_with_143_and_a_note(ended):
    code, out, note = ended(signal.SIGTERM)
    assert (code, out) == (143, "") and note == (
        f"stopped by SIGTERM: {NOT_WITHIN}; nothing was saved after the newest checkpoint, run the same command again "
        "to resume")


@pytest.mark.parametrize("numbers", [[signal.SIGUSR2], [signal.SIGTERM, signal.SIGUSR2]], ids=["limit", "preemption"])
def test_sigusr2__requeues_the_job_and_leaves_with_75(ended, numbers):
    code, out, note = ended(*numbers)
    assert code == 75 and out.endswith("requeued\n") and note is None


def test_sigusr2__another_process_than_the_first_does_not_look_like_a_failure(ended):
    """srun would end the first one, which requeues the job."""
    code, _, note = ended(signal.SIGUSR2, rank=1)
    assert code == 0 and note is None


def test_sigusr2__what_cannot_be_requeued_says_so(ended):
    code, _, note = ended(signal.SIGUSR2, answer="timed-out too many times")
    assert code == 75 and note == (
        f"stopped by SIGUSR2: {NOT_WITHIN}, but the job could not be requeued (timed-out too many times); `clove retry "
        "--failed` resumes it")
