"""The graph and how it is run: keys, what is missing, failures, second runs."""

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from benchmarks import __main__ as command
from benchmarks import demo_data, estimate, results, suite
from benchmarks.evaluations import Evaluation
from benchmarks.inputs import Photos, TaskData
from benchmarks.options import SCALES, parse
from pretrain.atomic import sha256_file
from pretrain.errors import UserError
from transfer.tasks import TASKS


def names(words):
    return [stage.name for stage in suite.plan(parse(words))]


def test_plan__demo_has_every_stage_after_its_parents():
    stages = suite.plan(parse(["--demo", "--trials", "2", "--tasks", "coco,cityscapes"]))
    assert [stage.name for stage in stages] == [
        "data", "pretrain-clove", "convert-clove", "finetune-clove-coco-0", "finetune-clove-coco-1",
        "finetune-clove-cityscapes-0", "finetune-clove-cityscapes-1", "finetune-rand-coco-0", "finetune-rand-coco-1",
        "finetune-rand-cityscapes-0", "finetune-rand-cityscapes-1"]
    seen = set()
    for stage in stages:
        assert set(stage.parents) <= seen
        seen.add(stage.name)


def test_plan__missing_inputs_are_told_all_at_once(monkeypatch, tmp_path):
    for name in ("IMAGENET_DIR", "DETECTRON2_DATASETS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError) as error:
        suite.plan(parse(["--epochs", "200", "--coco", str(tmp_path / "none")]))
    text = str(error.value)
    assert text.startswith("4 inputs missing or wrong, nothing was run:")
    for words in ("IMAGENET_DIR/train/CLASS", "task coco", "task keypoints", "task cityscapes: give --cityscapes DIR",
                  "leftImg8bit", "annotations/instances_train*.json"):
        assert words in text


def test_plan__tasks_beyond_the_posters(monkeypatch, tmp_path):
    assert names(["--demo", "--tasks", "coco-c4,voc"])[3:] == [
        "finetune-clove-coco-c4-0", "finetune-clove-voc-0", "finetune-rand-coco-c4-0", "finetune-rand-voc-0"]
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(UserError) as error:
        suite.plan(parse(["--methods", "rand", "--tasks", "coco-c4,voc,lvis"]))
    for words in ("task coco-c4: ", f"{tmp_path / 'coco'} is not a folder", "task voc: ", f"{tmp_path / 'voc'} is not",
                  "VOC2007/ and DIR/VOC2012/", f"{tmp_path / 'lvis'} is not", "lvis_v1_train.json"):
        assert words in str(error.value)


def test_plan__head_families_are_for_fpn_tasks():
    with pytest.raises(UserError, match="--heads 2fc: task voc has heads c4; leave out the option or the task"):
        suite.plan(parse(["--demo", "--tasks", "coco,voc", "--heads", "2fc"]))


def test_tiny__is_two_steps_two_iterations_and_two_images():
    options = parse(["--tiny"])
    data, pretrain, *others = suite.plan(options)
    assert pretrain.steps == 2
    assert data.numbers["val"] == 2 and data.numbers == suite.DEMO_DATA["tiny"] != suite.DEMO_DATA["demo"]
    assert {stage.steps for stage in others if stage.kind == "finetune"} == {2}
    assert pretrain.cost == "8 image views of 64 px"


@pytest.mark.parametrize("task", TASKS)
def test_protocols__are_what_transfer_resolves(task):
    from transfer import settings

    full = parse(["--methods", "rand", "--tasks", task])
    heads = TASKS[task].default_heads
    resolved = settings.layers(task, heads, "full").SOLVER
    assert suite._protocol(full, task).iterations == resolved.MAX_ITER
    assert suite._protocol(full, task).batch == resolved.IMS_PER_BATCH
    shorter = parse(["--methods", "rand", "--tasks", task, "--set", f"{task}.SOLVER.MAX_ITER=100000"])
    assert suite._protocol(shorter, task).iterations == 100_000
    assert SCALES == settings.SCALES
    for scale in SCALES:
        scaled = parse(["--methods", "rand", "--tasks", task, "--scale", scale])
        small = settings.layers(task, heads, scale).SOLVER
        found = suite._protocol(scaled, task)
        assert (found.iterations, found.batch) == (small.MAX_ITER, small.IMS_PER_BATCH)
    cost = estimate.finetuning(task, resolved.MAX_ITER, "full")
    assert re.fullmatch(r"about \d+ V100-hours \(model zoo's speed\)", cost)


def test_command__of_every_task_is_understood_by_the_real_parser(tmp_path):
    from transfer.__main__ import _parser

    for stage in suite.plan(parse(["--demo", "--tasks", ",".join(TASKS), "--device", "cpu"])):
        if stage.name.startswith("finetune"):
            words = stage.command(tmp_path, {name: tmp_path / name for name in stage.parents})
            args = _parser("finetune").parse_args(words[4:])
            assert args.data == str(tmp_path / "data" / "data" / TASKS[args.task].demo_layout)
            assert args.heads is None  # the task's own


def test_plan__environment_variables_name_the_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path / "in1k"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "d2"))
    with pytest.raises(UserError) as error:
        suite.plan(parse(["--epochs", "200"]))
    for place in ("in1k/train", "d2/coco", "d2/cityscapes"):
        assert str(tmp_path / place) in str(error.value)


