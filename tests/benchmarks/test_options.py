"""What a user may say to run_all.sh, and the one line that a mistake gets."""

from pathlib import Path

import pytest

from benchmarks.inputs import task_folder
from benchmarks.options import parse
from pretrain.errors import UserError


@pytest.mark.parametrize(("size", "batch"), [("demo", 16), ("tiny", 4)])
def test_demo__brings_recipe_scale_and_both_methods(size, batch):
    options = parse([f"--{size}"])
    assert options.demo and options.include_demo and options.scale == size and options.recipe == size
    assert options.methods == ("clove", "rand")
    assert options.tasks == ("coco", "keypoints", "cityscapes")
    assert options.pretrain.train.batch_size == batch


@pytest.mark.parametrize("epochs, recipe", [(50, "imagenet_50ep"), (200, "imagenet_200ep"), (400, "imagenet_400ep")])
def test_epochs__picks_the_recipe_with_that_many(epochs, recipe):
    options = parse(["--epochs", str(epochs)])
    assert options.recipe == recipe
    assert options.pretrain.train.epochs == epochs
    assert options.scale == "full"
    assert not options.said


def test_epochs__without_a_recipe_replaces_them_and_says_so():
    options = parse(["--epochs", "123"])
    assert options.recipe == "imagenet_200ep" and options.pretrain.train.epochs == 123
    assert options.said == ("there is no recipe with 123 epochs: imagenet_200ep with its epochs replaced",)


def test_photos__take_the_photos_recipe_and_say_so(tmp_path):
    options = parse(["--photos", str(tmp_path)])
    assert options.recipe == "photos"
    assert "recipe photos" in options.said[0]


def test_checkpoint__alone_pretrains_nothing(tmp_path):
    file = tmp_path / "a=b.pth"
    file.write_bytes(b"x")
    options = parse(["--checkpoint", f"mine={file}", "--tasks", "coco,keypoints"])
    assert options.pretrain is None
    assert options.methods == ("mine",)
    assert options.tasks == ("coco", "keypoints")
    assert options.checkpoints == {"mine": file}


def test_set__reaches_the_recipe_one_task_or_all():
    options = parse(["--epochs", "200", "--set", "pretrain.seed=7", "--set", "coco.SOLVER.MAX_ITER=5",
                     "--set", "transfer.SOLVER.BASE_LR=0.01"])
    assert options.pretrain.train.seed == 7
    assert options.overrides == {
        "coco": {"SOLVER.MAX_ITER": "5", "SOLVER.BASE_LR": "0.01"},
        "keypoints": {"SOLVER.BASE_LR": "0.01"}, "cityscapes": {"SOLVER.BASE_LR": "0.01"}}


def test_tasks__beyond_the_posters_are_run_when_they_are_named(tmp_path):
    options = parse(["--epochs", "200", "--tasks", "voc,coco-c4,lvis", "--voc", "a", "--lvis", "b", "--coco", "c",
                     "--set", "coco-c4.SOLVER.MAX_ITER=5"])
    assert options.tasks == ("coco-c4", "voc", "lvis")
    assert options.overrides == {"coco-c4": {"SOLVER.MAX_ITER": "5"}, "voc": {}, "lvis": {}}
    folders = [task_folder(task, options.data) for task in options.tasks]
    assert folders == [Path("c"), Path("a"), Path("b")]


def test_output__takes_the_results_along(tmp_path):
    options = parse(["--demo", "--output", str(tmp_path / "here")])
    assert options.output == tmp_path / "here"
    assert options.results == tmp_path / "here" / "results"


def test_output__relative_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse(["--demo", "--output", "x"]).output == tmp_path / "x"


