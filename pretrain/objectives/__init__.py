"""The registry of objectives: every module in this folder, and the files that CLOVE_OBJECTIVES names, define one.

A file defines it as `OBJECTIVE`, a subclass of `pretrain.objective.Objective`. CLOVE_OBJECTIVES
holds paths of Python files, joined by os.pathsep.
"""

import functools
import importlib
import os
import pkgutil
from dataclasses import fields

from pretrain.common.errors import UserError
from pretrain.common.own_files import modules_named_by
from pretrain.objective import Objective

VARIABLE = "CLOVE_OBJECTIVES"


def names() -> list[str]:
    """Names of all objectives, sorted."""
    return sorted(_found(os.environ.get(VARIABLE, "")))


def get(name: str) -> type[Objective]:
    """The objective called `name`; raises `UserError` when there is none."""
    known = _found(os.environ.get(VARIABLE, ""))
    if name not in known:
        raise UserError(f"objective {name!r}: expected one of {', '.join(sorted(known))}")
    return known[name]


def options_of(name: str) -> list[str]:
    """Names of an objective's own options."""
    return [one.name for one in fields(get(name).Options)]


@functools.cache
def _found(further: str) -> dict[str, type[Objective]]:
    """{name: objective} of this folder and of the variable's files; `further`, its value, is the
    key of the cache."""
    found: dict[str, type[Objective]] = {}
    modules = [importlib.import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__)]
    modules += modules_named_by(VARIABLE, "OBJECTIVE")
    for module in modules:
        objective = module.OBJECTIVE
        if not (isinstance(objective, type) and issubclass(objective, Objective)):
            raise UserError(f"{module.__file__}: expected OBJECTIVE = a subclass of "
                            f"pretrain.objective.Objective, found {objective!r}")
        if objective.name in found:
            raise UserError(f"{module.__file__}: there is an objective {objective.name!r} already, choose another name")
        found[objective.name] = objective
    return found