def key(words, name="finetune-rand-coco-0"):
    stage = next(stage for stage in suite.plan(parse(words)) if stage.name == name)
    return stage.key(dict.fromkeys(stage.parents, "hash"))


def test_key__follows_values_and_not_comments(monkeypatch, tmp_path):
    from transfer import settings

    before = key(["--demo"])
    copied = tmp_path / "configs"
    shutil.copytree(settings.CONFIGS, copied)
    monkeypatch.setattr(settings, "CONFIGS", copied)
    small = copied / "scale-demo.yaml"
    small.write_text("# another comment\n" + small.read_text(encoding="utf-8"), encoding="utf-8")
    assert key(["--demo"]) == before
    text = small.read_text(encoding="utf-8")
    assert "MAX_ITER: 25" in text
    small.write_text(text.replace("MAX_ITER: 25", "MAX_ITER: 26"), encoding="utf-8")
    assert key(["--demo"]) != before


def test_key__follows_trial_heads_and_overrides():
    keys = [key(["--demo"]), key(["--demo", "--heads", "2fc"]), key(["--demo", "--set", "coco.SOLVER.MAX_ITER=3"]),
            key(["--demo", "--trials", "2"], "finetune-rand-coco-1")]
    assert len(set(keys)) == 4
    assert key(["--demo", "--set", "keypoints.SOLVER.MAX_ITER=3"]) == keys[0]
    assert key(["--demo", "--set", "coco.DATALOADER.NUM_WORKERS=1"]) == keys[0]


def test_key__of_pretraining_follows_the_half_that_changes_the_numbers():
    before = key(["--demo"], "pretrain-clove")
    assert key(["--demo", "--set", "pretrain.workers=1"], "pretrain-clove") == before
    assert key(["--demo", "--set", "pretrain.seed=1"], "pretrain-clove") != before


def test_command__of_pretraining_is_understood_by_the_real_parser(tmp_path):
    from pretrain.__main__ import parse as parse_pretrain

    options = parse(["--demo", "--set", "pretrain.seed=5", "--device", "cpu"])
    stage = next(stage for stage in suite.plan(options) if stage.name == "pretrain-clove")
    words = stage.command(tmp_path, {"data": tmp_path})
    assert words[1:4] == ["-P", "-m", "pretrain"]
    _, config = parse_pretrain(words[4:])
    assert config.train == options.pretrainings[0].config.train
    assert config.runtime.device == "cpu"