@pytest.mark.parametrize("words, text", [
    ([], "nothing to do: expected --demo, --tiny, --epochs N, --recipe NAME, --photos DIR or --checkpoint NAME=FILE"),
    (["--demo", "--tasks", "coko"],
     "--tasks coko: expected some of coco, coco-c4, keypoints, cityscapes, voc, lvis; the nearest is coco"),
    (["--demo", "--tasks", ","], "--tasks is empty: expected some of coco, coco-c4, keypoints, cityscapes, voc, lvis"),
    (["--demo", "--epochs", "3"], "--demo brings its own pictures, recipe and scale"),
    (["--tiny", "--scale", "mini"], "--tiny brings its own pictures, recipe and scale"),
    (["--tiny", "--checkpoint", "a=b"], "--tiny pretrains its own checkpoint: leave out --checkpoint or --tiny"),
    (["--demo", "--architecture", "resnet18"], "--architecture resnet18: the recipe says what is pretrained"),
    (["--demo", "--tiny"], "--demo and --tiny are two sizes of the same: leave out one of them"),
    (["--demo", "--coco", "x"], "--demo brings its own data: leave out --coco, --keypoints, --cityscapes, --voc, "
                                "--lvis"),
    (["--demo", "--voc", "x"], "--demo brings its own data"),
    (["--demo", "--methods", "rand"], "--methods rand leaves nothing to pretrain: add clove"),
    (["--demo", "--methods", "moco"], "--methods moco: expected some of clove, rand, rand_msra, rand_zero_gamma;"),
    (["--demo", "--trials", "0"], "--trials must be at least 1, found 0"),
    (["--demo", "--set", "pretrain.epoch=3"],
     "unknown key 'epoch' on the command line; the nearest valid key is 'epochs'"),
    (["--demo", "--set", "pretrain.epochs=three"],
     "epochs on the command line: expected a whole number below 2147483648, found 'three'"),
    (["--demo", "--set", "epochs=3"],
     "--set epochs=3: expected pretrain.KEY=VALUE, TASK.KEY=VALUE or transfer.KEY=VALUE"),
    (["--demo", "--set", "coca.X=3"], "--set coca.X=3: coca is none of pretrain, transfer, coco"),
    (["--checkpoint", "mine"], "--checkpoint mine: expected NAME=FILE"),
    (["--checkpoint", "mine=/no/such.pth"], "--checkpoint mine: no such file /no/such.pth"),
    (["--checkpoint", "rand=/etc/hostname"], "the name rand is taken by the suite's own method"),
    (["--checkpoint", "rand_msra=/etc/hostname"], "the name rand_msra is taken by the suite's own method"),
    (["--checkpoint", "Rand init=/etc/hostname"], "'Rand init' is the row of random weights, choose another name"),
    (["--checkpoint", "a\nb=/etc/hostname"], "--checkpoint 'a\\nb=/etc/hostname': expected a name without line breaks"),
    (["--checkpoint", "a b=/etc/hostname", "--checkpoint", "a_b=/etc/hostname"],
     "--checkpoint a_b: its stages would be called as those of a b, a_b; choose another name"),
    (["--demo", "--output", "/tmp/a ?b"], "--output /tmp/a ?b: detectron2, which takes paths for addresses, would look "
                                          "for /tmp/a ; choose one without question marks"),
    (["--demo", "--output", "/tmp/a;#"], "--output /tmp/a;#: detectron2, which takes paths for addresses, would look "),
    (["--demo", "--output", "a\tb"], "--output 'a\\tb': expected a name that can be printed"),
    (["--demo", "--output", "/etc/hostname"], "expected a folder or a new name in one, found that /etc/hostname is"),
    (["--demo", "--output", "/etc/hostname/x"], "found that /etc/hostname is a file"),
    (["--demo", "--branch", "teacher"], "--branch teacher changes nothing here: there is no --checkpoint"),
    (["--demo", "--eval-every", "-2"], "--eval-every must be at least 0, found -2"),
    (["--demo", "--schedule", "coco=2x,voc=24k"],
     "--schedule coco=2x,voc=24k: expected NAME, or TASK=NAME,... with tasks of coco, keypoints, cityscapes, found "
     "'voc=24k'"),
    (["--demo", "--solver", "coco=,keypoints=common"], "--solver coco=,keypoints=common: expected NAME, or TASK=NAME"),
    (["--recipe", "demmo"], "no recipe 'demmo': expected a YAML file or one of demo"),
    (["--methods", "rand", "--set", "pretrain.seed=1"], "--set pretrain.... changes nothing here"),
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
