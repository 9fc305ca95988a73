"""The copy of the sources that a job runs."""

import json
from pathlib import Path

import pytest

from benchmarks.slurm import snapshot
from pretrain import ROOT
from pretrain.common.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in snapshot.PACKAGES:
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "__init__.py").write_text(f"NAME = '{name}'\n")
    (tmp_path / "root" / "pretrain" / "recipes").mkdir()
    (tmp_path / "root" / "pretrain" / "recipes" / "a.yaml").write_text("numbers: {}\n")
    (tmp_path / "root" / "pretrain" / "photo.png").write_text("no source")
    return tmp_path / "root"


def test_take__copies_sources_once_and_only_them(root, tmp_path):
    place = snapshot.take(root, tmp_path / "jobs", {"git_sha": "ab", "dirty": True})
    files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert files == {"pretrain/__init__.py", "pretrain/recipes/a.yaml", "transfer/__init__.py",
                     "benchmarks/__init__.py", "code.json"}
    note = json.loads((place / "code.json").read_text())
    assert note == {"sha256": note["sha256"], "git_sha": "ab", "dirty": True}
    assert place.name == f"code-{note['sha256'][:12]}"
    assert snapshot.take(root, tmp_path / "jobs", {}) == place
    assert list((tmp_path / "jobs").iterdir()) == [place]


def test_sources__are_all_files_of_our_packages():
    present = set()
    for package in snapshot.PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                present.add(path.relative_to(ROOT).as_posix())
    assert present <= snapshot.sources(ROOT).keys()


def test_take__edited_code_gets_a_place_of_its_own(root, tmp_path):
    place = snapshot.take(root, tmp_path / "jobs", {})
    (root / "transfer" / "new.py").write_text("")
    assert snapshot.take(root, tmp_path / "jobs", {}) != place
    assert not (place / "transfer" / "new.py").exists()


def test_take__a_copy_that_was_changed_is_not_used(root, tmp_path):
    place = snapshot.take(root, tmp_path / "jobs", {})
    (place / "pretrain" / "__init__.py").write_text("NAME = 'other'\n")
    with pytest.raises(UserError, match=r"was changed after it was taken \(expected \w{12}, found \w{12}\): jobs run "
                                        r"from it, so it is left alone; move it away and submit again$"):
        snapshot.take(root, tmp_path / "jobs", {})


def test_take__leaves_nothing_when_it_cannot_finish(root, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.rename", fail)
    with pytest.raises(OSError, match="disk full"):
        snapshot.take(root, tmp_path / "jobs", {})
    assert list((tmp_path / "jobs").iterdir()) == []
