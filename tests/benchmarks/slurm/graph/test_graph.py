"""The graph before anything is handed over: units, limits, what is asked of the cluster, refusals."""

import os

import pytest

from benchmarks.options.run_options import parse
from benchmarks.slurm import job_graph, jobs, print_graph
from benchmarks.stages.checked_inputs import Inputs, find_protocols
from benchmarks.stages.saved_plan import Plan
from benchmarks.stages.stage import Stage
from pretrain.common.errors import UserError
from tests.benchmarks.slurm.graph.conftest import ON_SLURM, planned

DEMO = ("--demo", "--tasks", "coco,keypoints", "--trials", "2")


@pytest.fixture
def demo(tmp_path):
    return lambda *more: planned(parse([*DEMO, *ON_SLURM, "--output", str(tmp_path / "out"), *more]))


@pytest.fixture
def srun(tmp_path, monkeypatch):
    """A name is enough to write files for sbatch."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")


def made(plan, max_jobs=None, todo=None):
    stages = plan.stages()
    return job_graph.units(stages, todo or [stage.name for stage in stages], max_jobs)


def test_units__fine_tunings_of_a_method_are_an_array(demo):
    units = made(demo())
    assert [(unit.name, len(unit.stages), unit.parents) for unit in units] == [
        ("data", 1, ()), ("pretrain-clove", 1, ("data",)), ("convert-clove", 1, ("pretrain-clove",)),
        ("finetune-clove", 4, ("data", "convert-clove")), ("finetune-rand", 4, ("data",))]
    assert all(unit.limit is None and unit.after == () for unit in units)
    [single] = made(demo(), todo=["finetune-rand-keypoints-1"])
    assert single.name == "finetune-rand-keypoints-1"


def test_units__preflights_are_an_array_that_fine_tunings_wait_for_and_nothing_else(demo):
    units = {unit.name: unit for unit in made(demo("--preflight"))}
    assert units["preflight"].stages == ["preflight-coco", "preflight-keypoints"]
    assert units["preflight"].parents == ("data",) and units["preflight"].limit is None
    assert units["finetune-rand"].after == units["finetune-clove"].after == ("preflight-coco", "preflight-keypoints")
    assert units["pretrain-clove"].after == ()
    limited = {unit.name: unit for unit in made(demo("--preflight"), max_jobs=1)}
    assert limited["preflight"].limit == 1
    assert limited["pretrain-clove"].after == ("preflight-coco", "preflight-keypoints")
    assert set(limited["finetune-rand"].after) == {"preflight-coco", "preflight-keypoints",
                                                  *limited["finetune-clove"].stages}


def test_preflight__asks_for_what_a_fine_tuning_gets(demo, srun, tmp_path):
    plan = demo("--preflight", "--gpus-per-node", "2", "--nodes", "2")
    texts = {unit.name: job_graph.launch.submission_text(job_graph.executor_of(unit, plan, tmp_path, tmp_path, {})[0])
             for unit in made(plan)}
    for line in ("--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=2", "--cpus-per-task=10"):
        assert f"#SBATCH {line}\n" in texts["preflight"] and f"#SBATCH {line}\n" in texts["finetune-rand"]


def chains(count):
    """`count` checkpoints with a probe and three fine-tunings each."""
    stages = []
    for letter in "abcd"[:count]:
        stages.append(Stage(f"convert-{letter}", {}, lambda *_: [], "x"))
        stages.append(Stage(f"probe-{letter}-coco", {}, lambda *_: [], "x", parents=(f"convert-{letter}",),
                            kind="probe"))
        stages += [Stage(f"finetune-{letter}-coco-{trial}", {}, lambda *_: [], "x", parents=(f"convert-{letter}",),
                         kind="finetune", array=f"finetune-{letter}") for trial in range(3)]
    return stages


@pytest.mark.parametrize(("count", "limit"), [(1, 1), (1, 5), (2, 3), (3, 2), (4, 1), (4, 3), (4, 9)])
def test_limit__at_no_time_do_more_jobs_run(count, limit):
    """An oracle that starts all that may start: jobs of an equal length, and of lengths that favour later chains."""
    stages = chains(count)
    units = job_graph.units(stages, [stage.name for stage in stages], limit)
    submitted = set()
    for unit in units:  # a job can wait only for what has a number
        assert set(unit.parents) | set(unit.after) <= submitted
        submitted |= set(unit.stages)
    for length in (lambda _: 1, lambda name: 1 + "dcba".find(name.split("-")[1])):
        over, running, most = set(), {}, 0
        for _ in range(400):
            running = {name: left - 1 for name, left in running.items()}
            over |= {name for name, left in running.items() if left == 0}
            running = {name: left for name, left in running.items() if left}
            for unit in units:
                if set(unit.parents) <= over and set(unit.after) <= over:
                    free = (unit.limit or 99) - len(running.keys() & set(unit.stages))
                    waiting = [name for name in unit.stages if name not in over and name not in running]
                    running |= {name: length(name) for name in waiting[:max(free, 0)]}
            most = max(most, len(running))
        assert over == {stage.name for stage in stages} and most <= limit


def test_sbatch_file__of_an_array_with_its_dependency_and_limit(demo, srun, tmp_path):
    plan = demo("--gpus-per-node", "2", "--nodes", "2", "--mem-gb", "100", "--max-jobs", "3", "--sbatch", "qos=high",
                "--account", "lab", "--cpus-per-task", "4")
    unit = next(unit for unit in made(plan, 3) if unit.name == "finetune-clove")
    executor, environment = job_graph.executor_of(unit, plan, tmp_path / "jobs", tmp_path / "code",
                                              {"convert-clove": "12", "pretrain-clove": "11"})
    text = job_graph.launch.submission_text(executor, 4).splitlines()
    for line in ("--array=0-3%2", "--dependency=afterok:12", "--kill-on-invalid-dep=yes", "--nodes=1", "--requeue",
                 "--ntasks-per-node=1", "--gpus-per-node=2", "--cpus-per-task=8", "--mem=100GB", "--qos=high",
                 "--account=lab", "--time=20", "--signal=USR2@120", "--job-name=finetune-clove"):
        assert f"#SBATCH {line}" in text
    assert environment["PYTHONPATH"].startswith(str(tmp_path / "code"))


def test_sbatch_file__of_pretraining_has_all_nodes_and_of_a_conversion_a_few_cpus(demo, srun, tmp_path):
    plan = demo("--gpus-per-node", "2", "--nodes", "2", "--mem-gb", "100")
    texts = {unit.name: job_graph.launch.submission_text(job_graph.executor_of(unit, plan, tmp_path, tmp_path, {})[0])
             for unit in made(plan)}
    for line in ("--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=1", "--mem=100GB"):
        assert f"#SBATCH {line}\n" in texts["pretrain-clove"]
    for line in ("--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=2", "--mem=16GB"):
        assert f"#SBATCH {line}\n" in texts["convert-clove"]
    assert "gpus" not in texts["convert-clove"]
    assert "--dependency" not in texts["convert-clove"] and "--kill-on-invalid" not in texts["convert-clove"]  # done


def test_sbatch_file__carries_the_files_of_own_tasks(demo, srun, tmp_path, monkeypatch):
    monkeypatch.setenv("CLOVE_TASKS", os.pathsep.join(("own.py", "/lab/other.py")))
    monkeypatch.chdir(tmp_path)
    plan = demo()
    unit = next(unit for unit in made(plan) if unit.name == "finetune-rand")
    executor, environment = job_graph.executor_of(unit, plan, tmp_path / "jobs", tmp_path / "code", {})
    assert environment["CLOVE_TASKS"] == f"{tmp_path / 'own.py'}:/lab/other.py"
    assert f"export CLOVE_TASKS={tmp_path / 'own.py'}:/lab/other.py" in job_graph.launch.submission_text(executor, 1)


def test_dry_run__shows_stages_files_hours_and_disk_and_writes_nothing(demo, srun, capsys, tmp_path):
    print_graph.print_graph(demo("--nodes", "2", "--tasks-per-node", "2", "--max-jobs", "1"))
    shown = capsys.readouterr().out
    assert "graph: 12 stages, 0 done, 6 submissions" in shown
    assert "pretrain-clove             job; after data; nodes: 2, tasks per node: 2, GPUs per node: 0" in shown
    assert "finetune-rand              array of 4, 1 at once; after data, finetune-clove-coco-0, " in shown
    assert ": not estimated at this size; disk, with all of it running at once: 13.8 GB" in shown
    assert shown.count("#!/bin/bash") == 6 and "afterok:ID-OF-data:ID-OF-convert-clove" in shown
    assert not (tmp_path / "out").exists()


def test_gpu_hours__are_those_of_the_words(tmp_path, capsys, srun, monkeypatch):
    from benchmarks.options.inputs import Photos, TaskData

    options = parse(["--epochs", "200", "--tasks", "coco", "--trials", "3", "--output", str(tmp_path), *ON_SLURM,
                     "--gpus-per-node", "8"])
    data = TaskData("coco", tmp_path, "", 118_287, 5_000, "b", "c")
    inputs = Inputs({"": Photos(tmp_path, 1_281_167, "a")}, {"coco": (data,)}, {}, find_protocols(options))
    print_graph.print_graph(Plan(options, inputs))
    # 1281167 x 200 / 1870 / 3600 = 38.06; 6 fine-tunings of 90000 x 0.261 x 8 / 3600 = 52.2
    assert "GPU-hours of what is to do: 38 H100-hours and 313 V100-hours; disk, " in capsys.readouterr().out


def test_check__what_would_only_show_on_the_nodes(demo):
    with pytest.raises(UserError, match=r"^task coco: SOLVER.IMS_PER_BATCH 2 cannot be shared by 4 processes: "):
        demo("--gpus-per-node", "4")
    with pytest.raises(UserError, match=r"^batch_size 16 over 3 processes: expected equal shares "):
        job_graph.check(demo("--nodes", "3"))
    with pytest.raises(UserError, match=r"Slurm drops backslashes; choose a path without it"):
        job_graph.check(demo("--output", "/tmp/a\\b"))
    with pytest.raises(UserError, match=r"read % as a placeholder"):
        job_graph.check(demo("--output", "/tmp/100%"))


def test_under_way__without_an_answer_of_slurm_nothing_is_submitted(demo, monkeypatch):
    plan = demo()
    folder = plan.options.output / "jobs" / "one"
    record = jobs.StageRecord("data", "7", "x", (), str(folder))
    folder.mkdir(parents=True)
    jobs.Submitted(str(folder), "code", "2026", [record]).write()
    monkeypatch.setattr(jobs, "ask", lambda ids: dict.fromkeys(ids, jobs.State("NO ANSWER")))
    with pytest.raises(UserError, match=r"^Slurm does not answer \(squeue\)"):
        job_graph.submit(plan)
    monkeypatch.setattr(jobs, "ask", lambda ids: dict.fromkeys(ids, jobs.State("GONE")))
    assert job_graph.under_way(plan, plan.stages()) == {}
    monkeypatch.setattr(jobs, "ask", lambda ids: dict.fromkeys(ids, jobs.State("RUNNING")))
    with pytest.raises(UserError, match=r"^job 7 works on stage data with other values or inputs"):
        job_graph.submit(plan)
    (record.notes).mkdir()
    (record.notes / jobs.CANCELLED).write_text("{}")
    with pytest.raises(UserError, match=r"^job 7 \(stage data\) was cancelled and has not ended: nothing"):
        job_graph.submit(plan)


def test_planned__follows_what_a_stage_builds_on(demo):
    before, after = ({stage.name: stage.planned for stage in demo(*more).stages()}
                     for more in ((), ("--set", "pretrain.seed=1")))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if "clove" in name}
