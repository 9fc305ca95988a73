"""The pretrainings of a run, beside each other: ablations under labels of their own, each with several seeds."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from benchmarks.options.checks import slug
from pretrain.common.errors import UserError, refuse
from pretrain.config import Config, load_config

FORM = ("expected LABEL=RECIPE or LABEL=RECIPE,KEY=VALUE,..., such as "
        "--pretrain no_attention=mini,attention=none")


@dataclass(frozen=True)
class Pretraining:
    """One pretraining. `label` is its row in the tables, `name` its part of the names of stages,
    which has the seed unless that is the recipe's own; `config` is resolved, with the seed;
    `images` is the sub-folder of the images that it takes, "" for all of them."""

    label: str
    name: str
    recipe: str
    config: Config
    images: str = ""

    @property
    def seed(self) -> int:
        return self.config.train.seed


@dataclass(frozen=True)
class Recipe:
    """What --pretrain says: a recipe's name or file, values over it, and the sub-folder of its images."""

    name: str
    values: dict[str, str]
    images: str = ""


def read_labels(values: list[str]) -> dict[str, Recipe]:
    """{label: recipe} of the values of --pretrain. Raises `UserError`."""
    found: dict[str, Recipe] = {}
    for text in values:
        label, _, rest = text.partition("=")
        # At commas before a KEY=: a value may hold a comma, as global_scale=0.2,1 does.
        recipe, *settings = re.split(r",(?=[^,=]+=)", rest)
        changed: dict[str, str] = {}
        for setting in settings:
            key, _, value = setting.partition("=")
            changed[key.strip()] = value
        images = changed.pop("images", None)
        folder = PurePosixPath(images or "")
        outside = folder.is_absolute() or ".." in folder.parts or not folder.parts
        refuse(
            (not label.strip() or not recipe.strip() or "," in recipe, f"--pretrain {text}: "
                                                                       f"{FORM}"),
            (label in found, f"--pretrain {label} is given twice: choose another label"),
            (images is not None and outside, f"--pretrain {label}: images={images}: expected a "
                                             "sub-folder of --photos, as in images=labelled"),
        )
        found[label] = Recipe(recipe, changed, "/".join(folder.parts))
    return found


def read_seeds(text: str) -> int | tuple[int, ...]:
    """--pretrain-seeds: how many (counted from the recipe's own), or which; "3," is the seed 3. Raises `UserError`."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", text))
    refuse(
        (not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*,?", text),
         f"--pretrain-seeds {text}: expected a number of pretrainings, or their seeds as in 1,2,3 "
         "or 3,"),
        (len(set(numbers)) < len(numbers), f"--pretrain-seeds {text}: a seed is given twice"),
        (numbers == (0,) and "," not in text, f"--pretrain-seeds must be at least 1, found {text}"),
    )
    return numbers if "," in text else numbers[0]


def pretrainings_of(
    recipes: dict[str, Recipe], values: dict[str, str], seeds: int | tuple[int, ...]
) -> tuple[Pretraining, ...]:
    """One for each label and seed; `values` are set in all of them. Raises `UserError`, which names
    the label where there are several."""
    made: list[Pretraining] = []
    for label, recipe in recipes.items():
        try:
            own = load_config(recipe.name, recipe.values | values)
        except UserError as error:
            where = f"--pretrain {label}: " if len(recipes) > 1 else ""
            raise UserError(f"{where}{error}") from None
        first = own.train.seed
        chosen = range(first, first + seeds) if isinstance(seeds, int) else seeds
        for seed in chosen:
            name, config = slug(label), own
            if seed != first:
                name = f"{name}.seed{seed}"
                config = load_config(None, own.flat() | {"seed": str(seed)})
            made.append(Pretraining(label, name, recipe.name, config, recipe.images))
    return tuple(made)
