"""Recipes, the order in which values are set, mistakes in them, and that every value is read somewhere."""

import ast
import dataclasses
import functools
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import pretrain.__main__
from pretrain.config import HALVES, KEYS, VARIANTS, Config, load_config, read_recipe, recipe_names
from pretrain.errors import UserError
from pretrain.loss import LossOptions

SOURCES = Path(pretrain.__main__.__file__).parent


def recipe(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_recipes__the_ones_that_are_promised_exist() -> None:
    names = {"demo", "tiny", "mini", "photos", "imagenet_50ep", "imagenet_200ep", "imagenet_400ep"}
    assert names <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_recipes__each_parses_and_says_what_to_expect(name: str) -> None:
    config = load_config(name)
    for half, values in read_recipe(name).items():
        for key, value in values.items():
            found = getattr(getattr(config, half), key)
            assert found == (tuple(value) if isinstance(value, list) else value), key
    head = [line for line in (SOURCES / "recipes" / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    for word in ("Command:", "Hardware:", "(Hours|Time)\\b.*:", "[Mm]emory.*:", "Expected:"):
        assert any(re.search(word, line) for line in head), word


def test_recipes__imagenet_200ep_is_the_default() -> None:
    assert load_config("imagenet_200ep") == load_config() == Config()
    assert load_config("imagenet_400ep").numbers == dataclasses.replace(Config().numbers, epochs=400)


def test_order__preset_then_recipe_then_command_line(tmp_path: Path) -> None:
    path = recipe(tmp_path, "numbers: {variant: released, loss_scale: 3.0, k: 7}\nmachine: {workers: 1}")
    from_recipe = load_config(path)
    assert (from_recipe.numbers.hinge, from_recipe.numbers.loss_scale, from_recipe.numbers.k) == ("image", 3.0, 7)
    over = load_config(path, {"loss_scale": "4", "workers": "2"})
    assert (over.numbers.loss_scale, over.machine.workers, over.numbers.k) == (4.0, 2, 7)
    paper = load_config(path, {"variant": "paper"})  # the preset gives way to both
    assert (paper.numbers.hinge, paper.numbers.loss_scale) == ("pair", 3.0)


def test_variants__released_differs_from_paper_in_its_preset_only() -> None:
    paper, released = (dataclasses.asdict(load_config(None, {"variant": name}).numbers) for name in VARIANTS)
    assert {key for key in paper if paper[key] != released[key]} == {"variant", *VARIANTS["released"]}
    assert VARIANTS["paper"] == {}


@pytest.mark.parametrize(("text", "message"), [
    ("numbers: {epoch: 3}", "unknown key 'epoch' in recipe .*mine.yaml; the nearest valid key is 'epochs'"),
    ("machine: {worker: 3}", "unknown key 'worker' .* nearest valid key is 'workers'"),
    ("numbers: {tpos: 0.7}", "unknown key 'tpos' .* nearest valid key is 't_pos'"),
    ("numbers: {7: 1}", "unknown key 7 .* nearest valid key is"),
    ("numbers: {epochs: three}", "epochs in recipe .*mine.yaml: expected a whole number below .*, found 'three'"),
    ("numbers: {epochs: 2.5}", "epochs .*: expected a whole number below 2147483648, found 2.5"),
    ("numbers: {epochs: true}", "epochs .*: expected a whole number below 2147483648, found True"),
    ("numbers: {epochs: }", "epochs .*: expected a whole number below 2147483648, found None"),
    ("numbers: {epochs: [1]}", r"epochs .*: expected a whole number below 2147483648, found \[1\]"),
    ("numbers: {base_lr: fast}", "base_lr .*: expected a number, found 'fast'"),
    ("numbers: {base_lr: .nan}", "base_lr .*: expected a number, found nan"),
    ("numbers: {mu: .inf}", "mu .*: expected a number, found inf"),
    ("numbers: {global_scale: 0.2}", "global_scale .*: expected 2 numbers, found 0.2"),
    ("numbers: {global_scale: [0.2, 0.5, 1]}", "global_scale .*: expected 2 numbers"),
    ("numbers: {architecture: resnet101}", "expected one of resnet18, resnet34, resnet50, found 'resnet101'"),
    ("numbers: {last_stage_stride: 3}", "last_stage_stride .*: expected one of 1, 2, found 3"),
    ("machine: {channels_last: 1}", "channels_last .*: expected true or false, found 1"),
    ("number: {epochs: 3}", "unknown section 'number', expected numbers or machine"),
    ("epochs: 3", "unknown section 'epochs', expected numbers or machine"),
    ("numbers: 3", "section numbers must be a mapping, found int"),
    ("machine: {epochs: 3}", "epochs belongs into section numbers, found in machine"),
    ("numbers: {workers: 3}", "workers belongs into section machine, found in numbers"),
    ("- 1\n- 2", "expected a mapping with the sections numbers and machine, found list"),
    ("numbers: {epochs: [", "is not YAML"),
    ("numbers:\n  epochs: 3\n  seed: 1\n  epochs: 4", "is not YAML: line 4: 'epochs' stands there a second time"),
    ("numbers: &a {epochs: *a}", "epochs"),
    ("numbers: {seed: 2147483648}", "seed .*: expected a whole number below 2147483648, found 2147483648"),
    ("numbers: {mu: " + 400 * "9" + "}", f"mu .*: expected a number, found {60 * '9'}$"),
    ("numbers: {epochs: 2026-13-45}", "mine.yaml is not YAML: month must be in 1..12"),
    ("numbers: {epochs: 2026-11-26}", "epochs .*: expected a whole number below 2147483648, found datetime"),
], ids=range(30))
def test_mistakes__are_one_line_that_teaches(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_config(recipe(tmp_path, text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("overrides", "message"), [
    ({"epochs": "0"}, "epochs must be above 0, found 0"),
    ({"base_lr": "-1"}, "base_lr must be above 0, found -1.0"),
    ({"seed": "-1"}, "seed must be at least 0, found -1"),
    ({"workers": "-1"}, "workers must be at least 0, found -1"),
    ({"checkpoint_every": "0"}, "checkpoint_every must be at least 1, found 0"),
    ({"global_views": "1"}, "global_views must be at least 2, found 1: a view is compared with another one"),
    ({"local_views": "1", "local_size": "32", "device_batch": "1"},
     "a single local view of 32 pixels, one image at once: batch norm would see one value"),
    ({"variant": "released", "global_size": "96"},
     r"global_size 96 gives 9 teacher cells, expected at least 10 \(k 10, too_few_negatives zero\): without negatives"),
    ({"global_size": "32"}, r"global_size 32 gives 1 teacher cell, expected at least 2 "),
    ({"loss_scale": "0"}, "loss_scale must be above 0, found 0"),
    ({"k": "1"}, "k must be at least 2, found 1: the most similar one of the k is dropped"),
    ({"archive_every": "10", "checkpoint_every": "4"},
     "archive_every must be a multiple of checkpoint_every, found 10 and 4"),
    ({"heads": "7"}, "projector_dim must be a multiple of heads, found 256 and 7"),
    ({"local_scale": "0.5 0.2"}, "local_scale must be two shares with 0 < low <= high <= 1, found 0.5 and 0.2"),
    ({"global_scale": "0 1"}, "global_scale must be two shares"),
    ({"teacher_momentum": "1.5"}, "teacher_momentum must lie between 0 and 1, found 1.5"),
    ({"epochs": "3"}, "warmup_epochs must not exceed epochs, found 5.0 and 3"),
    ({"epohcs": "3"}, "unknown key 'epohcs' on the command line; the nearest valid key is 'epochs'"),
    ({"variant": "poster"}, "variant on the command line: expected one of paper, released, found 'poster'"),
], ids=lambda value: "-".join(value) if isinstance(value, dict) else "")
def test_mistakes__values_that_cannot_be(overrides: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(None, overrides)


def test_mistakes__recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recipe 'dmeo': expected a YAML file or one of demo, "):
        load_config("dmeo")
    with pytest.raises(UserError, match="no recipe"):
        load_config(tmp_path / "none.yaml")


def test_values__text_is_read_as_the_field_wants_it(tmp_path: Path) -> None:
    overrides = {"epochs": "12", "base_lr": "1e-3", "global_scale": "0.3,0.9", "channels_last": "False",
                 "last_stage_stride": "1", "local_scale": ["0.1", "0.2"]}
    config = load_config(recipe(tmp_path, "numbers: {weight_decay: 1e-6}"), overrides)
    assert (config.numbers.epochs, config.numbers.base_lr, config.numbers.weight_decay) == (12, 0.001, 1e-6)
    assert config.numbers.global_scale == (0.3, 0.9) and config.numbers.local_scale == (0.1, 0.2)
    assert config.machine.channels_last is False and config.numbers.last_stage_stride == 1


def test_recipe__empty_file_is_the_default(tmp_path: Path) -> None:
    assert load_config(recipe(tmp_path, "# nothing\n")) == Config()


def test_hash__follows_the_numbers_half_only() -> None:
    base = load_config("demo")
    for field in fields(HALVES["machine"]):
        value = {bool: not field.default, int: 3, str: "cpu"}[type(field.default)]
        changed = dataclasses.replace(base, machine=dataclasses.replace(base.machine, **{field.name: value}))
        assert changed != base and changed.hash() == base.hash(), field.name
    others = {"epochs": "11", "seed": "1", "variant": "released", "local_scale": "0.1 0.3", "t_pos": "0.71"}
    hashes = {load_config("demo", {key: value}).hash() for key, value in others.items()}
    assert len(hashes | {base.hash()}) == 1 + len(others)
    assert load_config("demo").hash() == base.hash()


def test_hash__ignores_comments_and_order_of_a_recipe(tmp_path: Path) -> None:
    one = load_config(recipe(tmp_path, "# a\nnumbers: {epochs: 9, k: 8}")).hash()
    assert load_config(recipe(tmp_path, "numbers:\n  k: 8  # b\n  epochs: 9")).hash() == one


@functools.cache
def read_attributes() -> set[str]:
    """Names x of every `numbers.x`, `machine.x`, `options.x` in pretrain/, config.py's own checks left out."""
    found = set()
    for path in SOURCES.glob("*.py"):
        if path.name == "config.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                if name in ("numbers", "machine", "options"):
                    found.add(node.attr)
    return found


@pytest.mark.parametrize("key", KEYS)
def test_fields__each_is_read_somewhere(key: str) -> None:
    """A value that nothing reads would be a flag without effect."""
    assert key in read_attributes()


def test_fields__the_options_of_the_loss_come_from_the_numbers() -> None:
    assert set(LossOptions.__dataclass_fields__) <= set(HALVES["numbers"].__dataclass_fields__)


@pytest.mark.parametrize("key", KEYS)
def test_fields__each_has_a_help_text(key: str) -> None:
    text = HALVES[KEYS[key]].__dataclass_fields__[key].metadata["help"]
    assert len(text) >= 7 and not text.endswith(".")


def test_help__names_every_key_and_needs_no_torch(environment: dict[str, str]) -> None:
    words = ["import sys, runpy", "sys.argv = ['pretrain', '--help']", "sys.modules['torch'] = None",
             "runpy.run_module('pretrain', run_name='__main__')"]
    done = subprocess.run([sys.executable, "-P", "-c", "\n".join(words)], env=environment, capture_output=True,
                          text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "--data DIR" in done.stdout and "imagenet_200ep" in done.stdout
    for key in KEYS:
        assert f"--{key.replace('_', '-')} " in done.stdout
    assert done.stderr == ""


def test_command_line__options_reach_the_configuration() -> None:
    words = ["--data", "a", "--output", "b", "--recipe", "demo", "--epochs", "7", "--global-scale", "0.3", "0.8",
             "--channels-last", "false"]
    args, config = pretrain.__main__.parse(words)
    assert (args.data, args.output) == (Path("a"), Path("b"))
    assert config.numbers.epochs == 7 and config.numbers.global_scale == (0.3, 0.8)
    assert config.machine.channels_last is False
    assert config.numbers.last_stage_stride == load_config("demo").numbers.last_stage_stride
