"""Jobs on a real Slurm: what they compute is what a run alone computes, whatever happens to them."""

import os
import signal
import time
from pathlib import Path

import pytest

from benchmarks.cluster import ClusterOptions
from benchmarks.follow import Ending, Submission, state, wait
from benchmarks.launch import submit
from pretrain.errors import UserError
from tests.benchmarks.launch.conftest import until

pytestmark = pytest.mark.slow


def end_of(submission: Submission, seconds: float = 400.0) -> Ending:
    """How the job ended; the test fails when it does not."""
    late = time.monotonic() + seconds
    ending = wait(submission, lambda: int(time.monotonic() > late))
    assert "no longer waited for" not in ending.message, submission.log().read_text()
    return ending


def told(submission: Submission) -> str:
    """What the first process has printed so far."""
    return submission.log().read_text() if submission.log().is_file() else ""


def task(submission: Submission) -> int:
    """Process number of a job's only task, which runs on this machine; its loader's workers have the same words."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"submitit.core._submit" in words and os.fsencode(submission.folder) in words and b"srun" not in words[0]:
            found[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
    (first,) = (number for number, parent in found.items() if parent not in found)
    return first


def test_two_nodes_of_two_processes__equal_a_run_without_cluster(slurm, photos, tiny, tmp_path, same):
    output = tmp_path / "a name, 'quoted'"
    submission = submit(tiny(epochs=1), photos, output, ClusterOptions("slurm", nodes=2, gpus_per_node=2, minutes=20))
    assert end_of(submission) == Ending(0, str(output / "backbone.safetensors"))
    assert slurm.show(submission.job_id, "NodeList") == "node[1-2]"
    assert "fp32 on cpu x 4" in told(submission)
    same(output, 4, 1)


def test_job__disturbed_in_every_way_equals_one_left_alone(slurm, photos, tiny, tmp_path, gate, same, resumed):
    """Preempted; told to save by a signal; requeued without a word; killed, then requeued by hand."""
    output = tmp_path / "out"
    submission = submit(tiny(epochs=6, workers=1), photos, output, ClusterOptions("slurm", minutes=20))
    job = submission.job_id

    gate.hold_after(1, output)
    slurm.run("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    until(lambda: told(submission).count("SIGUSR2 received") == 1, "preemption")
    gate.pass_to(2, output)
    until(lambda: resumed(submission) == [2], "back after a preemption")

    gate.hold_after(3, output)
    slurm.run("scancel", "--signal=USR2", job)
    until(lambda: told(submission).count("SIGUSR2 received") == 2, "the signal")
    gate.pass_to(4, output)
    until(lambda: resumed(submission) == [2, 4], "back after a signal")

    gate.hold_after(5, output)
    before = told(submission).count("SIGTERM received")
    slurm.run("scontrol", "requeue", job)
    until(lambda: told(submission).count("SIGTERM received") > before, "the end of a bare requeue")
    gate.pass_to(6, output)
    until(lambda: resumed(submission) == [2, 4, 6], "back after a bare requeue")
    assert told(submission).count("SIGUSR2 received") == 2  # this one really came without

    gate.hold_after(9, output)
    os.kill(task(submission), signal.SIGKILL)
    ending = end_of(submission)
    assert ending.exit_code == 1 and "it ended (FAILED) without a word of its own: it was killed" in ending.message
    slurm.run("scontrol", "requeue", job)
    gate.open_to(100)
    until(lambda: (output / "done.json").is_file(), "the end")
    assert end_of(submission).exit_code == 0
    assert resumed(submission) == [2, 4, 6, 8]
    assert slurm.show(job, "Restarts") == "4"
    same(output, 1, 6)


def test_node_failure__the_job_comes_back_on_the_other_node(slurm, photos, tiny, tmp_path, gate, same, resumed):
    output = tmp_path / "out"
    submission = submit(tiny(epochs=6, workers=1), photos, output, ClusterOptions("slurm", minutes=20))
    gate.hold_after(3, output)
    failed = slurm.show(submission.job_id, "NodeList")
    slurm.fail_node(failed)
    try:
        gate.open_to(100)
        until(lambda: (output / "done.json").is_file(), "the end")
        assert end_of(submission).exit_code == 0
        assert slurm.show(submission.job_id, "NodeList") not in ("", failed)
    finally:
        slurm.mend_node(failed)
    assert resumed(submission) == [2] and slurm.show(submission.job_id, "Restarts") == "1"
    same(output, 1, 6)


def test_time_limit__the_job_saves_comes_back_and_ends_equal(slurm, photos, tiny, tmp_path, gate, same):
    output = tmp_path / "out"
    submission = submit(tiny(epochs=6), photos, output, ClusterOptions("slurm", minutes=1, signal_delay=30))
    gate.open_to(1)
    until(lambda: "SIGUSR2 received" in told(submission), "the signal before the time limit")
    slurm.run("scontrol", "update", f"JobId={submission.job_id}", "TimeLimit=20")  # enough for the second start
    gate.open_to(100)
    assert end_of(submission).exit_code == 0
    assert "this job is timed-out" in told(submission) and slurm.show(submission.job_id, "Restarts") == "1"
    same(output, 1, 6)


def test_failing_job__says_why_in_one_line(slurm, tiny, tmp_path):
    output = tmp_path / "out"
    submission = submit(tiny(), tmp_path / "absent", output, ClusterOptions("slurm", minutes=5, tasks_per_node=2))
    ending = end_of(submission)
    assert ending.exit_code == 2
    assert ending.message.startswith(f"image folder {tmp_path / 'absent'} does not exist: expected a folder of images")
    assert "Traceback" not in told(submission)
    assert slurm.show(submission.job_id, "JobState") == "FAILED"


def test_second_job_in_a_folder__is_refused_while_the_first_one_waits(slurm, photos, tiny, tmp_path):
    options = ClusterOptions("slurm", minutes=5, sbatch=(("hold", True),))
    first = submit(tiny(), photos, tmp_path / "out", options)
    with pytest.raises(UserError, match=rf"^job {first.job_id} works in .*out \(PENDING\): wait for it, end it with "
                                        rf"`scancel {first.job_id}`, or choose another --output$"):
        submit(tiny(), photos, tmp_path / "out", options)
    slurm.run("scancel", first.job_id)
    assert state(first) == "CANCELLED"
    second = submit(tiny(), photos, tmp_path / "out", options)
    slurm.run("scancel", second.job_id)
    assert second.code == first.code and second.folder != first.folder


@pytest.mark.parametrize(("options", "why"), [
    ({"partition": "nope"}, "invalid partition specified: nope; Batch job submission failed: Invalid partition name "
                            "specified"),
    ({"gpus_per_node": 3}, "Batch job submission failed: Requested node configuration is not available"),
    ({"mem_gb": 9999}, "Memory specification can not be satisfied; Batch job submission failed: "),
])
def test_what_slurm_refuses__arrives_as_one_line_and_leaves_nothing(slurm, photos, tiny, tmp_path, options, why):
    with pytest.raises(UserError) as refused:
        submit(tiny(batch_size=12), photos, tmp_path / "out", ClusterOptions("slurm", minutes=5, **options))
    assert str(refused.value).startswith(f"sbatch refused the job: {why}") and "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_wait__gives_up_when_slurm_does_not_answer_and_the_job_goes_on(slurm, photos, tiny, tmp_path, gate):
    output = tmp_path / "out"
    submission = submit(tiny(epochs=1), photos, output, ClusterOptions("slurm", minutes=20))
    gate.hold_after(1, output)
    slurm.stop_controller()
    try:
        ending = wait(submission, patience=0.0)
        assert ending.exit_code == 1 and ending.message.startswith("no answer from Slurm for 0 s; the job may go on")
        gate.open_to(100)
        until(lambda: (output / "done.json").is_file(), "the end without a controller")
    finally:
        slurm.start_controller()
    assert end_of(submission).exit_code == 0
