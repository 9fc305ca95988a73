"""Stages as they run: what is done already, what fails, what is published, what stays on the disk."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.options.run_options import parse
from benchmarks.records import results
from benchmarks.stages.publish import Origin, publish
from benchmarks.stages.stage import Stage
from pretrain.common.errors import UserError
from tests.benchmarks.plans import plan
from transfer import tasks


def writer(name, text="text", parents=(), code=0):
    program = (f"import pathlib, sys; folder = pathlib.Path(sys.argv[1]); "
               f"open(folder / 'runs', 'a').write('x'); (folder / 'out').write_text({text!r}); sys.exit({code})")
    return Stage(name, {"name": name}, lambda folder, _: [sys.executable, "-c", program, str(folder)], product="out",
                 parents=parents)


@pytest.fixture
def options(tmp_path):
    return lambda *words: parse(["--demo", "--output", str(tmp_path / "out put"), *words])


def times_run(options, name):
    return sum(len(path.read_text()) for path in Path(options.output).glob(f"{name}-*/runs") if ".old" not in str(path))


def test_run__second_run_does_nothing_and_rerun_keeps_the_old(options, capsys):
    stages = [writer("one"), writer("two", parents=("one",))]
    assert command.run(options(), stages) == 0
    assert command.run(options(), stages) == 0
    assert times_run(options(), "one") == times_run(options(), "two") == 1
    assert "done before" in capsys.readouterr().out
    assert command.run(options("--rerun", "one"), stages) == 0
    assert len(list(options().output.glob("one-*.old1"))) == 1
    assert times_run(options(), "one") == 1
    assert times_run(options(), "two") == 1  # its parent's output is what it was


def test_run__a_parent_with_another_output_runs_its_children_again(options):
    assert command.run(options(), [writer("one"), writer("two", parents=("one",))]) == 0
    again = [writer("one", text="other"), writer("two", parents=("one",))]
    assert command.run(options("--rerun", "one"), again) == 0
    assert times_run(options(), "two") == 2


def test_run__a_gate_that_has_not_passed_stops_what_it_guards_and_is_no_part_of_its_result(options, capsys):
    guarded, free = replace(writer("guarded"), gates=("bad",)), writer("free")
    assert command.run(options(), [writer("bad", code=3), guarded, free]) == 3
    assert times_run(options(), "guarded") == 0 and times_run(options(), "free") == 1
    assert capsys.readouterr().err.strip().endswith("not run for that reason: guarded")
    assert command.run(options(), [writer("bad"), guarded, free]) == 0
    assert times_run(options(), "guarded") == 1
    assert guarded.key({}) == replace(guarded, gates=()).key({})


def test_run__a_failing_stage_stops_what_depends_on_it_and_nothing_else(options, capsys):
    stages = [writer("bad", code=7), writer("child", parents=("bad",)), writer("good")]
    assert command.run(options(), stages) == 7
    assert times_run(options(), "good") == 1
    assert times_run(options(), "child") == 0
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: stage bad failed (exit code 7)")
    assert error.endswith("not run for that reason: child")


def test_run__two_at_once_divide_the_cores_and_keep_their_output_apart(options, capsys, monkeypatch):
    program = """import os, pathlib, sys, time
folder, other = pathlib.Path(sys.argv[1]), sys.argv[2]
(folder / "here").touch()
deadline = time.monotonic() + 300
while not list(folder.parent.glob(other)):  # both must run at the same time
    assert time.monotonic() < deadline
    time.sleep(0.05)
