"""Whole graphs on a real Slurm: they end as a run on this machine does, whatever happens to their jobs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision

from benchmarks.slurm import cancel, jobs, logs, retry, status
from benchmarks.stages.saved_plan import read_plan
from pretrain import ROOT
from pretrain.common.errors import UserError
from tests.benchmarks.slurm.graph.conftest import ON_SLURM, until

pytestmark = pytest.mark.slow


def states(output: Path) -> dict[str, str]:
    return {row.stage: row.state for row in status.snapshot(read_plan(output))}


def end_of(output: Path, capsys, seconds: float = 280.0) -> tuple[int, str]:
    """Exit code and last line of `status` when nothing waits or runs any more."""
    late = time.monotonic() + seconds
    while True:
        code = status.main(["--output", str(output)])
        shown = capsys.readouterr().out
        if code != status.GOING:
            return code, shown.strip().splitlines()[-1]
        assert time.monotonic() < late, shown
        time.sleep(1)


def task_of(record: jobs.StageRecord) -> int:
    """Process number of a job's only task, which runs on this machine."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            environment = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if (b"submitit.core._submit" in words and b"srun" not in words[0]
                and f"SLURM_JOB_ID={record.job_id}".encode() in environment):
            return int(place.name)
    raise AssertionError(f"no process of job {record.job_id}")


