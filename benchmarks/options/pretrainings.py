"""The pretrainings of a run, beside each other: ablations under labels of their own, each with several seeds."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from benchmarks.options.inputs import slug
from pretrain.common.errors import UserError
from pretrain.config import Config, load_config

FORM = "expected LABEL=RECIPE or LABEL=RECIPE,KEY=VALUE,..., such as --pretrain no_attention=mini,attention=none"


@dataclass(frozen=True)
class Pretraining:
    """One pretraining. `label` is its row in the tables, `name` its part of the names of stages, which has the seed
    unless that is the recipe's own; `config` is resolved, with the seed; `images` is the sub-folder of the images that
    it takes, "" for all of them."""

    label: str
    name: str
    recipe: str
    config: Config
    images: str = ""

    @property
    def objective(self) -> str:
        return self.config.objective_name

    @property
    def seed(self) -> int:
        return self.config.train.seed


@dataclass(frozen=True)
class Recipe:
    """What --pretrain says: a recipe's name or file, values over it, and the sub-folder of its images."""

    name: str
    values: dict[str, str]
    images: str = ""


def read_labels(words: list[str]) -> dict[str, Recipe]:
    """{label: recipe} of the values of --pretrain. Raises `UserError`."""
    found: dict[str, Recipe] = {}
    for word in words:
        label, equals, rest = word.partition("=")
        recipe, *parts = rest.split(",")
        if not equals or not label.strip() or not recipe.strip():
            raise UserError(f"--pretrain {word}: {FORM}")
        if label in found:
            raise UserError(f"--pretrain {label} is given twice: choose another label")
        values: dict[str, str] = {}
        key = ""
        for part in parts:
            name, equals, value = part.partition("=")
            if equals:
                key = name.strip()
                values[key] = value
            elif key:
                values[key] += f",{part}"  # of a value with a comma in it, such as global_scale=0.2,1
            else:
                raise UserError(f"--pretrain {word}: {FORM}, found {part!r}")
        images = _sub_folder(label, values.pop("images")) if "images" in values else ""
        found[label] = Recipe(recipe, values, images)
    return found


def _sub_folder(label: str, text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UserError(f"--pretrain {label}: images={text}: expected a sub-folder of --photos, as in "
                        "images=labelled")
    return str(path)


def read_seeds(text: str | None) -> int | tuple[int, ...]:
    """--pretrain-seeds: how many (counted from the recipe's own), or which; "3," is the seed 3. Raises `UserError`."""
    parts = [part.strip() for part in (text or "1").removesuffix(",").split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--pretrain-seeds {text}: expected a number of pretrainings, or their seeds as in 1,2,3 or 3,")
    numbers = tuple(int(part) for part in parts)
    if "," in (text or ""):
        if len(set(numbers)) < len(numbers):
            raise UserError(f"--pretrain-seeds {text}: a seed stands there twice")
        return numbers
    if numbers[0] < 1:
        raise UserError(f"--pretrain-seeds must be at least 1, found {text}")
    return numbers[0]


def refuse_labels(labels: Iterable[str], taken: Iterable[str]) -> None:
    """Labels that are no names of rows, or that another row or its stages have. Raises `UserError`."""
    names = list(taken)
    for label in labels:
        if not label.isprintable() or label != label.strip():
            raise UserError(f"--pretrain {label!r}: expected a label that can be printed, without spaces around it")
        for other in names:
            if slug(other).lower() == slug(label).lower():
                raise UserError(f"--pretrain {label}: the name {other} is taken, choose another label")
        names.append(label)


def pretrainings_of(
    recipes: dict[str, Recipe], values: dict[str, str], seeds: int | tuple[int, ...]
) -> tuple[Pretraining, ...]:
    """One for each label and seed; `values` are set in all of them. Raises `UserError`, which names the label where
    there are several."""
    made: list[Pretraining] = []
    for label, recipe in recipes.items():
        try:
            made += _repeated(label, recipe, values, seeds)
        except UserError as error:
            raise UserError(f"--pretrain {label}: {error}" if len(recipes) > 1 else str(error)) from None
    return tuple(made)


def _repeated(
    label: str, recipe: Recipe, values: dict[str, str], seeds: int | tuple[int, ...]
) -> list[Pretraining]:
    own = load_config(recipe.name, recipe.values | values)
    first = own.train.seed
    made = []
    for seed in range(first, first + seeds) if isinstance(seeds, int) else seeds:
        name, config = slug(label), own
        if seed != first:
            name, config = f"{name}.seed{seed}", load_config(None, own.flat() | {"seed": str(seed)})
        made.append(Pretraining(label, name, recipe.name, config, recipe.images))
    return made
