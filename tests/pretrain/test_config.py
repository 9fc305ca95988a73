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
from pretrain import objectives
from pretrain.clove_options import VARIANTS, CloveOptions
from pretrain.common.errors import UserError
from pretrain.config import Config, load_config
from pretrain.options.recipe_file import read_recipe, recipe_names
from pretrain.options.shared_options import Runtime, Train

SOURCES = Path(pretrain.__main__.__file__).parent
CLASSES = {"train": Train, "runtime": Runtime} | {name: objectives.get(name).Options for name in objectives.names()}
KEYS = [(section, one.name) for section, cls in CLASSES.items() for one in fields(cls)]


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
    recipe = read_recipe(name)
    assert recipe.pop("objective", "clove") == config.objective_name
    parts = {"train": config.train, config.objective_name: config.objective, "runtime": config.runtime}
    for section, values in recipe.items():
        for key, value in values.items():
            found = getattr(parts[section], key)
            assert found == (tuple(value) if isinstance(value, list) else value), key
    head = [line for line in (SOURCES / "recipes" / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    for word in ("Command:", "Hardware:", "(Hours|Time)\\b.*:", "[Mm]emory.*:", "Expected:"):
        assert any(re.search(word, line) for line in head), word


def test_recipes__imagenet_200ep_is_the_default() -> None:
    assert load_config("imagenet_200ep") == load_config() == Config("clove", Train(), CloveOptions(), Runtime())
    assert load_config("imagenet_400ep").train == dataclasses.replace(Train(), epochs=400)


def test_order__preset_then_recipe_then_command_line(tmp_path: Path) -> None:
    path = recipe(tmp_path, "clove: {variant: released, loss_scale: 3.0, k: 7}\nruntime: {workers: 1}")
    from_recipe = load_config(path)
    assert (from_recipe.objective.hinge, from_recipe.objective.loss_scale, from_recipe.objective.k) == ("image", 3.0, 7)
    over = load_config(path, {"loss_scale": "4", "workers": "2"})
    assert (over.objective.loss_scale, over.runtime.workers, over.objective.k) == (4.0, 2, 7)
    paper = load_config(path, {"variant": "paper"})  # the preset gives way to both
    assert (paper.objective.hinge, paper.objective.loss_scale) == ("pair", 3.0)


def test_variants__released_differs_from_paper_in_its_preset_only() -> None:
    released, paper = (load_config(None, {"variant": name}).flat() for name in VARIANTS)
    assert {key for key in paper if paper[key] != released[key]} == {"variant", *VARIANTS["paper"]}
    assert load_config(None).flat() == load_config("imagenet_200ep").flat() == released


@pytest.mark.parametrize(("text", "message"), [
    ("train: {epoch: 3}", "unknown key 'epoch' in recipe .*mine.yaml; the nearest valid key is 'epochs'"),
    ("runtime: {worker: 3}", "unknown key 'worker' .* nearest valid key is 'workers'"),
    ("clove: {tpos: 0.7}", "unknown key 'tpos' .* nearest valid key is 't_pos'"),
    ("train: {7: 1}", "unknown key 7 .* nearest valid key is"),
    ("train: {epochs: three}", "epochs in recipe .*mine.yaml: expected a whole number below .*, found 'three'"),
    ("train: {epochs: 2.5}", "epochs .*: expected a whole number below 2147483648, found 2.5"),
    ("train: {epochs: true}", "epochs .*: expected a whole number below 2147483648, found True"),
    ("train: {epochs: }", "epochs .*: expected a whole number below 2147483648, found None"),
    ("train: {epochs: [1]}", r"epochs .*: expected a whole number below 2147483648, found \[1\]"),
    ("train: {base_lr: fast}", "base_lr .*: expected a number, found 'fast'"),
    ("train: {base_lr: .nan}", "base_lr .*: expected a number, found nan"),
    ("clove: {mu: .inf}", "mu .*: expected a number, found inf"),
    ("train: {global_scale: 0.2}", "global_scale .*: expected 2 numbers, found 0.2"),
    ("train: {global_scale: [0.2, 0.5, 1]}", "global_scale .*: expected 2 numbers"),
    ("train: {architecture: resnet101}", "expected one of resnet18, resnet34, resnet50, found 'resnet101'"),
    ("train: {last_stage_stride: 3}", "last_stage_stride .*: expected one of 1, 2, found 3"),
    ("runtime: {channels_last: 1}", "channels_last .*: expected true or false, found 1"),
    ("number: {epochs: 3}", "unknown section 'number', expected train, clove, runtime"),
    ("epochs: 3", "unknown section 'epochs', expected train, clove, runtime"),
    ("train: 3", "section train must be a mapping, found int"),
    ("runtime: {epochs: 3}", "epochs belongs into section train, found in runtime"),
    ("train: {workers: 3}", "workers belongs into section runtime, found in train"),
    ("clove: {epochs: 3}", "epochs belongs into section train, found in clove"),
    ("numbers: {epochs: 3}", "unknown section 'numbers', expected train, clove, runtime"),
    ("objective: clov", "objective 'clov': expected one of clove, .*supervised"),
    ("- 1\n- 2", "expected the sections train, the objective's name and runtime, found list"),
    ("train: {epochs: [", "is not YAML"),
    ("train:\n  epochs: 3\n  seed: 1\n  epochs: 4", "is not YAML: line 4: 'epochs' is there a second time"),
    ("train: &a {epochs: *a}", "epochs"),
    ("train: {seed: 2147483648}", "seed .*: expected a whole number below 2147483648, found 2147483648"),
    ("clove: {mu: " + 400 * "9" + "}", f"mu .*: expected a number, found {60 * '9'}$"),
    ("train: {epochs: 2026-13-45}", "mine.yaml is not YAML: month must be in 1..12"),
    ("train: {epochs: 2026-11-26}", "epochs .*: expected a whole number below 2147483648, found datetime"),
], ids=str)
def test_mistakes__are_one_line_that_teaches(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_config(recipe(tmp_path, text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("overrides", "message"), [
    ({"epochs": "0"}, "epochs must be above 0, found 0"),
    ({"base_lr": "-1"}, "base_lr must be above 0, found -1.0"),
    ({"seed": "-1"}, "seed must be at least 0, found -1"),
    ({"workers": "-1"}, "workers must be at least 0, found -1"),
    ({"workers": "many"}, "workers on the command line: expected a whole number .* or one of auto, found 'many'"),
    ({"checkpoint_every": "0"}, "checkpoint_every must be at least 1, found 0"),
    ({"global_views": "1"},
     r"global_views must be at least 2, found 1 \(global views of an image, compared with each other; "),
    ({"local_views": "1", "local_size": "32", "device_batch": "1"},
     "a single local view of 32 pixels, one image at once: batch norm would see one value"),
    ({"variant": "released", "global_size": "96"},
     r"global_size 96 gives 9 teacher cells, expected at least 10 \(k 10, too_few_negatives zero\): without negatives"),
    ({"variant": "paper", "global_size": "32"}, r"global_size 32 gives 1 teacher cell, expected at least 2 "),
    ({"loss_scale": "0"}, "loss_scale must be above 0, found 0"),
    ({"k": "1"},
     r"k must be at least 2, found 1 \(teacher vectors the negative is made of, .*; the first is dropped\)"),
    ({"archive_every": "10", "checkpoint_every": "4"},
     "archive_every must be a multiple of checkpoint_every, found 10 and 4"),
    ({"heads": "7"}, "projector_dim must be a multiple of heads, found 256 and 7"),
    ({"local_scale": "0.5 0.2"}, r"local_scale must be two shares with 0 < low <= high <= 1, found \(0.5, 0.2\)"),
    ({"global_scale": "0 1"}, "global_scale must be two shares"),
    ({"teacher_momentum": "1.5"}, "teacher_momentum must lie between 0 and 1, found 1.5"),
    ({"epochs": "3"}, "warmup_epochs must not exceed epochs, found 5.0 and 3"),
    ({"epohcs": "3"}, "unknown key 'epohcs' on the command line; the nearest valid key is 'epochs'"),
    ({"variant": "poster"}, "variant on the command line: expected one of released, paper, found 'poster'"),
], ids=lambda value: "-".join(value) if isinstance(value, dict) else "")
def test_mistakes__values_that_cannot_be(overrides: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(None, overrides)


def test_mistakes__recipe_that_is_not_there(tmp_path: Path) -> None:
    text = "--recipe dmeo: expected a YAML file or one of demo, .*, found no such file or name"
    with pytest.raises(UserError, match=text):
        load_config("dmeo")
    with pytest.raises(UserError, match="^--recipe .*none.yaml: expected a YAML file or one of "):
        load_config(tmp_path / "none.yaml")


def test_values__text_is_read_as_the_field_wants_it(tmp_path: Path) -> None:
    overrides = {"epochs": "12", "base_lr": "1e-3", "global_scale": "0.3,0.9", "channels_last": "False",
                 "last_stage_stride": "1", "local_scale": ["0.1", "0.2"]}
    config = load_config(recipe(tmp_path, "train: {weight_decay: 1e-6}"), overrides)
    assert (config.train.epochs, config.train.base_lr, config.train.weight_decay) == (12, 0.001, 1e-6)
    assert config.train.global_scale == (0.3, 0.9) and config.train.local_scale == (0.1, 0.2)
    assert config.runtime.channels_last is False and config.train.last_stage_stride == 1


def test_recipe__empty_file_is_the_default(tmp_path: Path) -> None:
    assert load_config(recipe(tmp_path, "# nothing\n")) == load_config()


def test_hash__does_not_follow_the_runtime() -> None:
    base = load_config("demo")
    for field in fields(Runtime):
        value = {bool: not field.default, int: 3, str: "cpu"}[type(field.default)]
        changed = dataclasses.replace(base, runtime=dataclasses.replace(base.runtime, **{field.name: value}))
        assert changed != base and changed.hash() == base.hash(), field.name
    others = {"epochs": "11", "seed": "1", "variant": "paper", "local_scale": "0.1 0.3", "t_pos": "0.71"}
    hashes = {load_config("demo", {key: value}).hash() for key, value in others.items()}
    assert len(hashes | {base.hash()}) == 1 + len(others)
    assert load_config("demo").hash() == base.hash()


def test_recipe_hash__is_that_of_all_but_the_seed() -> None:
    base = load_config("demo")
    assert load_config("demo", {"seed": 7}).recipe_hash() == base.recipe_hash() != base.hash()
    for changes in ({"epochs": 11}, {"t_pos": 0.71}, {"variant": "paper"}, {"batch_size": 8}):
        assert load_config("demo", changes).recipe_hash() != base.recipe_hash()


def test_flat__resolves_to_the_same_configuration() -> None:
    config = load_config("mini", {"variant": "paper", "hinge": "image", "box_frame": "pixel_centres", "workers": 3})
    assert load_config(None, config.flat()) == config


def test_hash__ignores_comments_and_order_of_a_recipe(tmp_path: Path) -> None:
    one = load_config(recipe(tmp_path, "# a\ntrain: {epochs: 9, warmup_epochs: 2}")).hash()
    assert load_config(recipe(tmp_path, "train:\n  warmup_epochs: 2  # b\n  epochs: 9")).hash() == one


@functools.cache
def read_attributes() -> set[str]:
    """Names x of every `train.x`, `runtime.x`, `options.x` and the like in pretrain/, the checks of values left out."""
    found = set()
    for path in SOURCES.rglob("*.py"):
        if path.name in ("shared_options.py", "clove_options.py", "config.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                if name in ("train", "values", "runtime", "options", "objective"):
                    found.add(node.attr)
    return found


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_options__each_is_read_somewhere(section: str, key: str) -> None:
    """An option that nothing reads would be without effect."""
    assert key in read_attributes() or key == "variant"  # read by its preset


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_options__each_has_a_help_text(section: str, key: str) -> None:
    text = CLASSES[section].__dataclass_fields__[key].metadata["help"]
    assert len(text) >= 7 and not text.endswith(".")


def test_options__no_objective_uses_the_name_of_a_shared_one() -> None:
    shared = {one.name for cls in (Train, Runtime) for one in fields(cls)} | {"objective"}
    for name in objectives.names():
        assert not shared & set(objectives.options_of(name)) and name not in ("train", "runtime", "objective")


def test_help__names_every_key_and_needs_no_torch(environment: dict[str, str]) -> None:
    words = ["import sys, runpy", "sys.argv = ['pretrain', '--help']", "sys.modules['torch'] = None",
             "runpy.run_module('pretrain', run_name='__main__')"]
    done = subprocess.run([sys.executable, "-P", "-c", "\n".join(words)], env=environment, capture_output=True,
                          text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "--data DIR" in done.stdout and "imagenet_200ep" in done.stdout
    for title in ("train: what changes", "clove: options of --objective clove alone", "runtime: what does not"):
        assert title in done.stdout
    for _, key in KEYS:
        assert f"--{key.replace('_', '-')} " in done.stdout
    assert done.stderr == ""


def test_command_line__options_reach_the_configuration() -> None:
    words = ["--data", "a", "--output", "b", "--recipe", "demo", "--epochs", "7", "--global-scale", "0.3", "0.8",
             "--channels-last", "false"]
    args, config = pretrain.__main__.parse(words)
    assert (args.data, args.output) == (Path("a"), Path("b"))
    assert config.train.epochs == 7 and config.train.global_scale == (0.3, 0.8)
    assert config.runtime.channels_last is False
    assert config.train.last_stage_stride == load_config("demo").train.last_stage_stride


OTHER = """
from dataclasses import dataclass
from pretrain.objective import Objective, ObjectiveOptions
from pretrain.options.option import option

@dataclass(frozen=True)
class Options(ObjectiveOptions):
    queue: int = option(64, "length of the queue")
    t_pos: float = option(0.5, "the same name as an option of clove")

class Other(Objective):
    name, method, Options = "other", "Other", Options

OBJECTIVE = Other
"""


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A second objective, in a file that CLOVE_OBJECTIVES names."""
    path = tmp_path / "other_objective.py"
    path.write_text(OTHER, encoding="utf-8")
    monkeypatch.setenv("CLOVE_OBJECTIVES", str(path))
    return path


def test_objective__a_file_of_its_own_is_found_and_changes_no_run_of_another(other: Path, tmp_path: Path) -> None:
    before = load_config("demo").hash()
    path = recipe(tmp_path, "objective: other\ntrain: {epochs: 9}\nother: {queue: 3}")
    config = load_config(path, {"t_pos": "0.4"})
    assert (config.objective_name, config.objective.queue, config.objective.t_pos) == ("other", 3, 0.4)
    assert config.identity().keys() == {"objective", "train", "other"}
    other.write_text(OTHER.replace('option(64, "length', 'option(65, "length'), encoding="utf-8")
    objectives._found.cache_clear()
    assert load_config(path, {"t_pos": "0.4"}).hash() == config.hash()  # the recipe gives it
    assert load_config(None, {"objective": "other"}).objective.queue == 65
    assert load_config("demo").hash() == before


def test_objective__options_of_another_one_are_refused(other: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="queue on the command line is an option of the objective other: leave it out, "
                                        "or use --objective other"):
        load_config("demo", {"queue": 3})
    with pytest.raises(UserError, match="mu in recipe .*mine.yaml is an option of the objective clove"):
        load_config(recipe(tmp_path, "objective: other\nother: {mu: 3}"))
    with pytest.raises(UserError, match="section other is of another objective: expected train, clove, runtime, or say "
                                        "objective: other"):
        load_config(recipe(tmp_path, "other: {queue: 3}"))


def test_objective__named_on_the_command_line_takes_the_shared_values_of_a_recipe(other: Path) -> None:
    words = ["--data", "a", "--output", "b", "--recipe", "demo", "--objective", "other", "--queue", "5", "--t-pos", "1"]
    _, config = pretrain.__main__.parse(words)
    assert config.train == load_config("demo").train and config.runtime == load_config("demo").runtime
    assert (config.objective.queue, config.objective.t_pos) == (5, 1.0)


@pytest.mark.parametrize(("text", "message"), [
    ("x = 1", "expected a Python file that defines OBJECTIVE, found no OBJECTIVE in it"),
    ("OBJECTIVE = 1", "expected OBJECTIVE = a subclass of pretrain.objective.Objective, found 1"),
    ("class (", "that defines OBJECTIVE, found an error in line 1: "),
    (OTHER.replace('"other", "Other"', '"clove", "Other"'), "there is an objective 'clove' already"),
    (None, "expected a Python file that defines OBJECTIVE, found no such file"),
])
def test_objective__files_that_are_none(other: Path, text: str | None, message: str) -> None:
    if text is None:
        other.unlink()
    else:
        other.write_text(text, encoding="utf-8")
    objectives._found.cache_clear()
    with pytest.raises(UserError, match=message):
        objectives.names()
