"""No job is handed over twice or forgotten: stopped submissions, the user's variables, superseded jobs.

Stand-ins of Slurm's commands: sbatch keeps NUMBER|NAME|COMMENT of each job in a file, in which squeue
finds those that run and from which scancel removes them.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import submitit

from benchmarks.options.run_options import parse
from benchmarks.slurm import cancel, commands, job_graph, jobs, retry, status
from benchmarks.slurm.stage_job import StageJob
from pretrain.common.errors import UserError
from tests.benchmarks.slurm.graph.conftest import ON_SLURM, planned

SBATCH = """cd '{place}'
caller=$(cut -d' ' -f4 /proc/$PPID/stat)  # the parent is a `timeout`
name=$(sed -n 's/^#SBATCH --job-name=//p' "$1"); comment=$(sed -n 's/^#SBATCH --comment=//p' "$1")
case $(cat event) in
  "before ${comment%%:*}"|"before ${name%%:*}") kill -KILL $caller; exit;;
  "outlive ${comment%%:*}") kill -KILL $caller; sleep 2;;
  "hang ${comment%%:*}") sleep 2;;
esac
number=$((101 + $(cat count))); echo $((number - 100)) > count
case $(cat event) in
  "late ${comment%%:*}") echo "$number|$name|$comment" > late; echo "sbatch: error: Socket timed out" >&2; exit 1;;
esac
echo "$number|$name|$comment" >> running
case $(cat event) in
  "after ${comment%%:*}"|"after ${name%%:*}") kill -KILL $caller; exit;;
  "timeout ${comment%%:*}") echo "sbatch: error: Batch job submission failed: Socket timed out" >&2; exit 1;;
esac
echo "Submitted batch job $number"
"""
SQUEUE = """cd '{place}'
[ -e away ] && exit 1
[ -n "$SQUEUE_ACCOUNT$SLURM_CLUSTERS" ] && exit 0
for option; do case $option in
  --me) cat running;;
  --jobs=*) for job in $(echo "${option#--jobs=}" | tr , ' '); do
    grep -q "^${job%_*}|" running && echo "$job|RUNNING|None"; done;;
