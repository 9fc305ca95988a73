"""The hash of the fine-tuning's code: every file of the package is either in it or named as left out."""

import shutil
from pathlib import Path

import pytest

from transfer import tasks
from transfer.records import code_hash


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(code_hash.FOLDER, tmp_path / "transfer", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_hash, "FOLDER", tmp_path / "transfer")
    monkeypatch.setattr(code_hash, "SHARED", [Path(shutil.copy(path, tmp_path)) for path in code_hash.SHARED])
    return tmp_path / "transfer"


def hashed(task: str | None = None) -> str:
    code_hash.finetuning_sha256.cache_clear()
    return code_hash.finetuning_sha256(task)


def test_finetuning_sha256__a_folder_counts_as_a_whole_or_not_at_all(copied: Path) -> None:
    before = hashed()
    for folder in code_hash.LEFT_OUT:
        (copied / folder / "new.py").write_text("changed = True\n")
    assert hashed() == before
    (copied / "finetuning" / "new.py").write_text("changed = True\n")
    assert hashed() != before


@pytest.mark.parametrize("name", [
    "finetuning/trainer.py", "finetuning/evaluate.py", "settings/norms.py", "configs/base.yaml", "../pixels.py",
    "../batch_norm.py"])
def test_finetuning_sha256__changes_with_a_value_and_not_with_a_comment(copied: Path, name: str) -> None:
    before = hashed()
    with open(copied / name, "a", encoding="utf-8") as file:
        file.write("\n   # a comment of its own line\n\n")
    assert hashed() == before
    with open(copied / name, "a", encoding="utf-8") as file:
        file.write("ANOTHER: 1\n")
    assert hashed() != before


def test_finetuning_sha256__changes_with_a_tasks_functions_and_not_with_its_columns(copied: Path) -> None:
    before, path = hashed(), copied / "tasks" / "voc.py"
    source = path.read_text()
    path.write_text(source.replace('Column("AP75", "bbox/AP75")', 'Column("AP90", "bbox/AP90")'))
    assert path.read_text() != source and hashed() == before
    path.write_text(source.replace("return VocEvaluator", "return AnotherEvaluator"))
    assert path.read_text() != source and hashed() != before


def test_finetuning_sha256__a_task_in_a_file_of_its_own_counts_with_its_own_results(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.py"
    path.write_text("class Evaluator:\n    share = 0.5\n\n\nTITLE = 'one'\n")
    before = code_hash.finetuning_sha256("own"), code_hash.finetuning_sha256("coco")
    assert before[0] == before[1]
    monkeypatch.setitem(tasks.OWN_FILES, "own", path)
    first = hashed("own")
    assert first != before[0] and hashed("coco") == before[1]
    path.write_text(path.read_text().replace("'one'", "'two'"))
    assert hashed("own") == first
    path.write_text(path.read_text().replace("0.5", "0.6"))
    assert hashed("own") != first
    code_hash.finetuning_sha256.cache_clear()


def test_finetuning_sha256__a_new_file_beside_the_folders_counts(copied: Path) -> None:
    before = hashed()
    (copied / "new.py").write_text("changed = True\n")
    assert hashed() != before
    code_hash.finetuning_sha256.cache_clear()