def same_fine_tuning(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weights, bit for bit, and the same figures."""
    first, second = weights(one), weights(other)
    metrics = [json.loads((folder / "result.json").read_text())["metrics"] for folder in (one, other)]
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first) \
        and metrics[0] == metrics[1]


def run_here(words: list[str]) -> None:
    subprocess.run([sys.executable, "-P", "-m", "benchmarks", *words], check=True, capture_output=True, timeout=400)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=True, map_location="cpu")["model"]


def test_graph__equals_a_run_on_this_machine_though_a_process_was_killed(slurm, words, run_all, tmp_path, capsys):
    output, here = tmp_path / "out", tmp_path / "here"
    there = words(*ON_SLURM, coco__SOLVER__MAX_ITER="5")
    assert run_all(there) == 0
    assert "status --watch --output" in capsys.readouterr().out
    assert set(states(output).values()) <= set(status.ALIVE)

    assert run_all(there) == 0  # a second time while they are alive
    assert capsys.readouterr().out.endswith("nothing to submit: 0 of 4 stages done; under way: pretrain-clove, "
                                              "convert-clove, finetune-clove-coco-0, finetune-rand-coco-0\n")
    with pytest.raises(UserError, match=r"^job \d+ \(stage \S+\) works in .*/out: end the jobs with `clove"):
        run_all(words(coco__SOLVER__MAX_ITER="5"))
    with pytest.raises(UserError, match=r"^job \d+ works on stage finetune-clove-coco-0 with other values or inputs"):
        run_all(words(*ON_SLURM, coco__SOLVER__MAX_ITER="7"))

    records = jobs.newest(output)
    random, pretrained = records["finetune-rand-coco-0"], records["finetune-clove-coco-0"]
    until(lambda: list(output.glob("finetune-rand-coco-0-*/model_000000[0-3].pth")), "a checkpoint", 200)
    os.kill(task_of(random), signal.SIGKILL)
    until(lambda: "(SIGKILL or out of memory): started again, 1 of 2" in random.log().read_text(), "another start")
    until(lambda: list(output.glob("finetune-clove-coco-0-*/model_000000[0-3].pth")), "a checkpoint", 200)
    slurm.run("scancel", "--signal=USR2", pretrained.job_id)  # as before a time limit, and at a preemption
    assert end_of(output, capsys) == (0, "all 5 stages done")
    assert [slurm.show(job, "Restarts") for job in (pretrained.job_id, random.job_id)] == ["1", "0"]
    assert "SIGUSR2 received" in pretrained.log().read_text()

    run_here(words(output=here, coco__SOLVER__MAX_ITER="5"))
    assert states(here) == {name: "done" for name in states(output) if name != "tables"}
    # The names hold the keys: with those of the parents' outputs, so that these are equal too.
    stages = [path.parent.name for path in sorted(output.glob("*/stage.json"))]
    assert stages == [path.parent.name for path in sorted(here.glob("*/stage.json"))] and len(stages) == 4
    assert all(same_fine_tuning(output / name, here / name) for name in stages if name.startswith("finetune"))
    assert len(list((output / "results" / "runs").glob("*.json"))) == 2
    figures = [json.loads(path.read_text())["code"]["git_sha"] for path in (output / "results" / "runs").glob("*.json")]
    assert figures == [json.loads(next(output.glob("jobs/code-*/code.json")).read_text())["git_sha"]] * 2
    assert (output / "results" / "tables" / "tables.md").read_text() == (
        here / "results" / "tables" / "tables.md").read_text()
    assert logs.main(["tables", "--output", str(output)]) == 0
    assert "all 4 stages done" in capsys.readouterr().out


def test_fine_tuning__preempted_out_of_time_and_off_a_failed_node_equals_one_left_alone(
    slurm, words, run_all, gate, tmp_path, capsys
):
    """Slurm itself sends the signals, for a job of a higher partition, then before the end of the job's time, and gives
    the job to another node when its own has failed."""
    output, here = tmp_path / "out", tmp_path / "here"
    changes = {"methods": "rand", "coco__SOLVER__MAX_ITER": "4", "coco__SOLVER__CHECKPOINT_PERIOD": "100"}
    gate.open_to(1)
    assert run_all(words(*ON_SLURM, "--signal-delay", "30", **changes)) == 0
    record = jobs.newest(output)["finetune-rand-coco-0"]

    def told(what: str, times: int) -> bool:
        return record.log().is_file() and record.log().read_text().count(what) == times

    gate.wait_for(1)
    slurm.run("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    until(lambda: told("SIGUSR2 received", 1), "preemption")
    gate.open_to(2)
    until(lambda: told("stopped after iteration 2 of 4, saved", 1), "a save")

    gate.wait_for(2)
    hours, minutes, _ = map(int, slurm.show(record.job_id, "RunTime").split(":"))
    soon = 60 * hours + minutes + 2  # one to two minutes from now, however long its start took
    slurm.run("scontrol", "update", f"JobId={record.job_id}", f"TimeLimit={soon}")
    until(lambda: told("SIGUSR2 received", 2), "the signal before the time limit")
    slurm.run("scontrol", "update", f"JobId={record.job_id}", "TimeLimit=20")  # enough for the next start
    gate.open_to(3)
    until(lambda: told("stopped after iteration 3 of 4, saved", 1), "another save")

    gate.wait_for(3)
    failed = slurm.show(record.job_id, "NodeList")
    slurm.fail_node(failed)
    try:
        gate.open_to(100)
        assert end_of(output, capsys) == (0, "all 2 stages done")
        assert slurm.show(record.job_id, "NodeList") not in ("", failed)
    finally:
        slurm.mend_node(failed)
    assert slurm.show(record.job_id, "Restarts") == "3"

    run_here(words(output=here, **changes))
    [ended], [undisturbed] = (list(folder.glob("finetune-rand-coco-0-*")) for folder in (output, here))
    assert same_fine_tuning(ended, undisturbed)


def test_tiny__the_whole_graph_with_preflights_in_a_hostile_folder(slurm, run_all, tmp_path, capsys):
    output = tmp_path / "a 'b\" $dir; & {x} \u00e9\u65e5"
    assert run_all(["--tiny", "--device", "cpu", "--preflight", "--probes", "--output", str(output), *ON_SLURM]) == 0
    assert end_of(output, capsys) == (0, "all 15 stages done")
    shown = (output / "results" / "tables" / "demo" / "tables.md").read_text()
    assert shown.count("| DEMO CLoVE ") >= 3 and shown.count("| DEMO Rand init ") >= 3 and "2 iterations" in shown


def test_preflight__of_a_task_that_cannot_train_stops_its_fine_tunings_alone(
    slurm, words, run_all, pictures, tmp_path, capsys
):
    output, disk = tmp_path / "out", tmp_path / "disk of the node"
    disk.mkdir()
    assert run_all(words("--tasks", "coco,keypoints", "--keypoints", str(pictures / "keypoints"), "--preflight",
                         "--local-disk", str(disk), *ON_SLURM, methods="rand", keypoints__SOLVER__BASE_LR="1e30")) == 0
    code, line = end_of(output, capsys)
    assert code == 1 and "preflight-keypoints" in line
    assert states(output) == {"preflight-coco": "done", "preflight-keypoints": "failed", "tables": "done",
                              "finetune-rand-coco-0": "done", "finetune-rand-keypoints-0": "failed"}
    assert logs.main(["finetune-rand-keypoints-0", "--output", str(output)]) == 0
    assert "was not started, because preflight-keypoints failed: stage preflight-keypoints failed (exit code" in \
        capsys.readouterr().out
    assert logs.main(["preflight-keypoints", "--output", str(output)]) == 0
    assert "the loss became infinite or NaN" in capsys.readouterr().out
    copies = {path.name.rpartition("-")[0] for path in disk.glob("*/*") if path.is_dir()}
    assert copies == {"coco", "keypoints"}
    log = json.loads((next(output.glob("finetune-rand-coco-0-*")) / "result.json").read_text())
    assert log["dataset"]["val"]["images"] == 2


def test_failed_parent__stops_its_children_alone_and_a_retry_mends_it(
        slurm, words, run_all, tmp_path, capsys, monkeypatch):
    """With two trials, as arrays; and with a Slurm that is gone for a while."""
    output, file = tmp_path / "out", tmp_path / "bad.pth"
    file.write_bytes(b"no checkpoint")
    # It was one when it was planned.
    monkeypatch.setattr("transfer.reading.inspection.check_checkpoint", lambda *_: 64 * "0")
    assert run_all(words("--checkpoint", f"bad={file}", "--trials", "2", "--max-jobs", "2", *ON_SLURM,
                         methods="rand,bad", transfer__SOLVER__CHECKPOINT_PERIOD="100")) == 0
    records = jobs.newest(output)
    until((records["finetune-rand-coco-0"].notes / jobs.STARTED).is_file, "the first fine-tuning")
    slurm.run("scancel", "--signal=USR2", records["finetune-rand-coco-0"].job_id)  # one of an array comes back too
    assert records["finetune-rand-coco-1"].job_id == records["finetune-rand-coco-0"].job_id.replace("_0", "_1")
    assert slurm.show(records["finetune-rand-coco-1"].job_id, "ArrayTaskThrottle") == "1"
    until(lambda: (records["convert-bad"].notes / "ended_0.json").is_file(), "the failure")

    slurm.stop_controller()
    try:
        started = time.monotonic()
        assert status.main(["--output", str(output)]) == status.GOING
        assert time.monotonic() - started < 90
    finally:
        slurm.start_controller()
    shown = capsys.readouterr().out
    assert "Slurm does not answer" in shown and "convert-bad" in shown.splitlines()[-1].partition("failed: ")[2]

    code, line = end_of(output, capsys)
    assert slurm.show(records["finetune-rand-coco-0"].job_id, "Restarts") == "1"
    assert code == 1
    assert line.startswith("error: 3 of 6 stages done; failed: convert-bad; cancelled: finetune-bad-coco-0, "
                           "finetune-bad-coco-1 (convert-bad: stage convert-bad failed (exit code 2)")
    assert logs.main(["convert-bad", "--output", str(output)]) == 0
    assert f"error: {file}" in capsys.readouterr().out

    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    assert retry.main(["--failed", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[-1] for line in shown.splitlines() if line.startswith("job ")] == [
        "convert-bad", "finetune-bad-coco-0", "finetune-bad-coco-1", "tables"]
    assert end_of(output, capsys) == (0, "all 6 stages done")


def test_cancel__ends_all_or_a_stage_with_its_children(slurm, words, run_all, tmp_path, capsys):
    output = tmp_path / "out"
    assert run_all(words(*ON_SLURM, "--sbatch", "hold")) == 0
    where = ["--output", str(output)]
    assert cancel.main(["convert-clove", *where]) == 0
    assert "cancelled: convert-clove, finetune-clove-coco-0;" in capsys.readouterr().out
    assert states(output) == {"pretrain-clove": "waiting", "convert-clove": "cancelled",
                              "finetune-clove-coco-0": "cancelled", "finetune-rand-coco-0": "waiting",
                              "tables": "waiting"}
    assert cancel.main(where) == 0
    assert cancel.main(where) == 0
    assert capsys.readouterr().out.endswith("nothing waits or runs\n")
    code, line = end_of(output, capsys)
    assert code == 1 and line.startswith("error: 0 of 5 stages done; cancelled: pretrain-clove, convert-clove, ")
    with pytest.raises(UserError, match=r"^finetune-x: no job of such a stage; there are pretrain-clove, convert-"):
        cancel.main(["finetune-x", *where])


@pytest.mark.parametrize("own", [(), ("--sbatch", "comment=project 7")])
def test_stopped_submission__goes_on_with_its_job(slurm, words, run_all, tmp_path, capsys, monkeypatch, own):
    """sbatch kills who called it when Slurm has the job; the user's own variables hide all jobs of this account."""
    monkeypatch.setenv("SQUEUE_ACCOUNT", "other")
    monkeypatch.setenv("SCANCEL_ACCOUNT", "other")
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@" && kill -KILL $(cut -d" " -f4 /proc/$PPID/stat)\n')
    sbatch.chmod(0o755)
    output, there = tmp_path / "out", words(*ON_SLURM, "--sbatch", "hold", "--trials", "2", *own, methods="rand")
    ended = subprocess.run([sys.executable, "-P", "-m", "benchmarks", *there], check=False, capture_output=True,
                           cwd=ROOT, timeout=300,
                           env=os.environ | {"PATH": f"{sbatch.parent}:{os.environ['PATH']}"})
    assert ended.returncode == -signal.SIGKILL
    [array, _] = found = [record.job_id for record in jobs.newest(output).values()]
    assert found == [array, array.replace("_0", "_1")] and slurm.show(array, "JobState") == "PENDING"
    assert run_all(there) == 0
    told = capsys.readouterr()
    assert f"found job {array}\n" in told.err and [line.split()[-1] for line in told.out.splitlines()
                                                   if line.startswith("job ")] == ["tables"]
    assert all(Path(record.folder, f"{record.job_id}_submitted.pkl").is_file()
               for record in jobs.newest(output).values())
    assert cancel.main(["--output", str(output)]) == 0
    until(lambda: set(states(output).values()) == {"cancelled"}, "the end of the jobs", 60)


def test_what_slurm_refuses__is_one_line_and_leaves_nothing(slurm, words, run_all, tmp_path, monkeypatch):
    output = tmp_path / "out"
    with pytest.raises(UserError, match=r"^sbatch refused the job: invalid partition specified: nope; "):
        run_all(words(*ON_SLURM, "--partition", "nope"))
    assert not output.exists()
    file = tmp_path / "mine.pth"
    file.write_bytes(b"x")
    monkeypatch.setattr("transfer.reading.inspection.check_checkpoint", lambda *_: 64 * "0")
    before = set(slurm.run("squeue", "--noheader", "--states=all", "--format=%i").split())
    with pytest.raises(UserError, match=r"^sbatch refused the job: .*Requested node configuration is not available"):
        run_all(words(*ON_SLURM, "--checkpoint", f"mine={file}", "--cpus-per-task", "9", methods="mine"))
    new = set(slurm.run("squeue", "--noheader", "--states=all", "--format=%i").split()) - before
    ended = sorted(slurm.show(job, "JobState") for job in new)
    assert ended == ["CANCELLED", "FAILED"]  # the conversion, handed over before, and the one that was refused
    assert not output.exists()


def test_output_that_the_nodes_do_not_see__is_said(slurm, words, run_all, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    slurm.hide(output)
    assert run_all(words(*ON_SLURM, methods="rand")) == 0
    code, line = end_of(output, capsys)
    [folder] = output.glob("jobs/*-*-*/")
    assert code == 1 and line == (
        "error: 0 of 2 stages done; failed: finetune-rand-coco-0, tables (finetune-rand-coco-0: it ended (FAILED, "
        f"JobLaunchFailure); it left no log: its node does not see {folder}; choose an --output that all nodes see); "
        "`clove retry --failed` resumes")


def test_exit_code__of_the_command_itself(slurm, words):
    ended = subprocess.run([sys.executable, "-P", "-m", "benchmarks", *words(*ON_SLURM, "--partition", "nope",
                                                                            methods="rand")],
                           capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and ended.stderr.startswith("error: sbatch refused")