esac; done
exit 0
"""
SCANCEL = """cd '{place}'
[ -n "$SCANCEL_ACCOUNT" ] && exit 0
for job; do sed -i "/^${job%_*}|/d" running; done
"""


class Slurm:
    """`event`: what happens at the next sbatch of a unit, and its name.

    Its caller is killed before, after, or before it hangs for two seconds (outlive); it hangs; its answer (timeout) or
    the job too (late) does not come in time.
    """

    def __init__(self, place: Path) -> None:
        self.place = place

    def running(self) -> list[str]:
        """NUMBER NAME of each job, without the key's time."""
        lines = [line.split("|", 2) for line in (self.place / "running").read_text().splitlines()]
        return [f"{number} {name.partition(':')[0]}" for number, name, _ in lines]

    def event(self, what: str) -> None:
        (self.place / "event").write_text(what)


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Slurm:
    place = tmp_path / "fake slurm"
    place.mkdir()
    for name, script in (("srun", ""), ("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        (place / name).write_text("#!/bin/sh\n" + script.replace("{place}", str(place)))
        (place / name).chmod(0o755)
    for name, text in (("running", ""), ("event", ""), ("count", "0")):
        (place / name).write_text(text)
    monkeypatch.setenv("PATH", str(place), prepend=os.pathsep)
    monkeypatch.setattr(jobs, "SBATCH_SECONDS", 0.0)
    monkeypatch.setattr(job_graph, "OWN_PLACES", ())
    return Slurm(place)


@pytest.fixture
def graph(words):
    """Two fine-tunings of one method, an array, and the tables."""
    return lambda *more: planned(parse(words("--trials", "2", *ON_SLURM, *more, methods="rand")))


def killed(plan) -> None:
    """A submission in a process of its own, which its sbatch kills."""
    process = multiprocessing.get_context("fork").Process(target=job_graph.submit, args=(plan,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("own", [(), ("--sbatch", "comment=project 7 | lab")])
def test_stopped_after_sbatch__the_jobs_are_found_by_their_key_and_go_on(fake, graph, capsys, own):
    plan = graph(*own)
    fake.event("after finetune-rand")
    killed(plan)
    fake.event("")
    assert fake.running() == ["101 finetune-rand"]
    found = jobs.newest(plan.options.output)
    assert {name: record.job_id for name, record in found.items()} == {
        "finetune-rand-coco-0": "101_0", "finetune-rand-coco-1": "101_1"}
    assert {row.state for row in status.snapshot(plan)} == {"running"}

    submitted = job_graph.submit(plan)
    assert [record.stage for record in submitted.records] == ["tables"]  # all that is left
    assert fake.running() == ["101 finetune-rand", "102 tables"] and job_graph.submit(plan) is None
    assert capsys.readouterr().err == ("a submission was stopped while it handed over finetune-rand-coco-0, "
                                       "finetune-rand-coco-1: looking for its job\nfound job 101_0\n")
    for name, record in found.items():
        pickle = Path(record.folder) / f"{record.job_id}_submitted.pkl"
        job = submitit.core.utils.DelayedSubmission.load(pickle)
        assert job.function == StageJob(name, Path(record.folder), record.notes, job.function.code)
        assert job.function.code.is_dir() and (job._timeout_min, job._timeout_countdown) == (20, 100)
    written = [json.loads(path.read_text()) for path in plan.options.output.glob("jobs/*/submitted.json")]
    assert {record["job_id"] for one in written for record in one["records"]} == {"101_0", "101_1", "102"}


def test_stopped_before_sbatch__slurm_knows_no_such_job_and_all_is_submitted(fake, graph, capsys):
    plan = graph()
    fake.event("before finetune-rand")
    killed(plan)
    fake.event("")
    (fake.place / "away").touch()
    with pytest.raises(UserError, match=r"^Slurm does not answer \(squeue\), so .* nothing was changed, try again"):
        job_graph.submit(plan)
    assert {row.state for row in status.snapshot(plan)} == {"waiting?"}
    (fake.place / "away").unlink()
    assert {row.state for row in status.snapshot(plan)} == {"to do"}
    assert job_graph.submit_and_say(plan) == 0
    told = capsys.readouterr()
    assert told.err == ("a submission was stopped while it handed over finetune-rand-coco-0, finetune-rand-coco-1: "
                        "looking for its job\n" * 2 + "Slurm knows no such job\n")
    assert told.out.startswith("job 101_0: finetune-rand-coco-0\njob 101_1: finetune-rand-coco-1\njob 102: tables\n")
    assert fake.running() == ["101 finetune-rand", "102 tables"]


def test_stopped_after_sbatch__cancel_ends_the_job(fake, graph, capsys):
    plan = graph()
    fake.event("after finetune-rand")
    killed(plan)
    assert cancel.main(["--output", str(plan.options.output)]) == 0
    assert fake.running() == []
    assert capsys.readouterr().out.endswith("cancelled: finetune-rand-coco-0, finetune-rand-coco-1; "
                                            "`clove retry --failed` resumes\n")


def test_sbatch_that_timed_out__its_job_is_taken_back_too(fake, graph):
    plan = graph()
    fake.event("timeout tables")
    with pytest.raises(UserError, match=r"^sbatch refused the job: Batch job submission failed: Socket timed out"):
        job_graph.submit(plan)
    assert fake.running() == [] and not (plan.options.output / "jobs").exists()


def test_sbatch_that_outlives_its_caller__is_ended_before_its_job_can_be_doubled(fake, graph, monkeypatch):
    monkeypatch.setattr(jobs, "SBATCH_LIMIT", 1.0)
    plan = graph()
    fake.event("outlive finetune-rand")
    killed(plan)
    fake.event("")
    job_graph.submit(plan)
    time.sleep(2.5)  # the first sbatch would have handed over its job by now
    assert fake.running() == ["101 finetune-rand", "102 tables"]


def test_sbatch_without_an_answer__its_job_is_looked_for_by_the_next_command(fake, graph, monkeypatch):
    monkeypatch.setattr(jobs, "SBATCH_LIMIT", 1.0)
    plan = graph()
    fake.event("hang finetune-rand")
    with pytest.raises(UserError, match="^sbatch gave no answer in 1 seconds: the next command looks for its job; try"):
        job_graph.submit(plan)
    fake.event("late finetune-rand")
    with pytest.raises(UserError, match="^sbatch refused the job: Socket timed out"):
        job_graph.submit(plan)
    fake.event("")
    (fake.place / "late").rename(fake.place / "running")
    assert [record.stage for record in job_graph.submit(plan).records] == ["tables"]
    assert fake.running() == ["101 finetune-rand", "102 tables"]


def test_users_variables__hide_no_job(fake, graph, monkeypatch, capsys):
    for name in ("SQUEUE_ACCOUNT", "SCANCEL_ACCOUNT", "SLURM_CLUSTERS"):
        monkeypatch.setenv(name, "other")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    kept = commands.environment()
    assert kept["SLURM_CONF"] == "/etc/slurm.conf" and kept["PATH"] == os.environ["PATH"]
    assert not {"SQUEUE_ACCOUNT", "SCANCEL_ACCOUNT", "SLURM_CLUSTERS"} & kept.keys()
    plan = graph()
    assert job_graph.submit(plan) is not None and job_graph.submit(plan) is None
    assert fake.running() == ["101 finetune-rand", "102 tables"]
    assert job_graph.submit_and_say(plan) == 0
    assert capsys.readouterr().out == ("nothing to submit: 0 of 2 stages done; under way: finetune-rand-coco-0, "
                                       "finetune-rand-coco-1\n")
    assert cancel.main(["--output", str(plan.options.output)]) == 0 and fake.running() == []


def test_cancel__ends_superseded_jobs_too(fake, graph, capsys):
    plan = graph()
    job_graph.submit(plan)
    running = (fake.place / "running").read_text()
    (fake.place / "running").write_text("")
    job_graph.submit(plan)  # Slurm seemed to know no job of the first submission
    with (fake.place / "running").open("a") as file:
        file.write(running)
    assert sorted(fake.running()) == ["101 finetune-rand", "102 tables", "103 finetune-rand", "104 tables"]
    assert cancel.main(["finetune-rand-coco-0", "finetune-rand-coco-1", "--output", str(plan.options.output)]) == 0
    assert sorted(fake.running()) == ["102 tables", "104 tables"]
    assert cancel.main(["--output", str(plan.options.output)]) == 0 and fake.running() == []
    assert capsys.readouterr().out.splitlines()[-1] == "cancelled: tables; `clove retry --failed` resumes"


@pytest.mark.parametrize(("event", "problem"), [("refuses", "scancel: error: no"), ("hangs", "timed out")])
def test_cancel__that_did_not_reach_slurm_says_so_and_leaves_no_note(fake, graph, monkeypatch, event, problem):
    plan, run = graph(), subprocess.run
    job_graph.submit(plan)
    (fake.place / "scancel").write_text("#!/bin/sh\necho 'scancel: error: no' >&2; exit 1\n")

    def hanging(command: tuple[str, ...], **how: object) -> subprocess.CompletedProcess:
        if command[0] == "scancel":
            raise subprocess.TimeoutExpired("scancel", 60)
        return run(command, **how)

    if event == "hangs":
        monkeypatch.setattr(commands.subprocess, "run", hanging)
    with pytest.raises(UserError, match=f"^scancel: .*{problem}.*; try again in a minute$"):
        cancel.main(["--output", str(plan.options.output)])
    assert not list(plan.options.output.glob(f"jobs/*/*/{jobs.CANCELLED}"))


def test_output_of_this_machine_alone__is_said_when_it_is_submitted(fake, graph, tmp_path, monkeypatch, capsys):
    plan = graph()
    monkeypatch.setattr(job_graph, "OWN_PLACES", ("/dev/shm", str(tmp_path)))
    assert job_graph.submit_and_say(plan) == job_graph.submit_and_say(plan) == 0
    assert capsys.readouterr().err == (
        f"warning: --output {plan.options.output} is in {tmp_path}, which on most clusters is each machine's own: the "
        "nodes must see that folder, or the jobs end at once\n")


def test_retry__says_that_the_last_job_wrote_nothing_into_the_output(fake, graph, capsys):
    plan = graph()
    folder = job_graph.submit(plan).folder
    (fake.place / "running").write_text("")
    assert retry.main(["--failed", "--output", str(plan.options.output)]) == 0
    assert capsys.readouterr().err == (
        "warning: finetune-rand-coco-0: Slurm no longer knows the job; it left no log: it was ended before it began, "
        f"or its node does not see {folder}; choose an --output that all nodes see\n")


def test_nothing_to_submit__makes_the_tables_whose_job_was_cancelled(fake, graph, monkeypatch):
    """They are then done: `retry --failed` would find nothing to submit for ever."""
    plan = graph()
    job_graph.submit(plan)
    (fake.place / "running").write_text("")
    monkeypatch.setattr(job_graph, "done_stages", lambda *_: {stage.name for stage in plan.stages()})
    monkeypatch.setattr(job_graph, "print_tables", lambda _: None)
    assert status.snapshot(plan)[-1].state == "lost"
    assert job_graph.submit_and_say(plan) == 0 and fake.running() == []
    tables = status.snapshot(plan)[-1]
    assert (tables.stage, tables.state) == ("tables", "done")


def test_nothing_to_submit__says_what_is_true(fake, graph, monkeypatch, capsys):
    plan = graph()
    names = {stage.name for stage in plan.stages()}
    monkeypatch.setattr(job_graph, "done_stages", lambda *_: names)
    monkeypatch.setattr(job_graph, "print_tables", lambda _: None)
    assert job_graph.submit_and_say(plan) == 0
    assert capsys.readouterr().out == "nothing to submit: all 2 stages are done\n"
    monkeypatch.setattr(job_graph, "done_stages", lambda *_: {"finetune-rand-coco-0"})
    assert job_graph.submit_and_say(plan, {"finetune-rand-coco-0"}) == 0
    assert capsys.readouterr().out == ("nothing to submit: 1 of 2 stages done; `clove retry --failed` submits the "
                                       "others\n")
