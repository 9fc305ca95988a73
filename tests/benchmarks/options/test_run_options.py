"""What a user may say to run_all.sh, and the one line that a mistake gets."""

from pathlib import Path

import pytest

from benchmarks.options.inputs import DATA_OPTIONS, POSTER_TASKS, task_folders
from benchmarks.options.run_options import parse
from benchmarks.stages.standing_results import standing
from pretrain.common.errors import UserError
from tests.benchmarks.plans import plan
from transfer.tasks import TASKS


@pytest.mark.parametrize(("size", "batch"), [("demo", 16), ("tiny", 4)])
def test_demo__brings_recipe_scale_and_both_methods(size, batch):
    options = parse([f"--{size}"])
    assert options.demo and options.include_demo and options.scale == size
    assert options.methods == ("clove", "rand")
    [pretraining] = options.pretrainings
    assert (pretraining.label, pretraining.name, pretraining.recipe) == ("clove", "clove", size)
    assert set(options.tasks) == {"coco", "keypoints", "cityscapes"}
    assert options.pretrainings[0].config.train.batch_size == batch


@pytest.mark.parametrize("epochs, recipe", [(50, "imagenet_50ep"), (200, "imagenet_200ep"), (400, "imagenet_400ep")])
def test_epochs__picks_the_recipe_with_that_many(epochs, recipe):
    options = parse(["--epochs", str(epochs)])
    assert options.pretrainings[0].recipe == recipe
    assert options.pretrainings[0].config.train.epochs == epochs
    assert options.scale == "full"
    assert not options.said


def test_epochs__without_a_recipe_replaces_them_and_says_so():
    options = parse(["--epochs", "123"])
    assert options.pretrainings[0].recipe == "imagenet_200ep" and options.pretrainings[0].config.train.epochs == 123
    assert options.said == ("there is no recipe with 123 epochs: imagenet_200ep with its epochs replaced",)


def test_photos__take_the_photos_recipe_and_say_so(tmp_path):
    options = parse(["--photos", str(tmp_path)])
    assert options.pretrainings[0].recipe == "photos"
    assert "recipe photos" in options.said[0]


def test_checkpoint__alone_pretrains_nothing(tmp_path):
    file = tmp_path / "a=b.pth"
    file.write_bytes(b"x")
    options = parse(["--checkpoint", f"mine={file}", "--tasks", "coco,keypoints"])
    assert options.pretrainings == ()
    assert options.methods == ("mine",)
    assert options.tasks == ("coco", "keypoints")
    assert options.checkpoints == {"mine": file}


def test_set__reaches_the_recipe_one_task_or_all():
    options = parse(["--epochs", "200", "--set", "pretrain.seed=7", "--set", "coco.SOLVER.MAX_ITER=5",
                     "--set", "transfer.SOLVER.BASE_LR=0.01"])
    assert options.pretrainings[0].config.train.seed == 7
    assert options.overrides == {
        "coco": {"SOLVER.MAX_ITER": "5", "SOLVER.BASE_LR": "0.01"},
        "keypoints": {"SOLVER.BASE_LR": "0.01"}, "cityscapes": {"SOLVER.BASE_LR": "0.01"}}


def test_tasks__beyond_the_posters_are_run_when_they_are_named(tmp_path):
    options = parse(["--epochs", "200", "--tasks", "voc,coco-c4,lvis", "--voc", "a", "--lvis", "b", "--coco", "c",
                     "--set", "coco-c4.SOLVER.MAX_ITER=5"])
    assert options.tasks == tuple(task for task in TASKS if task in ("coco-c4", "voc", "lvis"))
    assert options.overrides == {"coco-c4": {"SOLVER.MAX_ITER": "5"}, "voc": {}, "lvis": {}}
    for task, folder in (("coco-c4", "c"), ("voc", "a"), ("lvis", "b")):
        assert [one.folder for one in task_folders(task, options.data)] == [Path(folder).absolute()]


def test_tasks__none_leaves_pretraining_and_conversion(tmp_path):
    options = parse(["--tiny", "--tasks", "none", "--output", str(tmp_path)])
    stages = plan(options)
    assert options.tasks == () and [stage.name for stage in stages] == ["data", "pretrain-clove", "convert-clove"]
    assert standing(stages, options) == set()  # nothing stands for a conversion that nobody needs
    with pytest.raises(UserError, match="^--tasks none leaves nothing to do: random weights are only fine-tuned; add"):
        parse(["--methods", "rand", "--tasks", "none"])