def test_plan__pretrainings_datasets_and_shares_stand_beside_each_other(tmp_path):
    options = parse(["--pretrain", "clove=mini", "--pretrain", "wide=mini,global_scale=0.3,1", "--pretrain-seeds", "2",
                     "--methods", "clove,wide,rand_msra", "--tasks", "coco", "--train-share", "0.1,1", "--preflight",
                     "--photos", "p", "--coco", "a", "--coco", "own=b"])
    data = tuple(TaskData(one.label, one.folder, one.part, 9, 9, one.label * 64, "e" * 64)
                 for one in options.data["coco"])
    inputs = suite.Inputs(Photos(tmp_path, 999, "f" * 64), {"coco": data}, {}, suite.find_protocols(options))
    stages = {stage.name: stage for stage in suite.build(options, inputs)}
    kinds = {kind: [stage.name for stage in stages.values() if stage.kind == kind]
             for kind in ("preflight", "pretrain", "finetune")}
    assert kinds["preflight"] == ["preflight-coco", "preflight-coco.own"]
    assert kinds["pretrain"] == ["pretrain-clove", "pretrain-clove.seed1", "pretrain-wide", "pretrain-wide.seed1"]
    places = ("coco.share0.1", "coco", "coco.own.share0.1", "coco.own")
    assert kinds["finetune"] == [
        f"finetune-{start}-{place}-0" for start in ("clove", "clove.seed1", "wide", "wide.seed1", "rand_msra")
        for place in places]
    part = stages["finetune-wide.seed1-coco.own.share0.1-0"]
    assert part.parents == ("convert-wide.seed1",) and part.gates == ("preflight-coco.own",)
    words = [str(word) for word in part.command(tmp_path, {"convert-wide.seed1": tmp_path})]
    assert words[words.index("--train-share") + 1] == "0.1" and words[words.index("--data") + 1].endswith("/b")
    words = [str(word) for word in stages["pretrain-wide.seed1"].command(tmp_path, {})]
    assert words[words.index("--seed") + 1] == "1" and words[words.index("--global-scale") + 1] == "0.3"
    assert len({stage.planned for stage in stages.values()}) == len(stages)
    alone = parse(["--recipe", "mini", "--photos", "p", "--methods", "clove", "--tasks", "coco", "--coco", "a"])
    [pretrain, convert, finetune] = suite.build(alone, replace(inputs, data={"coco": data[:1]}))
    for stage in (pretrain, convert, finetune):  # what stands beside it changes neither name nor key
        assert (stages[stage.name].planned, stages[stage.name].key(dict.fromkeys(stage.parents, "x"))) == (
            stage.planned, stage.key(dict.fromkeys(stage.parents, "x")))


def test_plan__datasets_that_no_result_could_tell_apart_are_refused(tmp_path):
    assert demo_data.main(["--output", str(tmp_path / "data"), "--photos", "1", "--train", "2", "--val", "2"]) is None
    shutil.copytree(tmp_path / "data" / "coco", tmp_path / "copy")
    words = ["--methods", "rand", "--tasks", "coco", "--scale", "tiny", "--coco", str(tmp_path / "data" / "coco")]
    with pytest.raises(UserError, match=r"  - task coco: the annotations of copy are those of coco: their results "):
        suite.plan(parse([*words, "--coco", str(tmp_path / "copy")]))
    path = tmp_path / "copy" / "annotations" / "instances_val.json"
    path.write_text(path.read_text() + " ")
    stages = {stage.name: stage for stage in suite.plan(parse([*words, "--coco", str(tmp_path / "copy")]))}
    first, second = stages["finetune-rand-coco-0"], stages["finetune-rand-coco.copy-0"]
    assert first.key({}) == second.key({}) and first.planned != second.planned


def test_plan__two_stages_of_one_name_are_refused():
    with pytest.raises(UserError, match=r"^two stages would be called pretrain-clove.seed1: choose another label"):
        suite.plan(parse(["--tiny", "--tasks", "coco", "--pretrain", "clove=tiny", "--pretrain", "clove.seed1=tiny",
                          "--pretrain-seeds", "2"]))


def test_key__other_validation_data_is_the_same_training_with_another_result(tmp_path):
    words = ["--methods", "rand", "--tasks", "coco"]
    options = parse(words)
    protocols = suite.find_protocols(options)

    def stage(training, evaluation):
        data = TaskData("own", tmp_path, "", 9, 9, training, evaluation)
        return suite.build(options, suite.Inputs(None, {"coco": (data,)}, {}, protocols))[0]

    first, fixed, other = stage("a", "b"), stage("a", "c"), stage("d", "b")
    protocols = suite.find_protocols(parse([*words, "--set", "coco.TEST.DETECTIONS_PER_IMAGE=7"]))
    fewer = stage("a", "b")
    assert first.key({}) == fixed.key({}) == fewer.key({}) != other.key({})
    assert len({one.result_key(one.key({})) for one in (first, fixed, other, fewer)}) == 4
    assert len({one.planned for one in (first, fixed, other, fewer)}) == 4


