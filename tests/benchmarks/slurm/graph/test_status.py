"""What status says, from files made by hand: no Slurm."""

import fcntl
import json
import os
import re

import pytest

from benchmarks import __main__ as command
from benchmarks.options.run_options import parse
from benchmarks.slurm import cancel, job_graph, jobs, logs, retry, status
from benchmarks.slurm.jobs import Ending, StageRecord, State, Submitted
from benchmarks.stages.stage import FAILED, finished, hash_product
from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError
from tests.benchmarks.slurm.graph.conftest import ON_SLURM, planned

NAMES = ("data", "pretrain-clove", "convert-clove", "finetune-clove-coco-0", "finetune-rand-coco-0", "tables")


class Run:
    """A demo's folder: `submit` writes what a submission does, `finish` what a stage does."""

    def __init__(self, folder, *more):
        self.output = folder / "out"
        self.plan = planned(parse(["--demo", "--tasks", "coco", "--output", str(self.output), *more]))
        self.stages = {stage.name: stage for stage in self.plan.stages()}
        self.plan.write(self.output)

    def submit(self, *names):
        folder = self.output / "jobs" / f"{len(jobs.submissions(self.output))}"
        records = [StageRecord(name, str(100 + NAMES.index(name)), "", self.stages[name].parents
                               if name in self.stages else (), str(folder)) for name in names]
        for record in records:
            record.notes.mkdir(parents=True)
        Submitted(str(folder), "code", str(len(jobs.submissions(self.output))), records).write()

    def folder(self, name):
        _, hashes = finished(self.stages.values(), self.output)
        folder = self.stages[name].folder(self.output, self.stages[name].key(hashes))
        folder.mkdir(exist_ok=True)
        return folder

    def finish(self, *names):
        for name in names:
            folder = self.folder(name)
            (folder / self.stages[name].product).write_text(name)
            _, hashes = finished(self.stages.values(), self.output)
            stamp = {"key": self.stages[name].key(hashes), "evaluation": self.stages[name].evaluation,
                     "output_sha256": hash_product(folder / self.stages[name].product)}
            write_text(folder / "stage.json", json.dumps(stamp))

    def notes(self, name):
        return jobs.newest(self.output)[name].notes

    def log(self, name):
        return jobs.newest(self.output)[name].log()

    def look(self, **words):
        """states by stage, told Slurm's words for jobs by stage name with _ for -; NO_ANSWER for the others."""
        told = {str(100 + NAMES.index(name.replace("_", "-"))): State(*word.split(":")) for name, word in words.items()}
        return {row.stage: row for row in status.look(self.plan, told)}

    def states(self, **words):
        return [row.state for row in self.look(**words).values()]


@pytest.fixture
def run(tmp_path):
    made = Run(tmp_path, *ON_SLURM)
    made.submit(*NAMES)
    return made


def test_going__slurm_answers(run):
    run.finish("data")
    jobs.note_start(run.notes("pretrain-clove"), "101", "node1")
    write_text(run.folder("pretrain-clove") / "metrics.jsonl",
               '{"step": 0, "retrieval_backbone": 0.1}\n{"step": 60, "loss": 1.25, '
               '"ranking_gap": -0.3125, "images_per_second": 32.0}\n{"st')
    rows = run.look(data="COMPLETED", pretrain_clove="RUNNING", convert_clove="PENDING:Dependency",
                    finetune_clove_coco_0="PENDING:Dependency", finetune_rand_coco_0="PENDING:None",
                    tables="PENDING:Dependency")
    assert [row.state for row in rows.values()] == ["done", "running", "waiting", "waiting", "waiting", "waiting"]
    # 192 images in batches of 16, 20 epochs: 240 steps; 180 x 16 images at 32 a second are 90 s.
    row = rows["pretrain-clove"]
    assert (row.steps, row.seconds_left, row.metric) == ("60/240", 90, "loss 1.25, ranking_gap -0.312")
    assert rows["convert-clove"].detail == "Dependency" and rows["finetune-rand-coco-0"].detail == ""
    code, line = status.verdict(list(rows.values()))
    assert code == 3 and line == ("1 of 6 stages done; running: pretrain-clove; waiting: convert-clove, "
                                  "finetune-clove-coco-0, finetune-rand-coco-0, tables")
    assert "60/240" in status.table(list(rows.values())) and "2 min" in status.table(list(rows.values()))


