"""The job's own script starts again what was killed in it, with stand-ins of srun and scontrol."""

import json
import os
import shlex
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.slurm import start_again
from benchmarks.slurm.jobs import AGAIN, CANCELLED, Ending, endings
from pretrain import ROOT
from pretrain.common.stalls import NO_IMAGES, NOT_WITHIN

KILL = "kill -KILL $$"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """job(shell lines of each start, retries=...): exit code, output, and how often srun was started, of an array's
    second job of so many tasks, whose notes are in tmp_path/it's b. scontrol shows what is in tmp_path/shown."""
    notes = tmp_path / "it's b"
    notes.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\ncd '{tmp_path}'; echo \"$@\" >> asked\n"
                                      "[ $1 = requeue ] || cat shown\n")
    (tmp_path / "scontrol").chmod(0o755)

    def run(*starts: str, retries: int = 2, tasks: int = 1) -> tuple[int, str, int]:
        lines = ["#!/bin/bash", f"cd '{tmp_path}'; echo \"$1\" >> started; start=$(wc -l < started)", "cd \"it's b\""]
        lines += [f"[ $start != {number} ] || {{ {text}; }}" for number, text in enumerate(starts, 1)]
        (tmp_path / "started").unlink(missing_ok=True)
        (tmp_path / "srun").write_text("\n".join(lines) + "\n")
        (tmp_path / "srun").chmod(0o755)
        script = [*start_again.shell_lines(["a", "it's b"], tmp_path, retries, tasks, 60), "srun 'an argument'", ""]
        done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
                              capture_output=True, text=True, check=False)
        started = (tmp_path / "started").read_text().splitlines()
        assert set(started) == {"an argument"}
        return done.returncode, done.stdout, len(started)

    run.notes, run.shown = notes, tmp_path / "shown"
    run.asked = lambda: (tmp_path / "asked").read_text().splitlines()
    return run


def note(code: int, rank: int = 0, message: str = "") -> str:
    text = json.dumps({"exit_code": code, "message": message or f"it says {code}", "rank": rank})
    return f"echo '{text}' > ended_{rank}.json"


def ends_in(seconds: float) -> str:
    """What scontrol shows of a job with this time limit."""
    end = (datetime.now() + timedelta(seconds=seconds)).isoformat(timespec="seconds")
    return f"JobId=17 Requeue=1 PreemptEligibleTime={end} PreemptTime=None EndTime={end}"


STALL = f"stage b: the loader processes {NO_IMAGES} (DataLoader timed out after 5 seconds)"
ENDED_STALL = f"stopped by SIGTERM: this process {NOT_WITHIN} 20 s"


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


def test_out_of_memory__by_slurms_own_limit(job):
    """srun's code is 1 then; that of a program that fails is too."""
    start = "echo 'INFO - Starting with JobEnvironment(job_id=17)' >> ../16_1_0_log.out"
    says = f"{start}; echo 'srun: error: node1: task 0: Out Of Memory' >> ../16_1_0_log.out"
    assert job(f"{says}; exit 1", f"{says}; {note(137)}; exit 1", "exit 0") == (
        0, "out of memory: started again, 1 of 2 times\nit says 137: started again, 2 of 2 times\n", 3)
    assert job(f"{says}; exit 1", f"{start}; exit 1")[::2] == (1, 2)
    assert job(f"{says}; {note(2)}; exit 1")[::2] == (1, 1)


def test_own_fault_of_one_process__whose_others_srun_ended(job):
    assert job(f"{note(2, 1)}; {note(137)}; exit 143")[::2] == (143, 1)


def test_note_of_a_start_before_a_requeue__is_not_this_ones(job):
    """Its processes were killed after they had saved; a new one may be killed before it removes its note."""
    Ending(143, "stopped after step 5, saved").write(job.notes)
    assert job(KILL, "exit 0")[::2] == (0, 2)


def test_cancelled__is_not_started_again(job):
    Path(job.notes, CANCELLED).touch()
    assert job(KILL)[::2] == (137, 1)