def test_command__several_gpus_start_torchrun(tmp_path):
    options = parse(["--demo", "--gpus", "2"])
    stage = next(stage for stage in suite.plan(options) if stage.name == "pretrain-clove")
    words = stage.command(tmp_path, {"data": tmp_path})
    assert words[3:9] == ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pretrain"]


def test_gpus__the_demo_takes_one_and_a_number_that_does_not_divide_a_batch_is_told_now(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    assert suite.count_gpus(parse(["--demo"])) == suite.count_gpus(parse(["--tiny"])) == 1
    assert suite.count_gpus(parse(FULL)) == 8
    assert suite.count_gpus(parse([*FULL, "--gpus", "0"])) == 0 and parse([*FULL, "--gpus", "0"]).device == "cpu"
    with pytest.raises(UserError, match="--gpus must be at least 0, found -1"):
        parse(["--demo", "--gpus", "-1"])
    for words, text in ((["--gpus", "3"], r"IMS_PER_BATCH 16 cannot be shared by 3 processes"),
                        (["--gpus", "8", "--fit", "accumulate=4"], "accumulate=4 cannot be shared by 8 processes")):
        with pytest.raises(UserError, match=f"task coco: .*{text}"):
            suite.find_protocols(parse([*FULL, *words]))
    linear = [*FULL, "--gpus", "1", "--fit", "linear=4", "--set"]
    suite.find_protocols(parse([*linear, "coco.SOLVER.MAX_ITER=80000"]))  # its steps are at 240,000 and 320,000
    with pytest.raises(UserError, match=r"STEPS \(240000, 320000\) must lie before"):
        suite.find_protocols(parse([*linear, "coco.SOLVER.MAX_ITER=240000"]))


def test_preflight__on_a_cluster_at_full_scale_unless_it_is_not_wanted(tmp_path):
    def preflights(*words):
        return [stage for stage in suite.plan(parse([*words, "--output", str(tmp_path)])) if stage.kind == "preflight"]

    slurm = ("--cluster", "slurm", "--time", "20")
    assert parse(["--methods", "rand", *slurm]).preflight and not parse(["--methods", "rand"]).preflight
    assert not parse(["--methods", "rand", "--scale", "mini", *slurm]).preflight
    assert not parse(["--methods", "rand", "--no-preflight", *slurm]).preflight
    assert preflights("--demo") == []
    stages = preflights("--demo", "--preflight", "--tasks", "coco,cityscapes")
    assert [stage.name for stage in stages] == ["preflight-coco", "preflight-cityscapes"]
    words = stages[0].command(tmp_path, {"data": tmp_path})
    assert words[3:5] == ["transfer", "preflight"] and words[-2:] == ["--output", str(tmp_path / "preflight")]


def test_main__unknown_rerun_names_the_stages(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--demo", "--rerun", "pretraining"])
    with pytest.raises(UserError, match="--rerun pretraining: no such stage; there are data, pretrain-clove, "):
        command.main()


@pytest.mark.parametrize(("word", "text"), [
    ("coco.SOLVER.MAXITER=3", "task coco: --set SOLVER.MAXITER=3: detectron2's config has no key SOLVER.MAXITER; "
                              "the nearest is SOLVER.MAX_ITER"),
    ("transfer.SOLVER.MAX_ITER=soon", "task coco: --set SOLVER.MAX_ITER=soon: SOLVER.MAX_ITER is 25 by default"),
])
def test_plan__a_wrong_value_of_a_task_is_told_before_anything_runs(tmp_path, word, text):
    with pytest.raises(UserError, match=text):
        suite.plan(parse(["--demo", "--output", str(tmp_path), "--set", word]))


def finetune_words(arguments, name="finetune-rand-coco-0"):
    """What `python -m transfer finetune` is told, without its folders."""
    stage = next(stage for stage in suite.plan(parse(arguments)) if stage.name == name)
    folders = {parent: Path(f"of-{parent}") for parent in stage.parents}
    return [str(word) for word in stage.command(Path("here"), folders)[5:]]


@pytest.mark.parametrize(("method", "word"), [("rand", "random"), ("rand_msra", "random-msra"),
                                              ("rand_zero_gamma", "random-zero-gamma")])
def test_command__each_random_method_has_its_word_and_its_row(method, word):
    from transfer.weights import RANDOM

    words = finetune_words(["--demo", "--methods", f"clove,{method}"], f"finetune-{method}-coco-0")
    assert words[words.index("--weights") + 1] == word
    assert RANDOM[word][0] == suite.DISPLAY[method] and RANDOM[word][0] in results.RANDOM
    assert len(RANDOM) == len(results.RANDOM)


def test_command__fit_early_numbers_and_predictions_reach_the_fine_tuning():
    import argparse

    from transfer.finetune import add_arguments

    words = finetune_words(["--demo", "--fit", "accumulate=1", "--eval-every", "5", "--keep-predictions"])
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(words)
    assert (args.fit, args.eval_every, args.keep_predictions, args.weights) == ("accumulate=1", 5, True, "random")
    assert not {"--fit", "--eval-every", "--keep-predictions"} & set(finetune_words(["--demo"]))


def test_key__follows_what_changes_the_figures_and_not_what_only_looks():
    keys = [key(["--demo"]), key(["--demo", "--fit", "accumulate=1"]), key(["--demo", "--fit", "linear=1"]),
            key(["--demo", "--methods", "clove,rand_msra"], "finetune-rand_msra-coco-0")]
    assert len(set(keys)) == 4
    assert key(["--demo", "--eval-every", "5", "--keep-predictions"]) == keys[0]


def test_architecture__of_random_methods_follows_the_recipe_or_the_option(tmp_path):
    file = tmp_path / "mine.pth"
    file.write_bytes(b"weights")
    found = TaskData("own", tmp_path, "", 9, 9, "a", "b")
    for words, name in ((["--tiny"], "resnet18"), (["--demo"], "resnet50"), (["--methods", "rand"], "resnet50"),
                        (["--methods", "rand", "--architecture", "resnet34"], "resnet34"),
                        (["--checkpoint", f"mine={file}", "--methods", "rand,mine", "--architecture", "resnet18"],
                         "resnet18")):
        options = parse([*words, "--preflight"])
        inputs = suite.Inputs(data={"coco": (found,)}, protocols=suite.find_protocols(options))
        rand = next(start for start in suite.starts(options) if start.random)
        stages = [suite._finetune(options, inputs, rand, Evaluation("coco", found)),
                  suite._preflight(options, inputs, Evaluation("coco", found))]
        for stage in stages:
            made = stage.command(tmp_path, {"data": tmp_path})
            assert made[made.index("--architecture") + 1] == stage.numbers["architecture"] == name
    with pytest.raises(UserError, match="--architecture resnet18 changes nothing here: a checkpoint has its own"):
        parse(["--checkpoint", f"mine={file}", "--architecture", "resnet18"])


def test_branch__reaches_the_conversion_of_checkpoints(tmp_path):
    file = tmp_path / "mine.pth"
    file.write_bytes(b"weights")
    made = []
    for words in ([], ["--branch", "teacher"]):
        options = parse(["--checkpoint", f"mine={file}", *words])
        [start] = suite.starts(options)
        stage = suite._convert(options, start, suite.Inputs(checkpoints={"mine": "ab" * 32}))
        made.append((stage.key({}), stage.command(tmp_path, {})))
    assert made[0][0] != made[1][0]
    assert made[1][1][-2:] == ["--branch", "teacher"] and "--branch" not in made[0][1]


def test_plan__a_fit_that_does_not_divide_is_told_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="task coco: accumulate=3 does not fit a batch of 2: expected a number that"):
        suite.plan(parse(["--demo", "--output", str(tmp_path), "--fit", "accumulate=3"]))


FULL = ["--methods", "rand", "--tasks", "coco,keypoints"]


def full_words(words, stage):
    options = parse([*FULL, *words])
    data = TaskData("data", Path("data"), "", 1, 1, "0" * 64, "1" * 64)
    inputs = suite.Inputs(data=dict.fromkeys(options.tasks, (data,)), protocols=suite.find_protocols(options))
    made = next(one for one in suite.build(options, inputs) if one.name == f"{stage}-0")
    return made, [str(word) for word in made.command(Path("folder"), {})]


def test_schedule_and_solver__reach_the_tasks_that_are_named(tmp_path):
    chosen = ["--schedule", "coco=2x_1gpu,keypoints=1x", "--solver", "coco=vicreg"]
    made, words = full_words(chosen, "finetune-rand-coco")
    assert words[words.index("--schedule") + 1] == "2x_1gpu" and words[words.index("--solver") + 1] == "vicreg"
    assert made.steps == 180_000
    _, other = full_words(["--schedule", "coco=2x"], "finetune-rand-keypoints")
    assert "--schedule" not in other and "--solver" not in other
    keys = {full_words(words, "finetune-rand-coco")[0].key({})
            for words in ([], ["--schedule", "2x"], ["--schedule", "1x_1gpu"], ["--solver", "coco=vicreg"])}
    assert len(keys) == 4


def test_schedule__costs_follow():
    hours = [full_words(words, "finetune-rand-coco")[0].cost for words in ([], ["--schedule", "2x"],
                                                                           ["--schedule", "2x_1gpu"])]
    assert hours[0] != hours[1] == hours[2]


@pytest.mark.parametrize(("words", "text"), [
    (["--schedule", "3x"], "task coco: unknown --schedule '3x' for task coco: expected one of 1x, 2x"),
    (["--solver", "vicreg"], "task keypoints: unknown --solver 'vicreg' for task keypoints: expected one of common"),
    (["--schedule", "1x_1gpu", "--fit", "linear=4"], "--schedule 1x_1gpu and --fit linear=4 both say"),
    (["--schedule", "1x", "--scale", "mini"], "--schedule 1x: scale mini has a length and a solver of its own"),
])
def test_schedule_and_solver__what_a_task_has_not_is_told_before_anything_runs(words, text):
    with pytest.raises(UserError) as error:
        suite.find_protocols(parse([*FULL, *words]))
    assert text in str(error.value)


def test_plan__every_checkpoint_is_read_before_anything_runs(tmp_path):
    assert demo_data.main(["--output", str(tmp_path / "data"), "--photos", "1", "--train", "2", "--val", "2"]) is None
    good, bad = tmp_path / "good.pth", tmp_path / "bad.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), good)
    bad.write_bytes(b"<html>")
    where = ["--tasks", "coco", "--scale", "tiny", "--coco", str(tmp_path / "data" / "coco")]
    with pytest.raises(UserError) as caught:
        suite.find_inputs(parse(["--checkpoint", f"good={good}", "--checkpoint", f"bad={bad}", "--checkpoint",
                                 f"worse={bad}", *where]))
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 inputs missing or wrong, nothing was run:"
    assert [line.split(": ")[0] for line in lines[1:3]] == ["  - checkpoint bad", "  - checkpoint worse"]
    found = suite.find_inputs(parse(["--checkpoint", f"good={good}", *where]))
    assert found.checkpoints == {"good": sha256_file(good)}
    with pytest.raises(UserError, match="checkpoint good: expected one of the branches of .*, found 'teacher'"):
        suite.find_inputs(parse(["--checkpoint", f"good={good}", "--branch", "teacher", *where]))


def test_plan__images_without_a_class_are_told_before_anything_runs(tmp_path):
    demo_data.main(["--output", str(tmp_path / "data"), "--photos", "8", "--train", "2", "--val", "2"])
    photos, coco = tmp_path / "data" / "photos", tmp_path / "data" / "coco"
    with pytest.raises(UserError) as caught:
        suite.find_inputs(parse(["--pretrain", "a=tiny,objective=supervised,labels=prefix", "--photos", str(photos),
                                 "--tasks", "coco", "--scale", "tiny", "--coco", str(coco)]))
    first, line, *_ = str(caught.value).splitlines()
    assert first == "1 input missing or wrong, nothing was run:"
    assert line.startswith(f"  - pretraining images in {photos}: labels prefix: expected CLASS__IMAGE for every image")