def test_fine_tuning__progress_time_and_figures(run):
    run.finish("data")
    write_text(run.folder("finetune-rand-coco-0") / "metrics.json",
               '{"iteration": 4, "total_loss": 2.5, "time": 0.5}\n{"iteration": 9, "early/AP_bb": 3.21}\n'
               '{"iteration": 14, "total_loss": 1.5, "time": 0.5}\n')
    row = run.look(finetune_rand_coco_0="RUNNING")["finetune-rand-coco-0"]
    assert (row.steps, row.seconds_left, row.metric) == ("15/40", 12.5, "loss 1.5, AP_bb 3.2")
    write_text(run.folder("finetune-rand-coco-0") / "result.json",
               '{"task": "coco", "metrics": {"segm/AP": null, "bbox/AP": 6.14}}')
    assert run.look(finetune_rand_coco_0="RUNNING")["finetune-rand-coco-0"].metric == "AP_bb 6.1"


def test_all_done(run):
    run.finish("data", "pretrain-clove", "convert-clove", "finetune-clove-coco-0", "finetune-rand-coco-0")
    assert run.states() == ["done"] * 5 + ["waiting?"]
    write_text(run.notes("tables") / jobs.TABLES_DONE, "{}")
    assert status.verdict(list(run.look().values())) == (0, "all 6 stages done")


def test_failed__children_are_named_and_others_not(run):
    run.finish("data", "finetune-rand-coco-0")
    jobs.note_start(run.notes("pretrain-clove"), "101", "node1")
    Ending(1, "RuntimeError: connection closed", 0).write(run.notes("pretrain-clove"))
    Ending(3, "loss was not finite", 1).write(run.notes("pretrain-clove"))
    write_text(run.notes("tables") / jobs.TABLES_DONE, "{}")
    over = {"pretrain-clove": "FAILED", "convert_clove": "CANCELLED", "finetune_clove_coco_0": "CANCELLED"}
    for words in (over, dict.fromkeys(over, "GONE"), {}):  # Slurm knows, has forgotten, does not answer
        rows = run.look(**words)
        assert [row.state for row in rows.values()] == ["done", "failed", "cancelled", "cancelled", "done", "done"]
        code, line = status.verdict(list(rows.values()))
        assert code == 1
        assert line == ("error: 3 of 6 stages done; failed: pretrain-clove; cancelled: convert-clove, "
                        "finetune-clove-coco-0 (pretrain-clove: loss was not finite); "
                        "`clove retry --failed` resumes")


def test_killed__without_a_message(run):
    run.finish("data")
    jobs.note_start(run.notes("pretrain-clove"), "101", "node1")
    row = run.look(pretrain_clove="OUT_OF_MEMORY")["pretrain-clove"]
    assert row.state == "failed"
    assert row.detail == "it ended (OUT_OF_MEMORY); give it more memory (--mem-gb)"
    run.log("pretrain-clove").write_text("a warning\nslurmstepd: error: Detected 1 oom_kill event in StepId=101.0.\n")
    row = run.look(pretrain_clove="OUT_OF_MEMORY:OutOfMemory")["pretrain-clove"]
    assert row.detail == ("it ended (OUT_OF_MEMORY, OutOfMemory); give it more memory (--mem-gb); its log says: "
                          "slurmstepd: error: Detected 1 oom_kill event in StepId=101.0.")
    row = run.look(pretrain_clove="TIMEOUT:TimeLimit")["pretrain-clove"]
    assert row.detail.startswith("it ended (TIMEOUT, TimeLimit); its time was over before it had saved: give it more (")
    row = run.look(pretrain_clove="NODE_FAIL:NodeDown")["pretrain-clove"]
    assert row.detail.startswith("it ended (NODE_FAIL, NodeDown); its node failed, and Slurm did not requeue it; ")
    assert run.look(pretrain_clove="GONE")["pretrain-clove"].state == "lost"
    row = run.look()["pretrain-clove"]
    assert (row.state, row.detail) == ("running?", "Slurm does not answer; it has no files yet")
    (run.folder("pretrain-clove") / "x").touch()
    assert run.look()["pretrain-clove"].detail == "Slurm does not answer; its last file is 0 s old"
    assert run.look(pretrain_clove="PENDING:BeginTime")["pretrain-clove"].detail == "requeued"
    held = run.look(pretrain_clove="PENDING:launch_failed_requeued_held")["pretrain-clove"]
    assert held.state == "waiting"
    assert re.fullmatch(r"held \(launch_failed_requeued_held\): `scontrol release \d+` lets it start", held.detail)


