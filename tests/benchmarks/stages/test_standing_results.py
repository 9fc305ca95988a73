"""A committed result makes its stages done, even where the backbone and the work are gone."""

import json
import shutil
import sys

import pytest

from benchmarks import __main__ as command
from benchmarks.options.run_options import parse
from benchmarks.records import results
from benchmarks.stages.stage import Stage, plan_keys
from benchmarks.stages.standing_results import standing

WRITE = "import pathlib, sys; folder = pathlib.Path(sys.argv[1]); (folder / 'out').write_text(sys.argv[2])"


@pytest.fixture
def options(tmp_path):
    return lambda *words: parse(["--demo", "--output", str(tmp_path / "out"), *words])


@pytest.fixture
def chain(make_result, options):
    """chain(**more of the fine-tunings): a backbone, what is converted from it, and two fine-tunings of that."""

    def work(name, parents=(), **more):
        return Stage(name, {"of": name}, lambda folder, _: [sys.executable, "-c", WRITE, str(folder), name], "out",
                     parents=parents, **more)

    def finetune(trial, more):
        stage = work(f"finetune-a-coco-{trial}", ("convert-a",), kind="finetune", **more)

        def finish(_, key):
            result = make_result(trial=trial, seed=trial)
            result["stage"] = {"name": stage.name, "key": stage.result_key(key), "planned": stage.planned}
            results.write_result(options().results / "runs", result)

        stage.finish = finish
        return stage

    def make(**more):
        stages = [work("pretrain-a"), work("convert-a", ("pretrain-a",)), finetune(0, more), finetune(1, more)]
        plan_keys(stages)
        return stages

    return make


NAMES = {"pretrain-a", "convert-a", "finetune-a-coco-0", "finetune-a-coco-1"}


def ran(options, stages, capsys):
    """Names of the stages that a run does."""
    capsys.readouterr()
    assert command.run(options, stages) == 0
    shown = capsys.readouterr().out
    return {stage.name for stage in stages if f"] {stage.name}\n" in shown}


def test_standing__all_results_there_and_the_work_gone(options, chain, capsys):
    assert ran(options(), chain(), capsys) == NAMES
    assert len(list((options().results / "runs").iterdir())) == 2
    for folder in options().output.glob("*-????????"):
        shutil.rmtree(folder)
    assert standing(chain(), options()) == NAMES
    assert ran(options(), chain(), capsys) == set() and list(options().output.glob("*-????????")) == []
    command.print_plan(options(), chain())
    shown = capsys.readouterr().out
    assert shown.count("result stands") == 4 and "disk for what is to do: 0.0 GB" in shown


def test_standing__one_result_that_is_missing_or_edited_needs_its_parents(options, chain, capsys):
    ran(options(), chain(), capsys)
    for folder in options().output.glob("*-????????"):
        shutil.rmtree(folder)
    path = next(path for path in (options().results / "runs").iterdir() if "trial1" in path.name)
    edited = json.loads(path.read_text())
    edited["trial"] = 5
    path.write_text(json.dumps(edited))
    assert standing(chain(), options()) == {"finetune-a-coco-0"}
    assert ran(options(), chain(), capsys) == NAMES - {"finetune-a-coco-0"}


def test_standing__other_values_other_evaluations_and_reruns_do_not_stand(options, chain, capsys):
    ran(options(), chain(), capsys)
    for folder in options().output.glob("*-????????"):
        shutil.rmtree(folder)
    assert standing(chain(evaluation={"data": "fixed"}), options()) == set()
    assert standing(chain(inputs={"data": "other"}), options()) == set()
    assert standing(chain(), options("--rerun", "finetune-a-coco-1")) == {"finetune-a-coco-0"}
    assert standing(chain(), options("--rerun", "pretrain-a")) == set()
    assert ran(options("--rerun", "finetune-a-coco-1"), chain(), capsys) == NAMES - {"finetune-a-coco-0"}


def test_standing__work_that_was_begun_again_goes_on(options, chain, capsys):
    ran(options(), chain(), capsys)
    folder = next(options().output.glob("finetune-a-coco-0-????????"))
    (folder / "stage.json").unlink()
    assert standing(chain(), options()) == {"finetune-a-coco-1"}


def test_standing__results_of_versions_that_did_not_plan_do_not_count(options, chain, make_result):
    results.write_result(options().results / "runs", make_result())
    assert standing(chain(), options()) == set()
