"""--benchmark: the options of a file, with those of the command line over them."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.options.run_options import parse
from pretrain import ROOT
from pretrain.common.errors import UserError

MINI = ["--benchmark", "mini", "--photos", "p", "--coco", "nuclei=a", "--coco", "bccd=b"]


def test_mini__has_all_rows_seeds_and_places():
    options = parse(MINI)
    assert options.methods == ("clove", "supervised_half", "clove_half", "clove.random_convolutions", "rand",
                               "rand_zero_gamma")
    assert {one.label: (one.config.objective_name, one.config.train.labels, one.images)
            for one in options.pretrainings} == {
        "clove": ("clove", "none", ""), "clove_half": ("clove", "none", "caltech101"),
        "supervised_half": ("supervised", "prefix", "caltech101")}
    for label in ("clove", "clove_half", "supervised_half"):
        assert [one.seed for one in options.pretrainings if one.label == label] == [101, 102, 103, 104, 105]
    assert (options.trials, options.tasks, options.scale, options.heads) == ("paired", ("coco",), "mini", "2fc")
    assert options.architecture == "resnet18"
    assert [one.label for one in options.data["coco"]] == ["nuclei", "bccd"]
    assert (options.output, options.results) == (ROOT / "output" / "mini", ROOT / "results" / "mini")


def test_mini__prints_the_long_command_that_does_the_same():
    options = parse([*MINI, "--pretrain-seeds", "3", "--device", "cpu"])
    start = "benchmark mini, the same as: ./run_all.sh "
    assert options.said[0].startswith(start)
    assert parse(shlex.split(options.said[0].removeprefix(start))) == replace(options, said=options.said[1:])


def test_mini__what_is_said_beside_it_overrides_or_adds(tmp_path):
    options = parse([*MINI, "--pretrain-seeds", "101", "--device", "cpu", "--coco", "own=c", "--output", str(tmp_path),
                     "--methods", "supervised_half,rand", "--set", "pretrain.architecture=resnet34", "--dry-run"])
    assert [(one.label, one.seed) for one in options.pretrainings] == [("supervised_half", 101)]
    assert options.methods == ("supervised_half", "rand") and options.architecture == "resnet34"
    assert [one.label for one in options.data["coco"]] == ["nuclei", "bccd", "own"]
    assert (options.device, options.dry_run) == ("cpu", True)
    assert (options.output, options.results) == (tmp_path, tmp_path / "results")
    added = parse([*MINI, "--pretrain", "other=mini,attention=none", "--methods",
                   "clove,other,supervised_half,clove_half,rand"])
    assert {one.label for one in added.pretrainings} == {"clove", "supervised_half", "clove_half", "other"}


def test_results__several_runs_share_a_folder(tmp_path):
    options = parse([*MINI, "--output", str(tmp_path / "one"), "--results", str(tmp_path / "shared")])
    assert (options.output, options.results) == (tmp_path / "one", tmp_path / "shared")
    options = parse([*MINI, "--results", str(tmp_path / "shared")])
    assert (options.output, options.results) == (ROOT / "output" / "mini", tmp_path / "shared")


def test_benchmark__a_file_of_ones_own(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("pretrain: a=mini,images=half\npretrain-seeds: 4,5\ntasks: coco\n")
    options = parse(["--benchmark", str(file), "--photos", "p", "--coco", "x"])
    assert [(one.name, one.images) for one in options.pretrainings] == [("a.seed4", "half"), ("a.seed5", "half")]
    assert options.results == ROOT / "results" / "own"


@pytest.mark.parametrize(("words", "text"), [
    (["--benchmark", "maxi", "--photos", "p"], "--benchmark maxi: expected a YAML file or one of mini, found none of"),
    (["--benchmark", "mini"], "--benchmark mini needs --photos DIR: a folder of images, with caltech101/ in it"),
    ([*MINI, "--demo", "--epochs", "3"], "--benchmark mini itself says what is pretrained, on --photos: leave out "
                                         "--demo, --epochs"),
    ([*MINI, "--imagenet", "x"], "on --photos: leave out --imagenet"),
    ([*MINI, "--pretrain", "clove=mini"], "--pretrain clove is given twice: choose another label"),
    ([*MINI, "--pretrain", "other=mini"], "--pretrain other is not among --methods clove,supervised_half"),
])
def test_benchmark__mistakes_get_one_line(words: list[str], text: str):
    with pytest.raises(UserError) as error:
        parse(words)
    assert text in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "text"), [
    ("a: [", "is not YAML"), ("- a", "expected lines OPTION: VALUE, with pretrain among them"),
    ("tasks: coco", "expected lines OPTION: VALUE, with pretrain among them"),
    *[(f"pretrain: clove=mini\n{line}", f"x.yaml: {line.partition(':')[0]}: expected an option of ./run_all.sh that "
       "takes a value, without its dashes, such as trials") for line in ("trails: 3", "probes: true", "benchmark: y")],
    ("pretrain: {clove: mini}", "pretrain: expected a value or a list of values, found {'clove': 'mini'}"),
])
def test_benchmark__a_file_that_is_none(tmp_path: Path, content: str, text: str):
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(UserError) as error:
        parse(["--benchmark", str(tmp_path / "x.yaml"), "--photos", "p"])
    assert text in str(error.value)
