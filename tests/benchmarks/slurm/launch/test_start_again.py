"""The job's own script starts again what was killed in it, with a stand-in of srun."""

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.slurm import start_again
from benchmarks.slurm.jobs import CANCELLED, Ending, endings
from pretrain import ROOT

KILL = "kill -KILL $$"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """job(shell lines of each start, retries=...): exit code, output, and how often srun was started, of an array's
    second job, whose notes are in tmp_path/it's b."""
    notes = tmp_path / "it's b"
    notes.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")

    def run(*starts: str, retries: int = 2) -> tuple[int, str, int]:
        lines = ["#!/bin/bash", f"cd '{tmp_path}'; echo \"$1\" >> started; start=$(wc -l < started)", "cd \"it's b\""]
        lines += [f"[ $start != {number} ] || {{ {text}; }}" for number, text in enumerate(starts, 1)]
        (tmp_path / "srun").write_text("\n".join(lines) + "\n")
        (tmp_path / "srun").chmod(0o755)
        script = [*start_again.shell_lines(["a", "it's b"], tmp_path, retries), "srun 'an argument'", ""]
        done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
                              capture_output=True, text=True, check=False)
        started = (tmp_path / "started").read_text().splitlines()
        assert set(started) == {"an argument"}
        return done.returncode, done.stdout, len(started)

    run.notes = notes
    return run


def note(code: int, rank: int = 0) -> str:
    return f"""echo '{{"exit_code": {code}, "message": "it says {code}", "rank": {rank}}}' > ended_{rank}.json"""


def test_killed__is_started_again_and_the_job_ends_well(job):
    code, told, starts = job(KILL, f"{note(137)}; exit 137", "exit 0")
    assert (code, starts) == (0, 3) and told == (
        "killed (SIGKILL or out of memory): started again, 1 of 2 times\nit says 137: started again, 2 of 2 times\n")
    assert endings(job.notes) == []


def test_killed_too_often__is_said(job):
    assert job(KILL, "exit 253", KILL, "exit 0")[::2] == (137, 3)
    assert endings(job.notes) == [Ending(137, "killed (SIGKILL or out of memory), the last of 3 starts: give it more "
                                              "memory (--mem-gb), then `clove retry --failed` resumes")]


def test_retries_0__turns_it_off(job):
    assert job(KILL, retries=0) == (137, "", 1)
    assert endings(job.notes) == [Ending(137, "killed (SIGKILL or out of memory): give it more memory (--mem-gb), then "
                                              "`clove retry --failed` resumes")]


@pytest.mark.parametrize("code", [1, 2, 3, 127, 139, 143])
def test_own_fault__is_not_started_again(job, code):
    assert job(f"exit {code}") == (code, "", 1)
    assert endings(job.notes) == []


@pytest.mark.parametrize("own", [1, 2, 3, 143])
def test_own_fault_of_one_process__whose_others_srun_killed(job, own):
    assert job(f"{note(own, 1)}; {note(137)}; {KILL}")[::2] == (137, 1)
    assert endings(job.notes)[0] == Ending(own, f"it says {own}", 1)


def test_killed__though_srun_ended_the_process_that_says_so(job):
    assert job(f"{note(137)}; exit 143", "exit 0")[::2] == (0, 2)


def test_own_fault_of_one_process__whose_others_srun_ended(job):
    assert job(f"{note(2, 1)}; {note(137)}; exit 143")[::2] == (143, 1)


def test_cancelled__is_not_started_again(job):
    Path(job.notes, CANCELLED).touch()
    assert job(KILL)[::2] == (137, 1)
