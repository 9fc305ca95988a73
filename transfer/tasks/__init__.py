"""The tasks: every file of this folder that defines TASK, and further files that CLOVE_TASKS names.

A task of your own is one such file: `CLOVE_TASKS=my_task.py ./run_all.sh ...` (several: joined by
os.pathsep).
"""

import importlib
import pkgutil
import sys
from pathlib import Path

from pretrain.common.errors import USER_ERROR, UserError, refuse
from pretrain.common.own_files import modules_named_by
from transfer.tasks.task import Column, Reader, Schedule, Table, Task, Where

__all__ = ["TASKS", "Column", "Reader", "Schedule", "Table", "Task", "Where", "get"]
VARIABLE = "CLOVE_TASKS"
OWN_FILES: dict[str, Path] = {}  # of the tasks that other files define


def get(name: str) -> Task:
    """The task of that name; raises `UserError` naming all that there are."""
    refuse((name not in TASKS, f"unknown task '{name}': expected one of {', '.join(TASKS)}"))
    return TASKS[name]


def _find_tasks() -> dict[str, Task]:
    modules = [importlib.import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__)]
    own = modules_named_by(VARIABLE, "TASK")
    found: dict[str, Task] = {}
    for module in [*modules, *own]:
        task = getattr(module, "TASK", None)
        if task is None:  # task.py
            continue
        for other in found.values():
            refuse((other.name == task.name or other.table.name == task.table.name,  # tables are files of that name
                    f"{module.__file__}: task {task.name} with table {task.table.name} has the "
                    f"name or the table of task {other.name}: rename it, or take the file out of "
                    f"{VARIABLE}"))
        found[task.name] = task
        if module in own:
            OWN_FILES[task.name] = Path(module.__file__)
    # The poster's tables first, in its order, then the others by name.
    return dict(sorted(found.items(), key=lambda item: (item[1].place, item[0])))


try:
    TASKS: dict[str, Task] = _find_tasks()
except UserError as mistake:  # commands import this before they can catch it: one line there too
    print(f"error: {mistake}", file=sys.stderr)
    raise SystemExit(USER_ERROR) from None
