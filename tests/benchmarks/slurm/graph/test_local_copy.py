"""Datasets on a node's own disk: copied once, whole or not at all, never a stale one."""

import errno
import fcntl
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from benchmarks.options.run_options import parse
from benchmarks.slurm import local_copy
from benchmarks.slurm.stage_job import with_local_data
from benchmarks.stages.stage import Stage
from pretrain.common.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two folders, one behind a link, a name with a space."""
    folder = tmp_path / "my data"
    (folder / "images").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("b" * 1000)
    (folder / "images" / "a \u00e9.txt").write_text("a")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def test_copy__is_whole_and_made_once(source: Path, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = local_copy.local_copy(source, disk, "1")
    assert (target / "images" / "a \u00e9.txt").read_text() == "a"
    assert (target / "linked" / "b.txt").read_text() == "b" * 1000 and not (target / "linked").is_symlink()
    assert capsys.readouterr().out.startswith("copying 2 files")
    assert local_copy.local_copy(source, disk, "2") == target and capsys.readouterr().out == ""
    (source / "images" / "a \u00e9.txt").write_text("changed")
    assert local_copy.local_copy(source, disk, "3") != target


def test_copy__processes_of_one_start_look_at_the_source_once(
    source: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    listing = local_copy._files
    monkeypatch.setattr(local_copy, "_files", lambda folder: looked.append(folder) or listing(folder))
    targets = {local_copy.local_copy(source, disk, "job 7, start 0") for _ in range(3)}
    assert len(looked) == 1
    assert targets == {local_copy.local_copy(source, disk, "job 7, start 1")} and len(looked) == 2
    shutil.rmtree(*targets)  # somebody tidies the disk
    assert {local_copy.local_copy(source, disk, "job 7, start 1")} == targets and len(looked) == 3


def test_copy__two_folders_with_the_same_files_do_not_meet(source: Path, disk: Path) -> None:
    other = source.parent / "again" / source.name
    shutil.copytree(source, other)
    for path in source.rglob("*.txt"):
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        os.utime(other / path.relative_to(source), ns=times)
    assert local_copy.local_copy(source, disk, "1") != local_copy.local_copy(other, disk, "1")


def test_copy__several_processes_make_one(source: Path, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: local_copy.local_copy(source, disk, "1"), range(4)))) == 1
    assert capsys.readouterr().out.count("copying") == 1


def test_copy__one_that_waits_for_another_says_so(
    source: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flock = fcntl.flock

    def held_for_a_moment(lock: IO[str], how: int) -> None:
        if how & fcntl.LOCK_NB:
            raise BlockingIOError
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", held_for_a_moment)
    assert local_copy.local_copy(source, disk, "1").is_dir()
    assert capsys.readouterr().out.startswith(f"waiting for another process that copies {source} to {disk}\n")


def test_copy__one_that_was_killed_is_made_again(source: Path, disk: Path) -> None:
    target = local_copy.local_copy(source, disk, "1")
    part = disk / f".{target.name}.part"
    shutil.move(target, part)
    (part / "images" / "a \u00e9.txt").unlink()
    assert local_copy.local_copy(source, disk, "1") == target and (target / "images" / "a \u00e9.txt").is_file()
    assert not part.exists()


def test_copy__that_a_cleaner_has_thinned_is_made_again(
    source: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = local_copy.local_copy(source, disk, "1")
    (target / "linked" / "b.txt").unlink()
    assert local_copy.local_copy(source, disk, "2") == target
    assert (target / "linked" / "b.txt").read_text() == "b" * 1000
    assert f"{target} has lost files, perhaps to a clean-up of the disk: copied again" in capsys.readouterr().out


def test_copy__a_source_that_cannot_be_read_whole_is_refused(
    source: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "gone.txt").symlink_to(source / "nowhere")
    with pytest.raises(UserError, match=r"cannot be read whole \(No such file or directory: .*gone.txt\); fix that"):
        local_copy.local_copy(source, disk, "1")
    (source / "gone.txt").unlink()
    with monkeypatch.context() as patch:
        denied = PermissionError(errno.EACCES, "Permission denied", "images")
        patch.setattr(os, "scandir", lambda _: (_ for _ in ()).throw(denied))
        with pytest.raises(UserError, match=r"cannot be read whole \(Permission denied: images\)"):
            local_copy.local_copy(source, disk, "1")
    shutil.rmtree(source / "images")
    (source / "linked").unlink()
    with pytest.raises(UserError, match="--local-disk: found no file in "):
        local_copy.local_copy(source, disk, "1")
    assert not [path for path in disk.iterdir() if path.is_dir()]


def test_copy__one_that_does_not_fit_is_refused_before_it_begins(
    source: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40 - 2**30, 2**30))
    with pytest.raises(UserError, match=r"has 0.0 GB, free are 1.0 GB \(1 GB stays free\): choose another disk"):
        local_copy.local_copy(source, disk, "1")
    assert [path.suffix for path in disk.iterdir()] == [".lock"]


def test_copy__a_disk_that_fills_meanwhile_is_one_line_and_nothing_is_left(
    source: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match=r"copying .*data failed \(No space left .*nothing of the copy was left"):
        local_copy.local_copy(source, disk, "1")
    assert [path.suffix for path in disk.iterdir()] == [".lock"]


def test_place__says_what_is_wrong_on_which_node(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH_OF_JOB", str(disk))
    own = local_copy.place("$SCRATCH_OF_JOB")
    assert own.parent == disk and own.stat().st_mode & 0o777 == 0o700 and local_copy.place(str(disk)) == own
    monkeypatch.delenv("SCRATCH_OF_JOB")
    with pytest.raises(UserError, match=r"the variable is not set on node \S+; name a folder"):
        local_copy.place("$SCRATCH_OF_JOB")
    with pytest.raises(UserError, match="is not a folder that can be written to on node"):
        local_copy.place(str(disk / "absent"))


def test_stage__reads_the_copy_and_nothing_else_changes(source: Path, disk: Path) -> None:
    stage = Stage("finetune-a-coco-0", {"a": 1}, lambda folder, _: ["run", "--data", str(source), "--out", str(folder)],
                  "x", task="own")
    (source / "a.jpg").write_bytes(b"pixels")
    seen = []

    @contextmanager
    def watch() -> Iterator[None]:
        seen.append(list(disk.glob("*/*")))
        yield
        seen.append(list(disk.glob("*/*")))

    local = with_local_data(stage, str(disk), "1", watch)
    words = local.command(Path("out"), {})
    assert [bool(copies) for copies in seen] == [False, True]
    copy = local_copy.local_copy(source, local_copy.place(str(disk)), "1")
    assert words == ["run", "--data", str(copy), "--out", "out"]
    assert local.key({}) == stage.key({})
    beside = source.parent / "elsewhere"  # no image in it: they lie in another folder
    for task, copied in (("own", False), ("", True)):  # a pretraining's shards are no images either
        stage = Stage("x", {}, lambda *_: ["--data", str(beside)], "x", task=task)
        words = with_local_data(stage, str(disk), "1").command(Path("out"), {})
        assert (words != ["--data", str(beside)]) == copied


def test_options__need_a_cluster() -> None:
    with pytest.raises(UserError, match="--local-disk needs --cluster slurm, found --cluster local"):
        parse(["--demo", "--local-disk", os.sep])