def test_no_log__the_nodes_may_not_see_the_output(run):
    run.finish("data")
    why = (f"it left no log: its node may not see {run.output / 'jobs' / '0'}; choose an --output that all nodes see")
    row = run.look(pretrain_clove="FAILED:JobLaunchFailure")["pretrain-clove"]
    surely = why.replace("may not", "does not")
    assert (row.state, row.detail) == ("failed", f"it ended (FAILED, JobLaunchFailure); {surely}")
    assert run.look(pretrain_clove="FAILED")["pretrain-clove"].detail == f"it ended (FAILED); {why}"
    row = run.look(pretrain_clove="GONE")["pretrain-clove"]
    perhaps = why.replace("its node may not", "it was ended before it began, or its node does not")
    assert (row.state, row.detail) == ("lost", f"Slurm no longer knows the job; {perhaps}")
    run.log("pretrain-clove").touch()
    assert run.look(pretrain_clove="FAILED")["pretrain-clove"].detail == (
        "it ended (FAILED); it left no message: it was killed, or never started")


OWN_FAULT = """submitit INFO - Starting with JobEnvironment(job_id=101)
error: an older start's
submitit INFO - Starting with JobEnvironment(job_id=101)
{line}
error: stage pretrain-clove failed (exit code 2)
submitit ERROR - Submitted job triggered an exception
srun: error: node1: task 0: Exited with exit code 2
"""


@pytest.mark.parametrize(("line", "expected"), [
    ("error: coco: expected a folder", "coco: expected a folder"),
    ("Traceback (most recent call last):\ntorch.OutOfMemoryError: CUDA out of memory",
     "torch.OutOfMemoryError: CUDA out of memory"),
    ("sh: 1: exec: /venv/bin/python: not found", "sh: 1: exec: /venv/bin/python: not found"),
    ("pretrain: 12%", "srun: error: node1: task 0: Exited with exit code 2"),
])
def test_failed__the_last_error_of_its_log_says_why(run, line, expected):
    run.finish("data")
    run.log("pretrain-clove").write_text(OWN_FAULT.format(line=line))
    Ending(2, "stage pretrain-clove failed (exit code 2); its files are in /x", 0).write(run.notes("pretrain-clove"))
    told = f"stage pretrain-clove failed (exit code 2): {expected}"
    assert run.look(pretrain_clove="FAILED")["pretrain-clove"].detail == run.look()["pretrain-clove"].detail == told


def test_killed_in_every_start__says_so_itself(run):
    run.finish("data")
    run.log("pretrain-clove").write_text("error: something")
    Ending(137, "killed (SIGKILL or out of memory), the last of 3 starts", 0).write(run.notes("pretrain-clove"))
    row = run.look(pretrain_clove="FAILED:NonZeroExitCode")["pretrain-clove"]
    assert (row.state, row.detail) == ("failed", "killed (SIGKILL or out of memory), the last of 3 starts")


def test_stopped__saved_is_not_failed_and_comes_back(run):
    run.finish("data")
    jobs.note_start(run.notes("pretrain-clove"), "101", "node1")
    Ending(143, "stopped after step 7, saved", 0).write(run.notes("pretrain-clove"))
    assert run.look(pretrain_clove="RUNNING")["pretrain-clove"].state == "running"
    assert run.look(pretrain_clove="PENDING:BeginTime")["pretrain-clove"].state == "waiting"
    assert run.look()["pretrain-clove"].state == "running?"
    assert run.look(pretrain_clove="FAILED")["pretrain-clove"].state == "stopped"
    write_text(run.notes("pretrain-clove") / jobs.CANCELLED, "{}")
    for told in ({"pretrain_clove": "CANCELLED"}, {}):
        assert run.look(**told)["pretrain-clove"].state == "cancelled"


