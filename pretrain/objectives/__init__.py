"""The registry of objectives: every module in this folder, and the files that CLOVE_OBJECTIVES names, define one.

A file defines it as `OBJECTIVE`, a subclass of `pretrain.objective.Objective`. CLOVE_OBJECTIVES holds paths of Python
files, joined by os.pathsep.
"""

import difflib
import functools
import importlib
import importlib.util
import os
import pkgutil
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

from pretrain.errors import UserError
from pretrain.objective import Objective


def names() -> list[str]:
    """Names of all objectives, sorted."""
    return sorted(_found(os.environ.get("CLOVE_OBJECTIVES", "")))


def get(name: str) -> type[Objective]:
    """The objective called `name`; raises `UserError` when there is none."""
    known = _found(os.environ.get("CLOVE_OBJECTIVES", ""))
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
        raise UserError(f"no objective {name!r}: expected one of {', '.join(sorted(known))}; the nearest is {near!r}")
    return known[name]


def options_of(name: str) -> list[str]:
    """Names of an objective's own options."""
    return [one.name for one in fields(get(name).Options)]


@functools.cache
def _found(further: str) -> dict[str, type[Objective]]:
    """{name: objective} of this folder and of the files in `further`."""
    found: dict[str, type[Objective]] = {}
    modules = [importlib.import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__)]
    modules += [_from_file(Path(path)) for path in further.split(os.pathsep) if path]
    for module in modules:
        objective = getattr(module, "OBJECTIVE", None)
        if not (isinstance(objective, type) and issubclass(objective, Objective)):
            raise UserError(f"{module.__file__} defines no objective: expected OBJECTIVE = a subclass of "
                            "pretrain.objective.Objective")
        if objective.name in found:
            raise UserError(f"{module.__file__}: there is an objective {objective.name!r} already, choose another name")
        found[objective.name] = objective
    return found


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"CLOVE_OBJECTIVES names {path}, which is not a file: expected Python files joined by "
                        f"{os.pathsep!r}")
    spec = importlib.util.spec_from_file_location(f"clove_objective_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"CLOVE_OBJECTIVES names {path}: expected Python, found in line {error.lineno}: "
                        f"{error.msg}") from None
    return module
