"""Python files of a user's own that an environment variable names: tasks, objectives. Standard library only."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from pretrain.common.errors import UserError


def modules_named_by(variable: str, attribute: str) -> list[ModuleType]:
    """The modules whose paths `variable` holds, joined by os.pathsep; each defines `attribute`.
    Raises `UserError`."""
    modules = []
    for path in filter(None, os.environ.get(variable, "").split(os.pathsep)):
        problem = "no such file"
        if Path(path).is_file():
            problem = f"no {attribute} in it"
            try:
                module = _load(f"{variable.lower()}_{Path(path).stem}", path)
                if hasattr(module, attribute):
                    modules.append(module)
                    continue
            except SyntaxError as error:
                problem = f"an error in line {error.lineno}: {error.msg}"
        raise UserError(f"{variable} names {path}: expected a Python file that defines {attribute}, found {problem}")
    return modules


def _load(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    spec.loader.exec_module(module)
    return module
