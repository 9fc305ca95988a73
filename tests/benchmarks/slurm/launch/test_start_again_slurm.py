"""What was killed in a job is started again, on a private Slurm with cgroups: out of memory by Slurm's own limit, and
shortly before the time limit."""

import os
import shlex
import sys

import pytest

from benchmarks.slurm import start_again
from benchmarks.slurm.jobs import endings
from benchmarks.stages.error_line import START
from pretrain import ROOT
from tests.benchmarks.slurm.launch.conftest import until
from tests.benchmarks.slurm.launch.slurm_cluster import CGROUPS, Cluster, missing

pytestmark = pytest.mark.slow
ALIVE = ("PENDING", "RUNNING", "COMPLETING")
GREEDY = f"{shlex.quote(sys.executable)} -S -c 'bytearray(300 * 2**20)'"
# As a stage's job does, when its program was killed.
NOTE = """echo '{"exit_code": 137, "message": "stage a was killed"}' > "$1"/ended_0.json"""
SAYS_SO = f"{GREEDY} || {{ {NOTE}; exit 137; }}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    why_not = missing()
    if not why_not and not os.access(CGROUPS, os.W_OK):
        why_not = f"no cgroups of version 1 in {CGROUPS}"
    if why_not:
        pytest.skip(f"no Slurm that limits memory: {why_not}")
    with Cluster(tmp_path_factory.mktemp("slurm") / "cluster", memory=True) as made:
        yield made


@pytest.fixture
def run(cluster, tmp_path):
    """run(shell lines of each start of the first job of an array): its state, and what it printed; its notes are in
    tmp_path/0. The other job just waits. It has 100 MB."""
    for name in ("0", "1"):
        (tmp_path / name).mkdir()

    def submit(*starts: str, retries: int = 2, minutes: int = 60) -> tuple[str, str]:
        cases = "".join(f"{number}) {lines};; " for number, lines in enumerate(starts, 1))
        task = (f'echo "{START})"; echo >> $1/starts; [ $1 = 0 ] || exec sleep 15; '
                f"case $(wc -l < $1/starts) in {cases}esac")
        script = ["#!/bin/bash", f"export PYTHONPATH={shlex.quote(str(ROOT))}", f"cd {shlex.quote(str(tmp_path))}",
                  *start_again.shell_lines(["0", "1"], tmp_path, retries, 1, 60),
                  f"srun --kill-on-bad-exit=1 sh -c {shlex.quote(task)} sh $SLURM_ARRAY_TASK_ID"]
        (tmp_path / "job.sh").write_text("\n".join(script) + "\n")
        options = ("--array=0-1", "--requeue", "--mem=100M", f"--time={minutes}", "--signal=USR2@60",
                   "--open-mode=append", f"--output={tmp_path}/%A_%a_0_log.out")
        array = cluster.run("sbatch", *options, str(tmp_path / "job.sh")).split()[-1]
        for job in (f"{array}_1", f"{array}_0"):
            until(lambda job=job: cluster.show(job, "JobState") not in ALIVE, "the end of the job")
        submit.restarts = [cluster.show(f"{array}_{place}", "Restarts") for place in (0, 1)]
        return cluster.show(job, "JobState"), (tmp_path / f"{job}_0_log.out").read_text()

    submit.notes = tmp_path / "0"
    return submit


def test_out_of_memory__a_task_and_a_tasks_program_are_started_again(run):
    state, told = run("kill -KILL $$", GREEDY, SAYS_SO, "true", retries=3)
    assert state == "COMPLETED", told
    assert "\nkilled (SIGKILL or out of memory): started again, 1 of 3 times\n" in told
    assert "\nout of memory: started again, 2 of 3 times\n" in told
    assert "\nstage a was killed: started again, 3 of 3 times\n" in told


def test_out_of_memory__each_time_is_said(run):
    state, told = run(GREEDY, GREEDY, GREEDY)
    assert state == "FAILED", told
    [ending] = endings(run.notes)
    assert ending.exit_code == 137 and ending.message == (
        "out of memory, the last of 3 starts: give it more memory (--mem-gb), then `clove retry --failed` resumes")


def test_own_fault__after_one_that_was_out_of_memory_is_not_started_again(run):
    state, told = run(GREEDY, "exit 1", "true")
    assert state == "FAILED" and told.count("started again") == 1


def test_time_limit__that_comes_between_two_starts_requeues_the_job(run):
    """Of an array, alone: the warning, 60 s before the limit and perhaps a minute early, reached nobody."""
    state, told = run("kill -KILL $$", "true", minutes=2)
    assert state == "COMPLETED", told
    assert "\nkilled (SIGKILL or out of memory): requeued, 1 of 2 times\n" in told
    assert run.restarts == ["1", "0"]
