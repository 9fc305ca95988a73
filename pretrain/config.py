"""One frozen configuration in three sections: `train`, the objective's own, and `runtime`.

`train` (the options that all objectives share) and the objective's own options change the numbers and make up a run's
identity; `runtime` does not. Values are set in this order, each over the one before: the defaults, the preset of the
objective, the recipe file, the command line. An unknown key or a value of the wrong type is a `UserError` that names
the nearest valid key.
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
from pretrain.options.option import convert, describe
from pretrain.options.recipe_file import read_recipe
from pretrain.options.shared_options import Runtime, Train

DEFAULT_OBJECTIVE = "clove"


@dataclass(frozen=True)
class Config:
    """A resolved configuration: `train`, the options of the objective called `objective_name`, and `runtime`."""

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
        """SHA-256 over `identity` without the seed: the same for the repetitions of one pretraining."""
        sections = self.identity()
        del sections["train"]["seed"]
        return _sha256(sections)

    def difference(self, stored: dict[str, Any], source: Path) -> list[str]:
        """What differs from the `identity` that a run wrote down in `source`, each as "key old -> new". Raises
        `UserError` for the run of an older version."""
        _check_version(stored, source)
        own = self.identity()
        if stored.get("objective") != own["objective"]:
            return [f"objective {stored.get('objective')!r} -> {own['objective']!r}"]
        changed = []
        for section in ("train", self.objective_name):
            before = stored.get(section)
            if not isinstance(before, dict):
                raise UserError(f"{source} is damaged: expected the values of a run, choose another --output")
            changed += [f"{key} {before.get(key)!r} -> {value!r}" for key, value in own[section].items()
                        if before.get(key) != value]
        return changed

    def flat(self) -> dict[str, Any]:
        """Every value by its key, and the objective's name: `load_config(None, config.flat()) == config`."""
        return {"objective": self.objective_name, **dataclasses.asdict(self.train),
                **dataclasses.asdict(self.objective), **dataclasses.asdict(self.runtime)}


def _sha256(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def load_config(recipe: str | Path | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """Resolve a recipe (a name in pretrain/recipes or a YAML file) and flat `overrides` {key: value or text}."""
    raw = read_recipe(recipe) if recipe is not None else {}
    given = dict(overrides or {})
    in_recipe = raw.pop("objective", DEFAULT_OBJECTIVE)
    name = given.pop("objective", in_recipe)
    from_recipe = _flatten(raw, sections(in_recipe), f"recipe {recipe}")
    if name != in_recipe:  # the recipe's section of its own objective does not count
        shared = {one.name for cls in (Train, Runtime) for one in fields(cls)}
        from_recipe = {key: value for key, value in from_recipe.items() if key in shared}
    return _resolve(name, from_recipe | _typed(given, sections(name), "on the command line"))


def load_identity(record: dict[str, Any], source: Path, overrides: dict[str, Any]) -> Config:
    """The configuration of a run that wrote down its `identity` in `source`, with `overrides`; raises `UserError`."""
    _check_version(record, source)
    try:
        name = record["objective"]
        stored = {section: dict(record[section]) for section in ("train", name)}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{source} is damaged: expected the values of a run") from None
    given = dict(overrides)
    if given.pop("objective", name) != name:
        raise UserError(f"{source} is of a run with the objective {name}: leave out --objective")
    values = {key: value for part in stored.values() for key, value in part.items()}
    unknown = sorted(set(values) - set(_types(sections(name))))
    if unknown:
        raise UserError(f"{source} has values that this version does not know: {', '.join(unknown)}; it was made by "
                        "another version")
    values = _typed(values, sections(name), f"in {source}") | _typed(given, sections(name), "on the command line")
    return _resolve(name, values)


def _check_version(record: object, source: Path) -> None:
    if isinstance(record, dict) and "numbers" in record and "objective" not in record:
        raise UserError(f"{source} is of an older version of this program, whose runs this one neither resumes nor "
                        "shows: use that version, or another folder")


def sections(objective: str) -> dict[str, type]:
    """{section: its dataclass} of a configuration with this objective; raises `UserError` when there is none."""
    return {"train": Train, objective: objectives.get(objective).Options, "runtime": Runtime}


def _resolve(name: str, given: dict[str, Any]) -> Config:
    """The configuration of values that are typed already; raises `UserError` for what does not fit together."""
    values = objectives.get(name).Options.preset(given) | given
    made = {}
    for section, cls in sections(name).items():
        made[section] = cls(**{one.name: values[one.name] for one in fields(cls) if one.name in values})
    config = Config(name, made["train"], made[name], made["runtime"])
    shared_options.check(config.train, config.runtime)
    config.objective.check(config.train, config.runtime)
    return config


def _flatten(raw: dict[str, Any], known: dict[str, type], source: str) -> dict[str, Any]:
    """The values of a recipe's sections, typed."""
    expected = f"expected {', '.join(known)}"
    section_of = {one.name: section for section, cls in known.items() for one in fields(cls)}
    flat: dict[str, Any] = {}
    for section, values in raw.items():
        if section in ("numbers", "machine"):
            raise UserError(f"{source}: section {section} is of an older version: {expected}")
        if section not in known and section in objectives.names():
            raise UserError(f"{source}: section {section} is of another objective: {expected}, or say objective: "
                            f"{section}")
        if section not in known:
            raise UserError(f"{source}: unknown section {section!r}, {expected}")
        if not isinstance(values, dict):
            raise UserError(f"{source}: section {section} must be a mapping, found {type(values).__name__}")
        for key in values:
            if key in section_of and section_of[key] != section:
                raise UserError(f"{source}: {key} belongs into section {section_of[key]}, found in {section}")
        flat |= values
    return _typed(flat, known, f"in {source}")


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
