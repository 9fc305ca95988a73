"""Jobs of submitit's local kind: real processes that are started, told to save, and started again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cluster import ClusterOptions
from benchmarks.follow import Ending, Submission, read_submission, state, wait
from benchmarks.launch import submit
from benchmarks.options import ROOT
from pretrain.drill import saved_steps
from tests.benchmarks.launch.conftest import until

pytestmark = pytest.mark.slow


def process_of(submission: Submission, rank: int) -> int:
    """The process number of one of the job's tasks: a child of the controller."""
    controller = submission.job_id
    for child in Path(f"/proc/{controller}/task/{controller}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if f"SUBMITIT_LOCAL_GLOBALID={rank}".encode() in variables:
            return int(child)
    raise AssertionError(f"no process {rank} of job {controller}")


def test_one_process_is_told_to_save__both_do_come_back_and_end_equal(photos, tiny, tmp_path, gate, same, resumed):
    output = tmp_path / "out"
    submission = submit(tiny(epochs=2), photos, output, ClusterOptions(tasks_per_node=2))
    gate.hold_after(1, output, processes=2)
    os.kill(process_of(submission, 1), signal.SIGUSR2)
    until(lambda: "SIGUSR2 received" in submission.log(1).read_text(), "the signal")
    assert state(submission) == "RUNNING" and saved_steps(output) == []
    # Another copy of the code lies where the job was submitted from; the job keeps its own.
    (gate.root / "pretrain" / "train.py").write_text("raise SystemExit('edited after the submission')")
    gate.open_to(100)
    assert wait(submission) == Ending(0, str(output / "backbone.safetensors"))
    assert resumed(submission) == [2] and "SIGUSR2 received" not in submission.log(0).read_text()
    same(output, 2, 2)


def test_command_line__ctrl_c_saves_and_the_same_words_go_on(photos, words, tmp_path, gate, same):
    output = tmp_path / "out"
    command = [sys.executable, "-P", "-m", "benchmarks.launch", "pretrain", "--",
               *words(photos, output, epochs=3, checkpoint_every=100)]
    environment = os.environ | {"PYTHONPATH": str(gate.root)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        gate.hold_after(1, output)
        submission = read_submission(output)
        os.kill(process_of(submission, 0), signal.SIGINT)  # Ctrl-C reaches all processes of a terminal
        first.send_signal(signal.SIGINT)
        until(lambda: "SIGTERM received" in submission.log().read_text(), "the signal, passed on")
        gate.open_to(100)
        printed, said = first.communicate(timeout=120)
    assert saved_steps(output) == [2] and first.returncode == 130
    assert said == (f"error: job {submission.job_id}: stopped after step 2, saved; start again with "
                    "the same words to go on\n")
    assert f"its log is {submission.log()}" in printed
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines()[-1] == str(output / "backbone.safetensors")
    same(output, 1, 3)


def test_command_line__a_failing_job_gives_one_line_and_its_code(words, tmp_path):
    command = [sys.executable, "-P", "-m", "benchmarks.launch", "pretrain", "--", *words(tmp_path, tmp_path / "out")]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                           timeout=300, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: job {read_submission(tmp_path / 'out').job_id}: ") and str(tmp_path) in line