def test_stall__is_started_again_once_and_said(job):
    code, told, starts = job(f"{note(137, message=STALL)}; exit 137", f"{note(137, message=STALL)}; exit 137", "exit 0")
    assert (code, starts) == (137, 2) and told == f"{STALL}: started again, 1 of 1 times\n"
    assert endings(job.notes) == [Ending(137, f"{STALL}, the last of 2 starts: `clove retry --failed` resumes")]


def test_stall__of_one_process_is_the_cause_though_the_others_say_something_else(job):
    other = "another process of this run has ended: see its own message"
    _, told, _ = job(f"{note(137, 0, other)}; {note(137, 1, STALL)}; exit 137", "exit 0", tasks=2)
    assert told == f"{STALL}: started again, 1 of 1 times\n"


def test_stall__that_nccl_ended(job):
    """Its watchdog aborts the process; the other one waits until srun ends it."""
    log = "'[rank1]:[E] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9)' >> ../16_1_1_log.out"
    code, told, starts = job(f"echo {log}; {note(143, 0, ENDED_STALL)}; exit 143", "exit 0", tasks=2)
    assert (code, starts) == (0, 2) and told == (
        "process 1 waited in vain for another one (NCCL; --collective-timeout): started again, 1 of 1 times\n")


def test_killed__beside_one_that_waited_for_it_until_srun_ended_it(job):
    assert job(f"{note(143, 1, ENDED_STALL)}; exit 143", "exit 0", tasks=2) == (
        0, "killed (SIGKILL or out of memory): started again, 1 of 2 times\n", 2)


def test_stalled__when_slurm_ends_the_job_is_not_started_again(job):
    assert job(f"{note(143, 0, ENDED_STALL)}; {note(143, 1, ENDED_STALL)}; exit 143", tasks=2)[::2] == (143, 1)
    assert len(endings(job.notes)) == 2


@pytest.mark.parametrize("start", [KILL, f"{note(143, 0, ENDED_STALL)}; exit 143"])
def test_preempted__between_two_starts_is_left_to_slurm(job, monkeypatch, start):
    """Until Slurm ends and requeues it; a script that ended before would end the job for good."""
    job.shown.write_text(ends_in(9999).replace("PreemptTime=None", "PreemptTime=2026-01-01T00:00:00"))
    waits = ("import sys, types; from benchmarks.slurm import start_again; "  # not time.sleep: subprocess waits with it
             'start_again.time = types.SimpleNamespace(sleep=lambda seconds: print("waits", seconds)); '
             "sys.exit(start_again.main(sys.argv[1:]))")
    monkeypatch.setattr(start_again, "SCRIPT", start_again.SCRIPT.replace("-m benchmarks.slurm.start_again",
                                                                          f"-c {shlex.quote(waits)}"))
    assert job(start)[1:] == ("waits 600.0\n", 1)


@pytest.mark.parametrize(("seconds", "starts"), [(150, 1), (210, 2)])
def test_warning__that_no_start_would_hear_requeues_the_job(job, seconds, starts):
    """Slurm sends it 60 s before the time limit, perhaps a minute early, and nothing hears it between two starts."""
    job.shown.write_text(ends_in(seconds))
    code, told, started = job(KILL, "exit 0")
    assert started == starts and endings(job.notes) == []
    if starts == 1:
        assert job.asked() == ["--oneliner show job 16_1", "requeue 16_1"] and code == 137
        assert told == "killed (SIGKILL or out of memory): requeued, 1 of 2 times\n"
    else:
        assert job.asked() == ["--oneliner show job 16_1"] and code == 0


def test_warning__to_the_script_itself_requeues_the_job(job):
    assert job(f"kill -USR2 $PPID; sleep 0.2; {KILL}")[::2] == (137, 1)
    assert job.asked()[-1] == "requeue 16_1"


def test_requeued__counts_as_a_start(job):
    """The script of the next start counts from 0 again: what is killed each time would come back for ever."""
    job.shown.write_text(ends_in(100))
    assert [job(KILL)[0] for _ in range(2)] == [137, 137] and endings(job.notes) == []
    assert json.loads((job.notes / AGAIN).read_text()) == {
        "message": "killed (SIGKILL or out of memory): requeued, 2 of 2 times", "requeued": 2}
    job(KILL)
    assert "the last of 3 starts: give it more memory" in endings(job.notes)[0].message
    assert job.asked().count("requeue 16_1") == 2