def test_pretrain__each_label_and_seed_is_a_pretraining_of_its_own():
    options = parse(["--pretrain", "clove=mini", "--pretrain", "wide=mini,global_scale=0.3,1,epochs=30",
                     "--pretrain-seeds", "2", "--set", "pretrain.seed=4"])
    assert options.methods == ("clove", "wide", "rand")
    assert [(one.label, one.name, one.seed) for one in options.pretrainings] == [
        ("clove", "clove", 4), ("clove", "clove.seed5", 5), ("wide", "wide", 4), ("wide", "wide.seed5", 5)]
    first, again, wide, _ = (one.config for one in options.pretrainings)
    assert wide.train.global_scale == (0.3, 1.0) and wide.train.epochs == 30
    assert first.hash() != again.hash() and first.recipe_hash() == again.recipe_hash() != wide.recipe_hash()
    named = parse(["--tiny", "--pretrain-seeds", "3,0"]).pretrainings
    assert [(one.name, one.seed) for one in named] == [("clove.seed3", 3), ("clove", 0)]
    assert [one.seed for one in parse(["--tiny", "--pretrain-seeds", "3,"]).pretrainings] == [3]


def test_pretrain__images_of_a_sub_folder_are_no_value_of_the_recipe():
    options = parse(["--pretrain", "all=mini", "--pretrain", "half=mini,images=labelled/,epochs=5"])
    whole, half = options.pretrainings
    assert (whole.images, half.images) == ("", "labelled") and half.config.train.epochs == 5


def test_data__several_datasets_of_a_task_have_labels(tmp_path):
    (tmp_path / "x=y").mkdir()
    words = ["--epochs", "200", "--tasks", "coco,coco-c4"]
    folders = [str(tmp_path / "first"), f"own={tmp_path / 'b'}", str(tmp_path / "x=y")]
    options = parse([*words, *(word for folder in folders for word in ("--coco", folder))])
    found = task_folders("coco", options.data)
    assert [(one.label, one.folder.name, one.part) for one in found] == [
        ("first", "first", ""), ("own", "b", ".own"), ("x=y", "x=y", ".x_y")]
    assert task_folders("coco-c4", options.data) == found


def test_data__how_it_is_read():
    words = ["--methods", "rand", "--tasks", "coco,voc"]
    options = parse([*words, "--crowds-as-objects", "--same-images"])
    assert options.crowds_as_objects and options.same_images
    assert not parse(words).crowds_as_objects and not parse(words).same_images
    with pytest.raises(UserError, match="--crowds-as-objects changes nothing here: no data of the tasks is in COCO's"):
        parse(["--methods", "rand", "--tasks", "voc,cityscapes", "--crowds-as-objects"])


def test_data__annotations_that_lie_otherwise(tmp_path):
    options = parse(["--methods", "rand", "--tasks", "coco", "--coco", "own=a/t.json,v.json,pictures", "--coco", "x"])
    [own, folder] = options.data["coco"]
    assert (own.label, own.part, own.folder) == ("own", ".own", Path("pictures").absolute())
    assert own.annotations == (Path("a/t.json").absolute(), Path("v.json").absolute())
    assert (folder.label, folder.part, folder.annotations) == ("x", "", ())
    [commas] = parse(["--methods", "rand", "--tasks", "coco", "--coco", "a,1.json,v.json,b,c"]).data["coco"]
    assert commas.annotations == (Path("a,1.json").absolute(), Path("v.json").absolute())
    assert commas.folder == Path("b,c").absolute()
    [unfinished] = parse(["--methods", "rand", "--tasks", "coco", "--coco", "t.json,v.json,"]).data["coco"]
    assert (unfinished.folder, unfinished.annotations) == (Path("t.json,v.json,").absolute(), ())  # and is not found


def test_train_share__several_beside_each_other():
    assert parse(["--tiny", "--train-share", "0.1, 0.25,1"]).train_shares == (0.1, 0.25, 1.0)
    assert parse(["--tiny"]).train_shares == (1.0,)


def test_output__takes_the_results_along(tmp_path):
    options = parse(["--demo", "--output", str(tmp_path / "here")])
    assert options.output == tmp_path / "here"
    assert options.results == tmp_path / "here" / "results"


def test_output__relative_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse(["--demo", "--output", "x"]).output == tmp_path / "x"