print("threads", os.environ["OMP_NUM_THREADS"])
(folder / "out").touch()"""
    output = options().output

    def meeting(name, other):
        return Stage(name, {"name": name}, lambda folder, _: [sys.executable, "-c", program, str(folder),
                                                              f"{other}-????????/here"], product="out")

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    stages = [meeting("one", "two"), meeting("two", "one"), writer("after", parents=("one", "two"))]
    assert command.run(options("--jobs", "2", "--gpus", "0"), stages) == 0
    assert [path.read_text() for path in sorted(output.glob("*/output.txt"))] == ["", "threads 3\n", "threads 3\n"]
    out = capsys.readouterr().out
    assert "\n[1/3] one: its output goes to " in out and "\none: done in " in out and "threads" not in out
    assert command.run(options("--jobs", "2"), stages) == 0  # resumes as one at a time does
    assert times_run(options(), "after") == 1 and "done before" in capsys.readouterr().out


def test_run__a_failure_beside_others_shows_its_last_lines(options, capsys):
    program = "print('error: no data'); print('its last line'); raise SystemExit(3)"
    loud = Stage("loud", {}, lambda *_: [sys.executable, "-c", program], "out")
    stages = [loud, writer("child", parents=("loud",)), writer("good"), writer("better", parents=("good",))]
    assert command.run(options("--jobs", "2"), stages) == 3
    assert (times_run(options(), "better"), times_run(options(), "child")) == (1, 0)
    error = capsys.readouterr().err
    assert error.startswith("error: no data\nits last line\nerror: stage loud failed (exit code 3)")
    note = json.loads(next(options().output.glob("loud-*/failed.json")).read_text())  # what `status` shows
    assert note == {"exit_code": 3, "message": "stage loud failed (exit code 3): no data"}
    assert error.strip().endswith("not run for that reason: child")
    assert command.run(options(), [loud]) == 3  # alone it was seen as it came; output.txt is that of before
    assert capsys.readouterr().err.startswith("error: stage loud failed (exit code 3)")


@pytest.mark.parametrize("error", [UserError("expected a valid result, found none"),
                                   OSError(30, "Read-only file system: expected a valid result, found none")])
def test_run__a_result_that_is_refused_stops_no_other_stage(options, capsys, error):
    def refuse(folder, key):
        raise error

    stages = [replace(writer("bad"), finish=refuse), writer("child", parents=("bad",)), writer("good")]
    assert command.run(options(), stages) == 2
    assert (times_run(options(), "good"), times_run(options(), "child")) == (1, 0)
    shown = capsys.readouterr().err
    assert "error: stage bad: " in shown and "expected a valid result, found none" in shown
    assert shown.strip().splitlines()[-1].startswith("error: stage bad failed (exit code 2)")


def test_print_plan__says_what_is_done(options, capsys):
    stages = [writer("one"), writer("two", parents=("one",))]
    command.print_plan(options(), stages)
    assert capsys.readouterr().out.count("to do  ") == 2
    command.run(options(), stages)
    capsys.readouterr()
    command.print_plan(options(), stages)
    out = capsys.readouterr().out
    assert out.count("done (") == 2 and "disk for what is to do" in out and "core-hours" not in out
    command.print_plan(options("--gpus", "0"), [*stages, replace(writer("three"), core_hours=1.54)])
    assert "CPU: about 1.5 core-hours for what is to do" in capsys.readouterr().out


def test_print_plan__a_finished_training_is_only_evaluated(options, capsys):
    stage = replace(writer("one"), kind="finetune")
    folder = stage.folder(options().output, stage.key({}))
    folder.mkdir(parents=True)
    (folder / "model_final.pth").touch()
    command.print_plan(options(), [stage])
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split()[:3] == ["one", "to", "evaluate"] and line.endswith("; an evaluation; 0.1 GB")


def test_run__too_little_disk_is_told_before_anything_runs(options):
    stage = writer("one")
    stage.disk_gb = 1e6
    passing = [writer("one"), writer("two")]
    for each, peak in zip(passing, (1.5, 4.0), strict=True):
        each.disk_gb, each.passing_gb = peak, peak - 0.25
    assert command.disk_needed([*passing, writer("three")]) == 0.5 + 3.75 and command.disk_needed([]) == 0
    assert command.disk_needed(passing, jobs=2) == 0.5 + 3.75 + 1.25
    with pytest.raises(UserError, match="needs about 1000000.0 GB more, found"):
        command.run(options(), [stage])
    assert times_run(options(), "one") == 0


def test_publish__adds_the_row_and_is_found_by_the_tables(tmp_path, make_result):
    options = parse(["--demo", "--output", str(tmp_path)])
    made = Stage("finetune-clove-coco-0", {}, lambda *_: [], "result.json", planned="ef" * 32)
    result = {name: value for name, value in make_result().items()
              if name not in ("method", "epochs", "demo", "stage", "digest")}
    (tmp_path / "result.json").write_text(json.dumps(result))
    path = publish(tmp_path, "ab" * 32, made, Origin("CLoVE", None, True, options.results))
    written = json.loads(path.read_text())
    assert "label" not in written["dataset"]
    assert written["method"] == "CLoVE" and written["demo"] is True
    assert written["stage"] == {"name": "finetune-clove-coco-0", "key": "ab" * 32, "planned": "ef" * 32}
    assert path.parent == tmp_path / "results" / "runs"


def test_publish__names_no_place_outside_the_run(tmp_path, make_result):
    run = tmp_path / "run"
    for place, weights, expected in (("a", run / "convert" / "w.pkl", "convert/w.pkl"), ("b", "", ""),
                                     ("c", "/elsewhere/w.pkl", "/elsewhere/w.pkl")):
        result = {name: value for name, value in make_result().items()
                  if name not in ("method", "epochs", "demo", "stage", "digest")}
        result["config"] |= {"OUTPUT_DIR": str(run / place), "MODEL": {"WEIGHTS": str(weights)}}
        (run / place).mkdir(parents=True)
        (run / place / "result.json").write_text(json.dumps(result))
        made = Stage("finetune-clove-coco-0", {}, lambda *_: [], "result.json", planned="ef" * 32)
        path = publish(run / place, "ab" * 32, made, Origin("CLoVE", None, False, tmp_path / "results"))
        config = json.loads(path.read_text())["config"]
        assert (config["OUTPUT_DIR"], config["MODEL"]["WEIGHTS"]) == (place, expected)


def test_publish__a_result_as_the_fine_tuning_writes_it(tmp_path, make_result):
    options = parse(["--demo", "--output", str(tmp_path)])
    made = Stage("finetune-clove-coco-0", {}, lambda *_: [], "result.json", planned="ef" * 32)
    result = {name: value for name, value in make_result().items()
              if name not in ("method", "epochs", "demo", "stage", "digest", "details")}
    result["metrics"] = {column.metric: 40.0 for column in tasks.get(result["task"]).columns} | {"bbox/APs": 20.5}
    (tmp_path / "result.json").write_text(json.dumps(result))
    publish(tmp_path, "ab" * 32, made, Origin("CLoVE", None, True, options.results))
    found, problems = results.read_results(tmp_path / "results" / "runs")
    assert len(found) == 1 and problems == []


@pytest.mark.parametrize(("words", "stays"), [([], True), (["--keep", "last"], True), (["--keep", "none"], False)])
def test_finish__publishes_and_keeps_the_models_that_are_wanted(tmp_path, make_result, words, stays):
    stages = plan(parse(["--demo", "--output", str(tmp_path), *words]))
    stage = next(stage for stage in stages if stage.name == "finetune-clove-coco-0")
    folder = tmp_path / "finetune-clove-coco-0-abababab"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({
        name: value for name, value in make_result().items()
        if name not in ("method", "epochs", "demo", "stage", "digest")}))
    (folder / "model_final.pth").write_bytes(b"weights")
    stage.finish(folder, "ab" * 32)
    assert len(list((tmp_path / "results" / "runs").iterdir())) == 1
    assert (folder / "model_final.pth").is_file() == stays and (folder / "result.json").is_file()


def test_publish__own_data_is_called_by_its_label(tmp_path, make_result):
    options = parse(["--demo", "--output", str(tmp_path)])
    made = Stage("finetune-clove-coco-0", {}, lambda *_: [], "result.json", planned="ef" * 32)
    result = {name: value for name, value in make_result().items()
              if name not in ("method", "epochs", "demo", "stage", "digest")}
    (tmp_path / "result.json").write_text(json.dumps(result))
    result["weights"]["pretraining"] = {"objective": "clove", "seed": 3, "recipe_sha256": "1" * 64,
                                        "images_sha256": "2" * 64}
    (tmp_path / "result.json").write_text(json.dumps(result))
    evaluated = replace(made, evaluation={"data": "cd" * 32})
    path = publish(tmp_path, "ab" * 32, evaluated, Origin("CLoVE", "nuclei", False, options.results, "labelled"))
    written = json.loads(path.read_text())
    assert written["stage"]["images"] == "labelled"
    assert written["weights"]["pretraining"] == result["weights"]["pretraining"]
    assert written["dataset"]["label"] == "nuclei" and written["stage"]["key"] != "ab" * 32
