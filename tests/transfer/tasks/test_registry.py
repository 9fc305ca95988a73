"""The registry of tasks: it finds files by itself and imports nothing but the standard library."""

import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.common.errors import UserError
from transfer import tasks

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "detectron2", "numpy", "yaml", "PIL", "pycocotools", "pandas")


def run(code: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **(environment or {})})


def test_the_facts_of_all_tasks_need_only_the_standard_library():
    done = run(f"import sys, transfer.tasks; print([name for name in {HEAVY} if name in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


def test_the_posters_tasks_come_first_and_in_its_order():
    assert list(tasks.TASKS) == ["coco", "cityscapes", "keypoints", "coco-c4", "lvis", "voc"]
    poster = [name for name, task in tasks.TASKS.items() if task.table.in_poster]
    assert poster == ["coco", "cityscapes", "keypoints"]


def test_an_unknown_task_is_answered_with_those_that_there_are():
    with pytest.raises(UserError, match="unknown task 'cocoa': expected one of coco, cityscapes, keypoints, coco-c4"):
        tasks.get("cocoa")


def test_a_file_outside_the_project_adds_a_task(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("import dataclasses\nfrom transfer.tasks.coco import TASK\n"
                   "table = dataclasses.replace(TASK.table, name='own_table')\n"
                   "TASK = dataclasses.replace(TASK, name='own', table=table)\n")
    code = "from transfer import tasks; print(tasks.get('own').config, *tasks.TASKS, tasks.OWN_FILES)"
    done = run(code, {"CLOVE_TASKS": str(own)})
    assert done.stdout.startswith("coco.yaml ") and " own " in done.stdout, done.stderr
    assert f"{{'own': PosixPath('{own}')}}" in done.stdout


@pytest.mark.parametrize("content, message", [
    (None, "found no such file"),
    ("x = 1\n", "found no TASK in it"),
    ("from transfer.tasks.coco import TASK\n",
     ": task coco with table coco_detection_segmentation has the name or the table of task coco: rename it"),
    ("import dataclasses\nfrom transfer.tasks.coco import TASK\nTASK = dataclasses.replace(TASK, name='own')\n",
     ": task own with table coco_detection_segmentation has the name or the table of task coco: rename it"),
    ("TASK = (\n", "own.py: expected a Python file that defines TASK, found an error in line 1: '(' was never closed"),
])
def test_a_wrong_file_is_one_clear_error(tmp_path, content, message):
    own = tmp_path / "own.py"
    if content is not None:
        own.write_text(content)
    done = run("import transfer.tasks", {"CLOVE_TASKS": str(own)})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: ") and message in done.stderr
