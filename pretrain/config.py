"""One frozen configuration in three sections: `train`, the objective's own, and `runtime`.

`train` (the options that all objectives share) and the objective's own options change the numbers
and make up a run's identity; `runtime` does not. Values are set in this order, each over the one
before: the defaults, the preset of the objective, the recipe file, the command line. An unknown key
or a value of the wrong type is a `UserError` that names the nearest valid key.
"""

import dataclasses
import difflib
import hashlib
import json
import typing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pretrain import objectives
from pretrain.common.errors import UserError
from pretrain.objective import ObjectiveOptions
from pretrain.options import shared_options
from pretrain.options.option import check_bounds, convert, describe
from pretrain.options.recipe_file import read_recipe
from pretrain.options.shared_options import Runtime, Train

DEFAULT_OBJECTIVE = "clove"


@dataclass(frozen=True)
class Config:
    """A resolved configuration: `train`, the options of the objective called `objective_name`, and
    `runtime`."""

    objective_name: str
    train: Train
    objective: ObjectiveOptions
    runtime: Runtime

    def identity(self) -> dict[str, Any]:
        """What makes this another run than others, by section, in plain JSON types."""
        sections = {"objective": self.objective_name, "train": dataclasses.asdict(self.train),
                    self.objective_name: dataclasses.asdict(self.objective)}
        return json.loads(json.dumps(sections))

    def hash(self) -> str:
        """SHA-256 over `identity`."""
        return _sha256(self.identity())

    def recipe_hash(self) -> str:
        """SHA-256 over `identity` without the seed: the same for the repetitions of one
        pretraining."""
        sections = self.identity()
        del sections["train"]["seed"]
        return _sha256(sections)

    def difference(self, stored: Any, source: Path) -> list[str]:
        """What differs from the `identity` that a run recorded in `source`, each as "key old ->
        new". Raises `UserError` when it is none of this version."""
        name, before = _recorded(stored, source)
        if name != self.objective_name:
            return [f"objective {name!r} -> {self.objective_name!r}"]
        own = self.identity()
        changed = []
        for key, value in (own["train"] | own[self.objective_name]).items():
            if before.get(key) != value:
                changed.append(f"{key} {before.get(key)!r} -> {value!r}")
        return changed

    def flat(self) -> dict[str, Any]:
        """Every value by its key, and the objective's name: `load_config(None, config.flat()) ==
        config`."""
        return {"objective": self.objective_name, **dataclasses.asdict(self.train),
                **dataclasses.asdict(self.objective), **dataclasses.asdict(self.runtime)}


def _sha256(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def load_config(recipe: str | Path | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """Resolve a recipe (a name in pretrain/recipes or a YAML file) and flat `overrides` {key: value
    or text}. Raises `UserError`."""
    raw = {} if recipe is None else read_recipe(recipe)
    given = dict(overrides or {})
    in_recipe = raw.pop("objective", DEFAULT_OBJECTIVE)
    name = given.pop("objective", in_recipe)
    values = _flatten(raw, sections(in_recipe), f"recipe {recipe}")
    if name != in_recipe:  # the recipe's section of its own objective does not count
        shared = _types({"train": Train, "runtime": Runtime})
        values = {key: value for key, value in values.items() if key in shared}
    return _resolve(name, values | _typed(given, sections(name), "on the command line"))


def load_identity(record: dict[str, Any], source: Path, overrides: dict[str, Any]) -> Config:
    """The configuration of a run that recorded its `identity` in `source`, with `overrides`. Raises
    `UserError`."""
    name, stored = _recorded(record, source)
    given = dict(overrides)
    if given.pop("objective", name) != name:
        raise UserError(f"{source} is of a run with the objective {name}: leave out --objective")
    values = _typed(stored, sections(name), f"in {source}") | _typed(given, sections(name), "on the command line")
    return _resolve(name, values)


def _recorded(record: Any, source: Path) -> tuple[str, dict[str, Any]]:
    """The objective of an `identity`, and its values by key. Raises `UserError`."""
    try:
        name = record["objective"]
        return name, dict(record["train"]) | dict(record[name])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{source}: expected the values of a run of this version, found it damaged or older; choose "
                        "another folder") from None


def sections(objective: str) -> dict[str, type]:
    """{section: its dataclass} of a configuration with this objective; raises `UserError` when
    there is none."""
    return {"train": Train, objective: objectives.get(objective).Options, "runtime": Runtime}


def _resolve(name: str, given: dict[str, Any]) -> Config:
    """The configuration of values that are typed already. Raises `UserError` for values that do not
    fit together."""
    values = objectives.get(name).Options.preset(given) | given
    made = []
    for cls in sections(name).values():
        own = {one.name: values[one.name] for one in fields(cls) if one.name in values}
        made.append(cls(**own))
        check_bounds(made[-1])
    config = Config(name, *made)
    shared_options.check(config.train, config.runtime)
    config.objective.check(config.train, config.runtime)
    return config


def _flatten(raw: dict[str, Any], known: dict[str, type], source: str) -> dict[str, Any]:
    """The values of a recipe's sections, typed."""
    flat: dict[str, Any] = {}
    for section, values in raw.items():
        problem = _problem(section, values, known)
        if problem:
            raise UserError(f"{source}: {problem}")
        flat |= values
    return _typed(flat, known, f"in {source}")


def _problem(section: str, values: Any, known: dict[str, type]) -> str:
    """What is wrong with a section of a recipe; "" when nothing is."""
    expected = f"expected {', '.join(known)}"
    if section not in known and section in objectives.names():
        return f"section {section} is of another objective: {expected}, or say objective: {section}"
    if section not in known:
        return f"unknown section {section!r}, {expected}"
    if not isinstance(values, dict):
        return f"section {section} must be a mapping, found {type(values).__name__}"
    for other, cls in known.items():
        misplaced = values.keys() & _types({other: cls}).keys()
        if other != section and misplaced:
            return f"{min(misplaced)} belongs into section {other}, found in {section}"
    return ""


def _typed(values: dict[str, Any], known: dict[str, type], where: str) -> dict[str, Any]:
    """Each value as its field's type; text from a command line is read as the type wants it."""
    wanted = _types(known)
    result = {}
    for key, value in values.items():
        if key not in wanted:
            raise UserError(_unknown(key, where, list(wanted)))
        try:
            result[key] = convert(value, wanted[key])
        except (TypeError, ValueError, OverflowError):
            found = f"{value!r:.60}"  # four hundred digits say no more
            raise UserError(f"{key} {where}: expected {describe(wanted[key])}, found {found}") from None
    return result


def _types(known: dict[str, type]) -> dict[str, Any]:
    """{key: type} of all options in these sections."""
    types: dict[str, Any] = {}
    for cls in known.values():
        hints = typing.get_type_hints(cls)
        types |= {one.name: hints[one.name] for one in fields(cls)}
    return types


def _unknown(key: Any, where: str, known: list[str]) -> str:
    owners = [name for name in objectives.names() if key in objectives.options_of(name)]
    if owners:
        return (f"{key} {where} is an option of the objective {' and '.join(owners)}: leave it out, or use --objective "
                f"{owners[0]}")
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
    return f"unknown key {key!r} {where}; the nearest valid key is {near!r}"