def test_second_submission__its_jobs_count(run):
    run.finish("data")
    Ending(2, "wrong", 0).write(run.notes("pretrain-clove"))
    assert run.states()[1] == "failed"
    run.submit("pretrain-clove", "convert-clove", "finetune-clove-coco-0", "tables")
    assert run.states() == ["done", "waiting?", "waiting?", "waiting?", "waiting?", "waiting?"]


def test_local_run__running_stopped_failed_to_do(tmp_path):
    run = Run(tmp_path)
    assert run.states() == ["to do"] * 5
    run.finish("data")
    run.folder("pretrain-clove")
    assert run.states() == ["done", "stopped", "to do", "to do", "to do"]
    with open(run.output / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run.states() == ["done", "running", "to do", "to do", "to do"]
    write_text(run.folder("pretrain-clove") / FAILED, '{"message": "stage pretrain-clove failed (exit code 3)"}')
    code, line = status.verdict(list(run.look().values()))
    assert code == 1
    assert line == ("error: 1 of 5 stages done; failed: pretrain-clove; to do: convert-clove, finetune-clove-coco-0, "
                    "finetune-rand-coco-0 (pretrain-clove: stage pretrain-clove failed (exit code 3))")


def test_main__watch_shows_it_until_it_is_over(run, monkeypatch, capsys):
    told = iter(["PENDING", "RUNNING", "FAILED"])
    monkeypatch.setattr(jobs, "ask", lambda ids: dict.fromkeys(ids, State(next(told))))
    slept = []
    assert status.watch(run.output, True, slept.append) == 1
    assert slept == [5.0, 5.0] and capsys.readouterr().out.count("0 of 6 stages done") == 3
    monkeypatch.setattr(jobs, "ask", lambda ids: dict.fromkeys(ids, State("RUNNING")))
    assert status.main(["--output", str(run.output)]) == 3


def test_ask__without_squeue_is_no_answer(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert jobs.ask(["1", "2_0"]) == {"1": State("NO ANSWER"), "2_0": State("NO ANSWER")}
    assert jobs.ask([]) == {}


@pytest.mark.parametrize(("script", "expected"), [
    ("echo '1|RUNNING|None'; echo '2_0|PENDING|Dependency'", {"1": State("RUNNING", "None"),
                                                              "2_0": State("PENDING", "Dependency")}),
    ("echo '2_0|FAILED|NonZeroExitCode'", {"1": State("GONE"), "2_0": State("FAILED", "NonZeroExitCode")}),
    ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", {"1": State("GONE"), "2_0": State("GONE")}),
    ("echo 'Unable to contact slurm controller' >&2; exit 1", {"1": State("NO ANSWER"), "2_0": State("NO ANSWER")}),
])
def test_ask__what_squeue_says(monkeypatch, tmp_path, script, expected):
    (tmp_path / "squeue").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert jobs.ask(["1", "2_0"]) == expected


def test_logs__whole_or_followed_to_the_end(run, capsys, monkeypatch):
    path = jobs.newest(run.output)["pretrain-clove"].log()
    where = ["--output", str(run.output)]
    for word, told in (("PENDING", "yet "), ("CANCELLED", r", and its job is over \(CANCELLED\): `clove status` says")):
        monkeypatch.setattr(jobs, "ask", lambda ids, word=word: dict.fromkeys(ids, State(word)))
        with pytest.raises(UserError, match=rf"^stage pretrain-clove has printed nothing ?{told}"):
            logs.main(["pretrain-clove", *where])
    path.write_text("one\n")
    assert logs.main(["pretrain-clove", *where]) == 0
    assert capsys.readouterr().out == "one\n"
    told = iter(["RUNNING", "COMPLETED"])
    logs.follow(path, lambda: State(next(told)), lambda _: path.open("a").write("two\n"))
    logs.follow(run.output / "absent", lambda: State("NO ANSWER"), lambda _: None)
    assert capsys.readouterr() == ("one\ntwo\n", "Slurm does not answer: whether the job goes on is not known\n")
    with pytest.raises(UserError, match=r"^pretraining: no such stage; there are data, pretrain-clove"):
        logs.main(["pretraining", *where])


def test_commands__what_they_cannot_do_is_told(tmp_path, run, monkeypatch):
    here = Run(tmp_path / "local")
    (here.output / "plan.json").stat()
    with pytest.raises(UserError, match=r"^found no submitted jobs in .*; a run on this machine ends with Ctrl-C"):
        cancel.main(["--output", str(here.output)])
    with pytest.raises(UserError, match=r"was a run on this machine: run the same ./run_all.sh command again to"):
        retry.main(["--failed", "--output", str(here.output)])
    with pytest.raises(UserError, match=r"^retry: expected --failed or the names of stages"):
        retry.main(["--output", str(run.output)])
    with pytest.raises(UserError, match=r"^finetune: no such stage; there are data, pretrain-clove"):
        retry.main(["finetune", "--output", str(run.output)])
    monkeypatch.setattr(jobs, "ask", lambda ids: dict.fromkeys(ids, State("NO ANSWER")))
    with pytest.raises(UserError, match=r"^Slurm does not answer \(squeue\), so .* nothing was changed, try again"):
        cancel.main(["--output", str(run.output)])
    with pytest.raises(UserError, match=r"^found no plan.json in "):
        status.main(["--output", str(tmp_path)])


def test_rerun__sets_a_finished_stage_aside_before_it_is_submitted(run, monkeypatch):
    run.finish("data")
    said = []
    monkeypatch.setattr(job_graph, "under_way", lambda *_: {})
    monkeypatch.setattr(job_graph, "submit_and_say", lambda plan: said.append(plan.options.rerun) or 0)
    monkeypatch.setattr("sys.argv", ["benchmarks", "--demo", "--tasks", "coco", "--output", str(run.output), *ON_SLURM,
                                     "--rerun", "data"])
    assert command.main() == 0
    assert said == [("data",)] and len(list(run.output.glob("data-*.old1"))) == 1


@pytest.mark.parametrize("change", [{"version": "older"}, {"options": {}}, None])
def test_status_and_logs__live_with_a_plan_that_cannot_be_read(tmp_path, change, capsys, monkeypatch):
    run = Run(tmp_path, *ON_SLURM)
    run.submit(*NAMES)
    run.finish("data")
    jobs.note_start(run.notes("pretrain-clove"), "101", "node1")
    folder = run.folder("finetune-rand-coco-0")
    (folder / "log.txt").write_text("one\n")
    path = run.output / "plan.json"
    path.write_text("{" if change is None else json.dumps(json.loads(path.read_text()) | change))
    monkeypatch.setattr(jobs, "ask", lambda ids: dict.fromkeys(ids, State("RUNNING")))
    assert status.main(["--output", str(run.output)]) == status.GOING
    told = capsys.readouterr()
    assert re.search(r"^data +done", told.out, re.M) and re.search(r"^pretrain-clove +running +101", told.out, re.M)
    assert re.fullmatch(r"warning: \S+plan.json (was written by|is damaged).* with the same options; this is what the "
                        r"folder itself shows", told.err.strip())
    assert logs.local_log(run.output, "finetune-rand-coco-0") == folder / "log.txt"
    with pytest.raises(UserError, match="^found no log.txt of a stage data in .*; .*plan.json"):
        logs.local_log(run.output, "data")


def test_status__names_the_task_of_another_file_that_is_missing(tmp_path, monkeypatch, capsys):
    run = Run(tmp_path)
    run.finish("data")
    monkeypatch.setattr("benchmarks.stages.saved_plan.TASKS", {})
    assert status.main(["--output", str(run.output)]) == status.INCOMPLETE
    assert "plan.json has a task coco that is not known here: set CLOVE_TASKS as the run had it" in (
        capsys.readouterr().err)
