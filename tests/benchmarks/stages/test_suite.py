"""The graph: its stages, their keys and commands."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.demo import demo_data
from benchmarks.options.inputs import Photos, TaskData
from benchmarks.options.run_options import parse
from benchmarks.records import results
from benchmarks.stages import suite
from benchmarks.stages.checked_inputs import DEMO_DATA, Inputs, find_protocols
from pretrain.common.errors import UserError
from tests.benchmarks.plans import plan
from transfer.tasks import TASKS


def names(words):
    return [stage.name for stage in plan(parse(words))]


def test_plan__demo_has_every_stage_after_its_parents():
    stages = plan(parse(["--demo", "--trials", "2", "--tasks", "coco,cityscapes"]))
    assert [stage.name for stage in stages] == [
        "data", "pretrain-clove", "convert-clove", "finetune-clove-coco-0", "finetune-clove-coco-1",
        "finetune-clove-cityscapes-0", "finetune-clove-cityscapes-1", "finetune-rand-coco-0", "finetune-rand-coco-1",
        "finetune-rand-cityscapes-0", "finetune-rand-cityscapes-1"]
    seen = set()
    for stage in stages:
        assert set(stage.parents) <= seen
        seen.add(stage.name)


def test_plan__tasks_beyond_the_posters(monkeypatch, tmp_path):
    assert names(["--demo", "--tasks", "coco-c4,voc"])[3:] == [
        "finetune-clove-coco-c4-0", "finetune-clove-voc-0", "finetune-rand-coco-c4-0", "finetune-rand-voc-0"]
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(UserError) as error:
        plan(parse(["--methods", "rand", "--tasks", "coco-c4,voc,lvis"]))
    for words in ("task coco-c4: ", f"{tmp_path / 'coco'} is not a folder", "task voc: ", f"{tmp_path / 'voc'} is not",
                  "VOC2007/ and DIR/VOC2012/", f"{tmp_path / 'lvis'} is not", "lvis_v1_train.json"):
        assert words in str(error.value)


def test_tiny__is_two_steps_two_iterations_and_two_images():
    options = parse(["--tiny"])
    data, pretrain, *others = plan(options)
    assert pretrain.steps == 2
    assert data.numbers["val"] == 2 and data.numbers == DEMO_DATA["tiny"] != DEMO_DATA["demo"]
    assert {stage.steps for stage in others if stage.kind == "finetune"} == {2}
    assert pretrain.cost == "8 image views of 64 px"


def test_command__of_every_task_is_understood_by_the_real_parser(tmp_path):
    from transfer.__main__ import build_parser as _parser

    for stage in plan(parse(["--demo", "--tasks", ",".join(TASKS), "--device", "cpu"])):
        if stage.name.startswith("finetune"):
            words = stage.command(tmp_path, {name: tmp_path / name for name in stage.parents})
            args = _parser("finetune").parse_args(words[4:])
            assert args.data == tmp_path / "data" / "data" / TASKS[args.task].demo_layout
            assert args.heads is None  # the task's own


def key(words, name="finetune-rand-coco-0"):
    stage = next(stage for stage in plan(parse(words)) if stage.name == name)
    return stage.key(dict.fromkeys(stage.parents, "hash"))


def test_key__follows_values_and_not_comments(monkeypatch, tmp_path):
    from transfer.settings import resolved_config

    before = key(["--demo"])
    copied = tmp_path / "configs"
    shutil.copytree(resolved_config.CONFIGS, copied)
    monkeypatch.setattr(resolved_config, "CONFIGS", copied)
    small = copied / "scale-demo.yaml"
    small.write_text("# another comment\n" + small.read_text(encoding="utf-8"), encoding="utf-8")
    assert key(["--demo"]) == before
    text = small.read_text(encoding="utf-8")
    assert "MAX_ITER: 40" in text
    small.write_text(text.replace("MAX_ITER: 40", "MAX_ITER: 41"), encoding="utf-8")
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
    stage = next(stage for stage in plan(options) if stage.name == "pretrain-clove")
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
    inputs = Inputs({"": Photos(tmp_path, 999, "f" * 64)}, {"coco": data}, {}, find_protocols(options))
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


def test_plan__paired_trials_take_the_seed_of_the_pretraining_and_run_seed_by_seed(tmp_path):
    options = parse(["--pretrain", "clove=mini", "--pretrain", "wide=mini,global_scale=0.3,1", "--pretrain-seeds",
                     "7,0", "--trials", "paired", "--tasks", "coco", "--probes", "--photos", "p", "--coco", "a"])
    data = (TaskData("a", tmp_path, "", 9, 9, "a" * 64, "e" * 64),)
    inputs = Inputs({"": Photos(tmp_path, 999, "f" * 64)}, {"coco": data}, {}, find_protocols(options))
    stages = suite.build(options, inputs)
    expected = []
    for seed, name in ((7, ".seed7"), (0, "")):
        for label in ("clove", "wide"):
            start = f"{label}{name}"
            expected += [f"pretrain-{start}", f"convert-{start}", f"probe-{start}-coco"]
            expected.append(f"finetune-{start}-coco-{seed}")
        expected.append(f"finetune-rand-coco-{seed}")
    assert [stage.name for stage in stages] == expected
    words = [str(word) for word in stages[3].command(tmp_path, {"convert-clove.seed7": tmp_path})]
    assert words[words.index("--trial") + 1] == "7" and stages[3].numbers["trial"] == 7


def test_plan__a_checkpoint_in_paired_trials_is_converted_once(tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"weights")
    options = parse(["--pretrain", "clove=mini", "--pretrain-seeds", "2", "--trials", "paired", "--tasks", "coco",
                     "--methods", "clove,mine", "--checkpoint", f"mine={tmp_path / 'mine.pth'}"])
    data = (TaskData("a", tmp_path, "", 9, 9, "a" * 64, "e" * 64),)
    inputs = Inputs({"": Photos(tmp_path, 999, "f" * 64)}, {"coco": data}, {"mine": "0" * 64}, find_protocols(options))
    assert [stage.name for stage in suite.build(options, inputs) if "mine" in stage.name] == [
        "convert-mine", "finetune-mine-coco-0", "finetune-mine-coco-1"]


def test_plan__a_control_takes_each_pretrainings_batch_norm(tmp_path):
    from transfer.__main__ import build_parser as _parser

    options = parse(["--pretrain", "clove=mini", "--pretrain-seeds", "7,8", "--trials", "paired", "--tasks", "coco",
                     "--methods", "clove,clove.random_convolutions"])
    data = (TaskData("a", tmp_path, "", 9, 9, "a" * 64, "e" * 64),)
    inputs = Inputs({"": Photos(tmp_path, 999, "f" * 64)}, {"coco": data}, {}, find_protocols(options))
    stages = suite.build(options, inputs)
    assert [stage.name for stage in stages][:5] == [
        "pretrain-clove.seed7", "convert-clove.seed7", "finetune-clove.seed7-coco-7",
        "convert-clove.seed7.random_convolutions", "finetune-clove.seed7.random_convolutions-coco-7"]
    control = stages[3]
    assert control.parents == ("pretrain-clove.seed7",) and stages[4].parents == (control.name,)
    words = control.command(tmp_path / "out", {"pretrain-clove.seed7": tmp_path})
    args = _parser("convert").parse_args(words[4:])
    assert args.file == str(tmp_path / "backbone.safetensors") and args.random_convolutions == 7
    assert control.numbers == {"method": "CLoVE (random convolutions)", "random_convolutions": 7}
    starts = suite.starts(options)
    assert [start.row for start in starts] == 2 * ["CLoVE"] + 2 * ["CLoVE (random convolutions)"]


def test_plan__pretrainings_take_the_images_of_their_folders(tmp_path):
    options = parse(["--pretrain", "all=mini", "--pretrain", "half=mini,images=labelled", "--tasks", "coco"])
    data = (TaskData("a", tmp_path, "", 9, 9, "a" * 64, "e" * 64),)
    photos = {"": Photos(tmp_path, 999, "f" * 64), "labelled": Photos(tmp_path / "labelled", 500, "d" * 64)}
    stages = {stage.name: stage for stage in suite.build(options, Inputs(photos, {"coco": data}, {},
                                                                        find_protocols(options)))}
    whole, half = stages["pretrain-all"], stages["pretrain-half"]
    assert (whole.inputs, half.inputs) == ({"images": "f" * 64}, {"images": "d" * 64})
    assert whole.planned != half.planned and (whole.steps, half.steps) == (31 * 4, 15 * 4)
    for stage, folder in ((whole, tmp_path), (half, tmp_path / "labelled")):
        words = stage.command(tmp_path / "out", {})
        assert words[words.index("--data") + 1] == str(folder)


def test_plan__datasets_that_no_result_could_tell_apart_are_refused(tmp_path):
    assert demo_data.main(["--output", str(tmp_path / "data"), "--photos", "1", "--train", "2", "--val", "2"]) is None
    shutil.copytree(tmp_path / "data" / "coco", tmp_path / "copy")
    words = ["--methods", "rand", "--tasks", "coco", "--scale", "tiny", "--coco", str(tmp_path / "data" / "coco")]
    with pytest.raises(UserError, match=r"  - task coco: the annotations of copy are those of coco: their results "):
        plan(parse([*words, "--coco", str(tmp_path / "copy")]))
    path = tmp_path / "copy" / "annotations" / "instances_val.json"
    path.write_text(path.read_text() + " ")
    stages = {stage.name: stage for stage in plan(parse([*words, "--coco", str(tmp_path / "copy")]))}
    first, second = stages["finetune-rand-coco-0"], stages["finetune-rand-coco.copy-0"]
    assert first.key({}) == second.key({}) and first.planned != second.planned


def test_plan__two_stages_of_one_name_are_refused():
    with pytest.raises(UserError, match=r"^two stages would be called pretrain-clove.seed1: choose another label"):
        plan(parse(["--tiny", "--tasks", "coco", "--pretrain", "clove=tiny", "--pretrain", "clove.seed1=tiny",
                          "--pretrain-seeds", "2"]))


def test_key__other_validation_data_is_the_same_training_with_another_result(tmp_path):
    words = ["--methods", "rand", "--tasks", "coco"]
    options = parse(words)
    protocols = find_protocols(options)

    def stage(training, evaluation):
        data = TaskData("own", tmp_path, "", 9, 9, training, evaluation)
        return suite.build(options, Inputs({}, {"coco": (data,)}, {}, protocols))[0]

    first, fixed, other = stage("a", "b"), stage("a", "c"), stage("d", "b")
    protocols = find_protocols(parse([*words, "--set", "coco.TEST.DETECTIONS_PER_IMAGE=7"]))
    fewer = stage("a", "b")
    assert first.key({}) == fixed.key({}) == fewer.key({}) != other.key({})
    assert len({one.result_key(one.key({})) for one in (first, fixed, other, fewer)}) == 4
    assert len({one.planned for one in (first, fixed, other, fewer)}) == 4


def test_command__several_gpus_start_torchrun(tmp_path):
    options = parse(["--demo", "--gpus", "2"])
    stage = next(stage for stage in plan(options) if stage.name == "pretrain-clove")
    words = stage.command(tmp_path, {"data": tmp_path})
    assert words[3:9] == ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pretrain"]


def test_preflight__on_a_cluster_at_full_scale_unless_it_is_not_wanted(tmp_path):
    def preflights(*words):
        return [stage for stage in plan(parse([*words, "--output", str(tmp_path)])) if stage.kind == "preflight"]

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


def finetune_words(arguments, name="finetune-rand-coco-0"):
    """What `clove finetune` is told, without its folders."""
    stage = next(stage for stage in plan(parse(arguments)) if stage.name == name)
    folders = {parent: Path(f"of-{parent}") for parent in stage.parents}
    return [str(word) for word in stage.command(Path("here"), folders)[5:]]


@pytest.mark.parametrize(("method", "word"), [("rand", "random"), ("rand_msra", "random-msra"),
                                              ("rand_zero_gamma", "random-zero-gamma")])
def test_command__each_random_method_has_its_word_and_its_row(method, word):
    from transfer.settings.start_weights import read_weights

    words = finetune_words(["--demo", "--methods", f"clove,{method}"], f"finetune-{method}-coco-0")
    assert words[words.index("--weights") + 1] == word
    assert read_weights(word).method == suite.DISPLAY[method] and suite.DISPLAY[method] in results.RANDOM


def test_command__fit_early_numbers_and_predictions_reach_the_fine_tuning():
    import argparse

    from transfer.finetuning.finetune import add_arguments

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
        inputs = Inputs({}, dict.fromkeys(options.tasks, (found,)), {"mine": "ab" * 32}, find_protocols(options))
        rand = next(start for start in suite.starts(options) if start.random)
        stages = {stage.name: stage for stage in suite.build(options, inputs)}
        for stage in (stages["preflight-coco"], stages[f"finetune-{rand.name}-coco-0"]):
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
        data = (TaskData("own", tmp_path, "", 9, 9, "a", "b"),)
        inputs = Inputs({}, dict.fromkeys(options.tasks, data), {"mine": "ab" * 32}, find_protocols(options))
        stage = next(stage for stage in suite.build(options, inputs) if stage.name == "convert-mine")
        made.append((stage.key({}), stage.command(tmp_path, {})))
    assert made[0][0] != made[1][0]
    assert made[1][1][-2:] == ["--branch", "teacher"] and "--branch" not in made[0][1]


FULL = ["--methods", "rand", "--tasks", "coco,keypoints"]


def full_words(words, stage):
    options = parse([*FULL, *words])
    data = TaskData("data", Path("data"), "", 1, 1, "0" * 64, "1" * 64)
    inputs = Inputs(data=dict.fromkeys(options.tasks, (data,)), protocols=find_protocols(options))
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


def test_core_hours__are_those_that_were_measured_at_the_measured_size(tmp_path):
    words = ["--pretrain", "clove=mini,architecture=resnet18,epochs=2,global_size=80,local_size=40",
             "--tasks", "coco", "--scale", "mini",
             "--set", "coco.INPUT.MIN_SIZE_TRAIN=(176,)", "--set", "coco.INPUT.MIN_SIZE_TEST=192",
             "--set", "coco.SOLVER.MAX_ITER=240", "--set", "coco.SOLVER.STEPS=(200,)"]
    data = (TaskData("a", tmp_path, "", 220, 60, "a" * 64, "e" * 64),)

    def stages(*more):
        options = parse([*words, *more])
        inputs = Inputs({"": Photos(tmp_path, 4845, "f" * 64)}, {"coco": data}, {}, find_protocols(options))
        return suite.build(options, inputs)

    pretrain, convert, finetune, random = stages()
    assert (pretrain.disk_gb, convert.disk_gb, finetune.disk_gb) == (0.54, 0.09, 0.54)
    assert finetune.passing_gb == pytest.approx(0.54 - 0.09)
    assert pretrain.core_hours == pytest.approx(21 / 60, rel=0.02)
    assert finetune.core_hours == random.core_hours == pytest.approx(10.7 / 60, rel=0.01)
    assert pretrain.cost == "9,690 image views of 80 px, about 0.35 CPU core-hours"
    assert finetune.cost == "240 small iterations, about 0.18 CPU core-hours"
    larger = stages("--set", "pretrain.architecture=resnet50")
    assert [stage.disk_gb for stage in larger] == [1.5, 0.25, 1.5, 1.5]
    assert {stage.core_hours for stage in larger} == {0.0} and "core-hours" not in larger[0].cost
