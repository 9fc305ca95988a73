"""Recipe files: YAML with the sections train, one named after the objective, and runtime."""

from pathlib import Path
from typing import Any

from pretrain.common import yaml_text
from pretrain.common.errors import UserError

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def recipe_names() -> list[str]:
    """Names of the project's own recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The sections of a recipe, untyped. `recipe`: a name in pretrain/recipes or a YAML file.
    Raises `UserError`."""
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        known = ", ".join(recipe_names())
        raise UserError(f"--recipe {recipe}: expected a YAML file or one of {known}, found no such file or name")
    return yaml_text.read_mapping(path, "the sections train, the objective's name and runtime")
