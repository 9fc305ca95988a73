"""Where a job stands and how it ended, from files and from a squeue that plays a part."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import follow
from benchmarks.follow import Ending, Submission, read_submission, state, verdict, wait


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    (tmp_path / "jobs").mkdir()
    made = Submission("7", "slurm", str(tmp_path), str(tmp_path / "jobs"), str(tmp_path / "code"),
                      "2026-01-01T00:00:00+00:00", "ab", {"nodes": 2})
    made.write()
    return made


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """squeue(line, ...): a stand-in that runs one shell line at each call, the last one again and again."""

    def install(*lines: str) -> None:
        (tmp_path / "bin").mkdir()
        for number, line in enumerate(lines, start=1):
            (tmp_path / "bin" / f"line{number}").write_text(line)
        program = tmp_path / "bin" / "squeue"
        program.write_text(f"""#!/bin/sh
cd {tmp_path}/bin; echo "$*" >> calls; n=$(wc -l < calls); [ $n -gt {len(lines)} ] && n={len(lines)}; . ./line$n\n""")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    return install


def test_submission__is_read_as_it_was_written(submission, tmp_path):
    assert read_submission(tmp_path) == submission
    assert read_submission(tmp_path / "other") is None
    assert submission.log(3) == tmp_path / "jobs" / "7_3_log.out"


@pytest.mark.parametrize(("line", "word"), [
    ("echo RUNNING", "RUNNING"), ("true", "GONE"),
    ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "GONE"),
    ("echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1", "NO ANSWER"),
])
def test_state__is_what_squeue_says(submission, squeue, tmp_path, line, word):
    squeue(line)
    assert state(submission) == word
    assert (tmp_path / "bin" / "calls").read_text() == "--noheader --states=all --jobs=7 --format=%T\n"


def test_state__without_squeue_there_is_no_answer(submission, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert state(submission) == "NO ANSWER"


def test_state__another_process_with_a_local_jobs_number_is_not_the_job(submission):
    with subprocess.Popen([sys.executable, "-c", "input()", submission.folder], stdin=subprocess.PIPE) as process:
        words = Path(f"/proc/{process.pid}/cmdline")
        while not words.read_bytes():  # not yet the new program
            pass
        ours = Submission(**vars(submission) | {"cluster": "local", "job_id": str(process.pid)})
        other = Submission(**vars(ours) | {"folder": "/elsewhere"})
        assert (state(ours), state(other)) == ("RUNNING", "GONE")
    assert state(ours) == "GONE"


@pytest.mark.parametrize(("endings", "expected"), [
    ([Ending(1, "RuntimeError: connection closed by peer", 0), Ending(2, "no images", 1)], Ending(2, "no images", 1)),
    ([Ending(2, "no images", 1), Ending(2, "no images", 0)], Ending(2, "no images", 0)),
    ([Ending(1, "RuntimeError: x", 0), Ending(3, "loss is nan", 2)], Ending(3, "loss is nan", 2)),
    ([Ending(143, "stopped after step 4", 0)], Ending(143, "stopped after step 4", 0)),
])
def test_verdict__the_cause_comes_before_what_it_broke(submission, endings, expected):
    for ending in endings:
        ending.write(Path(submission.folder))
    assert verdict(submission, "FAILED") == expected


def test_verdict__a_finished_run_is_well_and_a_silent_end_is_not(submission, tmp_path):
    assert verdict(submission, "OUT_OF_MEMORY") == Ending(
        1, "it ended (OUT_OF_MEMORY) without a word of its own: it was killed, or never started; its log is "
           f"{submission.log()}; submitted again with the same words it goes on")
    (tmp_path / "done.json").write_text("{}")
    assert verdict(submission, "GONE") == Ending(0, str(tmp_path / "backbone.safetensors"))


def test_wait__tells_each_change_and_outlasts_a_controller_that_restarts(submission, squeue, tmp_path, capsys):
    squeue("echo PENDING", "echo RUNNING", "exit 1", "echo RUNNING", f"touch {tmp_path}/done.json; echo COMPLETED")
    assert wait(submission).exit_code == 0
    assert capsys.readouterr().out.replace("job 7: ", "").splitlines() == [
        "PENDING", "RUNNING", "NO ANSWER", "RUNNING", "COMPLETED"]


def test_wait__has_a_limit(submission, squeue):
    squeue("exit 1")
    assert wait(submission, patience=0.0) == Ending(
        1, "no answer from Slurm for 0 s; the job may go on, `squeue -j 7` tells")


def test_wait__asked_to_stop_leaves_a_slurm_job_to_itself(submission, squeue):
    squeue("echo RUNNING")
    assert wait(submission, lambda: 130) == Ending(
        130, "no longer waited for; the job goes on, `scancel 7` ends it")


def test_wait__asked_to_stop_ends_a_local_job_once_and_waits(submission, squeue):
    squeue("echo RUNNING", "echo RUNNING", "echo FAILED")
    Ending(143, "stopped after step 4").write(Path(submission.folder))
    asked = []
    assert wait(submission, lambda: 130, lambda: asked.append(1)).message == "stopped after step 4"
    assert asked == [1]


def test_over__words_of_slurm_that_are_not_the_end():
    assert not any(map(follow.is_over, ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "SUSPENDED", "NO ANSWER")))
