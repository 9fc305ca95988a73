"""Recipe files: YAML with the sections train, one named after the objective, and runtime."""

from pathlib import Path
from typing import Any

import yaml

from pretrain.common import yaml_text
from pretrain.common.errors import UserError

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The raw mapping of a recipe: a name in pretrain/recipes, or a YAML file. Raises `UserError`."""
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        known = ", ".join(recipe_names())
        raise UserError(f"no recipe {recipe!r}: expected a YAML file or one of {known}")
    try:
        raw = yaml_text.load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # not UTF-8, a date that no calendar has
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a mapping with the sections train, objective's name and runtime, found "
                        f"{type(raw).__name__}")
    return raw