@pytest.mark.parametrize("words, text", [
    ([], "nothing to do: expected --demo, --tiny, --benchmark NAME, --epochs N, --recipe NAME, --pretrain "
     "LABEL=RECIPE, --photos DIR or --checkpoint NAME=FILE"),
    (["--demo", "--tasks", "coko"],
     f"--tasks coko: expected some of {', '.join(TASKS)}; the nearest is coco"),
    (["--demo", "--tasks", ","], f"--tasks is empty: expected some of {', '.join(TASKS)}"),
    (["--demo", "--epochs", "3"], "--demo brings its own images, recipe, scale, data and checkpoint: leave out "
                                  "--epochs"),
    (["--tiny", "--scale", "mini", "--photos", "x"],
     "--tiny brings its own images, recipe, scale, data and checkpoint: leave out --photos, --scale"),
    (["--tiny", "--checkpoint", "a=b"], "data and checkpoint: leave out --checkpoint"),
    (["--demo", "--architecture", "resnet18"], "--architecture resnet18: the recipe says what is pretrained"),
    (["--demo", "--tiny"], "--demo and --tiny are two sizes of the same: leave out one of them"),
    *[(["--demo", f"--{option}", "x"], f"data and checkpoint: leave out --{option}") for option in DATA_OPTIONS],
    (["--demo", "--methods", "rand"], "--methods rand leaves nothing to pretrain: add clove"),
    (["--demo", "--methods", "moco"], "--methods moco: expected some of clove, clove.random_convolutions, rand,"),
    (["--demo", "--trials", "0"], "--trials 0: expected a number from 1, or paired"),
    (["--demo", "--trials", "pairs"], "--trials pairs: expected a number from 1, or paired"),
    (["--methods", "rand", "--trials", "paired"], "--trials paired takes the seeds of the pretrainings, and none is"),
    (["--pretrain", "a=mini,images=../b"], "--pretrain a: images=../b: expected a sub-folder of --photos, as in"),
    (["--pretrain", "a=mini,images=/b"], "--pretrain a: images=/b: expected a sub-folder of --photos"),
    (["--pretrain", "a=mini,images="], "--pretrain a: images=: expected a sub-folder of --photos"),
    (["--demo", "--set", "pretrain.epoch=3"],
     "unknown key 'epoch' on the command line; the nearest valid key is 'epochs'"),
    (["--demo", "--set", "pretrain.epochs=three"],
     "epochs on the command line: expected a whole number below 2147483648, found 'three'"),
    (["--demo", "--set", "epochs=3"],
     "--set epochs=3: expected pretrain.KEY=VALUE, TASK.KEY=VALUE or transfer.KEY=VALUE"),
    (["--demo", "--set", "coca.X=3"], "--set coca.X=3: coca is none of pretrain, transfer, coco"),
    (["--checkpoint", "mine"], "--checkpoint mine: expected NAME=FILE"),
    (["--checkpoint", "mine=/no/such.pth"], "--checkpoint mine: no such file /no/such.pth"),
    (["--checkpoint", "rand=/etc/hostname"], "--checkpoint rand: the name rand is taken; choose another one, as in "
                                             "--checkpoint NAME=FILE"),
    (["--checkpoint", "rand_msra=/etc/hostname"], "--checkpoint rand_msra: the name rand_msra is taken"),
    (["--checkpoint", "clove=/etc/hostname"], "--checkpoint clove: the name clove is taken by a pretraining"),
    (["--checkpoint", "Rand init=/etc/hostname"], "--checkpoint Rand init: the name Rand init is taken"),
    (["--checkpoint", "a\nb=/etc/hostname"],
     "--checkpoint 'a\\nb': expected a name that can be printed, without spaces around it, as in --checkpoint"),
    (["--checkpoint", "a b=/etc/hostname", "--checkpoint", "a_b=/etc/hostname"],
     "--checkpoint a_b: the name a b is taken; choose another one, as in --checkpoint NAME=FILE"),
    (["--demo", "--output", "/tmp/a ?b"], "--output /tmp/a ?b: detectron2, which takes paths for addresses, would look "
                                          "for /tmp/a ; choose one without question marks"),
    (["--demo", "--output", "/tmp/a;#"], "--output /tmp/a;#: detectron2, which takes paths for addresses, would look "),
    (["--demo", "--output", "a\tb"], "--output 'a\\tb': expected a name that can be printed"),
    (["--demo", "--output", "/etc/hostname"], "expected a folder or a new name in one, found that /etc/hostname is"),
    (["--demo", "--output", "/etc/hostname/x"], "found that /etc/hostname is a file"),
    (["--demo", "--jobs", "0"], "--jobs must be at least 1, found 0"),
    (["--demo", "--jobs", "2", "--cluster", "slurm", "--time", "20"],
     "--jobs 2 is for this machine: with --cluster slurm say --max-jobs N"),
    (["--demo", "--branch", "teacher"], "--branch teacher changes nothing here: there is no --checkpoint"),
    (["--demo", "--eval-every", "-2"], "--eval-every must be at least 0, found -2"),
    (["--demo", "--schedule", "coco=2x,voc=24k"],
     f"--schedule coco=2x,voc=24k: expected NAME, or TASK=NAME,... with tasks of {', '.join(POSTER_TASKS)}, found "
     "'voc=24k'"),
    (["--demo", "--solver", "coco=,keypoints=common"], "--solver coco=,keypoints=common: expected NAME, or TASK=NAME"),
    (["--recipe", "demmo"], "--recipe demmo: expected a YAML file or one of demo"),
    (["--methods", "rand", "--set", "pretrain.seed=1"], "--set pretrain.seed=1 changes nothing here"),
    (["--pretrain", "mini"], "--pretrain mini: expected LABEL=RECIPE or LABEL=RECIPE,KEY=VALUE,..., such as"),
    (["--pretrain", "a=mini,b"], "--pretrain a=mini,b: expected LABEL=RECIPE or LABEL=RECIPE,KEY=VALUE,..., such as "),
    (["--pretrain", "a=mini", "--pretrain", "a=photos"], "--pretrain a is given twice: choose another label"),
    (["--pretrain", "a b=mini", "--pretrain", "A_b=mini"], "--pretrain A_b: the name a b is taken; choose another"),
    (["--pretrain", "rand=mini"], "--pretrain rand: the name rand is taken; choose another"),
    (["--pretrain", " a=mini"], "--pretrain ' a': expected a name that can be printed, without spaces around it"),
    (["--pretrain", "a=mini", "--epochs", "9"], "--pretrain says what is pretrained: leave out --epochs and --recipe"),
    (["--pretrain", "a=mini", "--pretrain", "b=mini,epoch=3"], "--pretrain b: unknown key 'epoch' on the command line"),
    (["--pretrain", "a=mini", "--methods", "clove"], "--methods clove: expected some of a, a.random_convolutions"),
    (["--pretrain", "a=mini", "--pretrain", "b=mini", "--methods", "a"], "--pretrain b is not among --methods a"),
    (["--pretrain", "a=mini", "--pretrain", "b=mini,architecture=resnet18"],
     "the pretrainings have architectures resnet18, resnet50: random methods and preflights follow one"),
    (["--pretrain", "a=mini", "--pretrain", "a.random_convolutions=mini"], "the name a.random_convolutions is taken"),
    (["--pretrain", "a=mini", "--pretrain", "b=mini", "--methods", "a,b.random_convolutions"],
     "--methods b.random_convolutions takes the batch norm of b: add b"),
    (["--demo", "--pretrain-seeds", "0"], "--pretrain-seeds must be at least 1, found 0"),
    (["--demo", "--pretrain-seeds", "many"], "--pretrain-seeds many: expected a number of pretrainings, or their"),
    (["--demo", "--pretrain-seeds", ","], "--pretrain-seeds ,: expected a number of pretrainings, or their seeds"),
    (["--demo", "--pretrain-seeds", "1,1"], "--pretrain-seeds 1,1: a seed is given twice"),
    (["--methods", "rand", "--pretrain-seeds", "3"], "--pretrain-seeds changes nothing here: clove is not among"),
    (["--demo", "--train-share", "0"], "--train-share 0: expected numbers above 0, at most 1, as in 0.1,0.25,1, found"),
    (["--demo", "--train-share", "half"], "--train-share half: expected numbers above 0, at most 1"),
    (["--demo", "--train-share", "1,1.0"], "--train-share 1,1.0: 1.0 is given twice"),
    (["--epochs", "200", "--coco", "a/x", "--coco", "b/x"],
     "--coco x: the name x is taken; choose another one, as in --coco LABEL=DIR"),
    (["--epochs", "200", "--coco", "a\tb=x"], "--coco 'a\\tb': expected a name that can be printed"),
    (["--epochs", "2"], "warmup_epochs must not exceed epochs, found 5.0 and 2"),
])
def test_mistakes__are_named_with_what_to_do(words, text):
    with pytest.raises(UserError) as error:
        parse(words)
    assert text in str(error.value)


def test_unknown_option__ends_with_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["--demo", "--epoch", "200"])  # no silent abbreviation
    assert stopped.value.code == 2
    assert "--epoch" in capsys.readouterr().err


def test_checkpoint__left_out_of_methods_is_refused():
    with pytest.raises(UserError, match="--checkpoint mine is not among --methods rand"):
        parse(["--checkpoint", f"mine={Path(__file__)}", "--methods", "rand"])
