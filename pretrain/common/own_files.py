"""Python files of a user's own that an environment variable names: tasks, objectives. Standard library only."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from pretrain.common.errors import UserError


def modules_named_by(variable: str, attribute: str) -> list[ModuleType]:
    """The modules whose paths `variable` holds, joined by os.pathsep; each defines `attribute`. Raises `UserError`."""
    modules = []
    for path in filter(None, os.environ.get(variable, "").split(os.pathsep)):
        module = _load(Path(path), variable, attribute)
        if not hasattr(module, attribute):
            raise UserError(f"{variable} names {path}: expected a Python file that defines {attribute}, found none in "
                            "it")
        modules.append(module)
    return modules


def _load(path: Path, variable: str, attribute: str) -> ModuleType:
    if not path.is_file():
        raise UserError(f"{variable} names {path}: expected a Python file that defines {attribute}, found no such "
                        "file")
    name = f"{variable.lower()}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{variable} names {path}: expected Python, found in line {error.lineno}: "
                        f"{error.msg}") from None
    return module
