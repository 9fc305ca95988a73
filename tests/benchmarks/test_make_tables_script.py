"""The command runs from any folder, from a plain clone, with pandas and tabulate only."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.formats import all_tables
from benchmarks.records.results import write_result
from transfer.records.code_hash import finetuning_sha256
from transfer.tasks import OWN_FILES

ROOT = Path(all_tables.__file__).resolve().parents[2]

BLOCKER = """
import sys

class Blocker:
    allowed = {"pandas", "numpy", "tabulate", "dateutil", "six", "pytz", "tzdata", "benchmarks", "pretrain", "transfer",
               "usercustomize"} - set(REMOVED)
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in self.allowed and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a plain clone holds of the parts concerned, in a folder with an awkward name."""
    place = tmp_path / "a clone of 'mine' é中"
    for name in ("benchmarks", "pretrain", "transfer"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "results" / "reported", place / "results" / "reported")
    shutil.copy(ROOT / "results" / "expected.csv", place / "results")
    return place


def run_script(place: Path, words: list[str], cwd: str | Path, removed: tuple[str, ...] = (), tasks: str = ""
               ) -> subprocess.CompletedProcess[str]:
    """Run Python with `words` where only pandas, tabulate and what they need can be imported."""
    site = place.parent / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(BLOCKER.replace("REMOVED", repr(removed)))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "ascii",
                    "CLOVE_TASKS": tasks}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)


def test_script__runs_from_any_folder_with_pandas_and_tabulate_only(make_result, clone: Path, markdown_tables) -> None:
    for trial in range(2):
        write_result(clone / "results" / "runs", make_result(values=[40.0 + trial] * 6, trial=trial))
    answer = run_script(clone, [str(clone / "benchmarks" / "make_tables.py")], cwd="/")
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    [coco, _, _] = markdown_tables(answer.stdout)
    assert coco[11][2] == "40.5 ? 0.7"  # the terminal here knows ASCII only; the file has it right
    assert "40.5 ± 0.7" in (clone / "results" / "tables" / "tables.md").read_text(encoding="utf-8")
    written = {path.name: path.read_bytes() for path in (clone / "results" / "tables").iterdir()}
    again = run_script(clone, ["-m", "benchmarks.make_tables"], cwd=clone)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == answer.stdout
    assert {path.name: path.read_bytes() for path in (clone / "results" / "tables").iterdir()} == written


def test_script__tells_a_missing_package_and_a_missing_folder(clone: Path) -> None:
    script = str(clone / "benchmarks" / "make_tables.py")
    answer = run_script(clone, [script], cwd=clone / "benchmarks", removed=("tabulate",))
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: expected pandas and tabulate, found no tabulate; run: ")
    answer = run_script(clone, [script, "--figure", "figure"], cwd=clone)
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: expected pandas and tabulate and matplotlib, found no matplotlib; run: ")
    answer = run_script(clone, [script, "--results", "absent"], cwd=clone)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "error: expected a folder, found none at absent; pass --results DIR\n"


TASK = """
from dataclasses import replace

from transfer.tasks import Column, Table
from transfer.tasks.coco import TASK as COCO

TASK = replace(
    COCO, name="dots", table=Table("dots_counting", "Counting dots", data="Dots", classes=1, train_images=2,
                                   val_images=1, batch=16),
    columns=(Column("F1", "dots/F1"), Column("recall", "dots/recall")), official="its own", place=100)
"""


def test_script__shows_the_table_of_somebodys_task_and_names_it_where_its_file_is_not_given(
        make_result, clone: Path, markdown_tables, monkeypatch: pytest.MonkeyPatch) -> None:
    file = clone / "my_task.py"
    file.write_text(TASK)
    monkeypatch.setitem(OWN_FILES, "dots", file)
    finetuning_sha256.cache_clear()
    for trial in range(2):
        write_result(clone / "results" / "runs", make_result(
            task="dots", metrics={"dots/F1": 50.0 + trial, "dots/other": 3.0}, trial=trial, heads="2fc",
            dataset__classes=["dot"], dataset__train__images=2, dataset__val__images=1,
            code__transfer_sha256=finetuning_sha256("dots")))
    script = str(clone / "benchmarks" / "make_tables.py")
    answer = run_script(clone, [script], cwd="/", tasks=str(file))
    assert (answer.returncode, answer.stderr) == (0, "")
    dots = markdown_tables(answer.stdout)[-1]
    assert dots[0] == ["Method", "Epochs", "F1", "recall", "Source"]
    assert dots[-1] == ["CLoVE", "200", "50.5 ? 0.7", "-", "measured, n=2; 2fc heads"]
    written = (clone / "results" / "tables" / "dots_counting.md").read_text(encoding="utf-8")
    assert "## Counting dots" in written and "50.5 ± 0.7" in written
    answer = run_script(clone, [script], cwd="/")
    assert answer.returncode == 0 and len(answer.stderr.splitlines()) == 2 and "Traceback" not in answer.stderr
    assert all("its task dots is not known here: expected one of coco, " in line and line.endswith(
        "set CLOVE_TASKS to the file that defines it") for line in answer.stderr.splitlines())
