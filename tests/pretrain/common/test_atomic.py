"""What is being written is whole or absent; what killed writers left goes with the next one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.common import atomic
from pretrain.common.errors import UserError
from pretrain.data.name_table import NameTable

WRITER = """
import os, sys, time
from pathlib import Path
from pretrain.common.atomic import atomic_path, part_folder
with atomic_path(Path(sys.argv[1]) / "result.json") as part, part_folder(Path(sys.argv[1]) / "shards") as folder:
    part.write_text("half")
    (folder / "half").touch()
    print("writing", flush=True)
    time.sleep(60)
"""


def parts(folder: Path) -> list[str]:
    return sorted(path.name.partition(".")[2].partition(".")[0] for path in folder.glob(".*.part*"))


def test_parts__of_a_killed_writer_go_and_those_of_a_living_one_stay(tmp_path: Path, environment: dict[str, str]
                                                                     ) -> None:
    child = subprocess.Popen([sys.executable, "-P", "-c", WRITER, str(tmp_path)], env=environment,
                             stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "writing\n"
        atomic.write_text(tmp_path / "other.json", "{}")
        assert parts(tmp_path) == ["result", "shards"]
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert parts(tmp_path) == ["result", "shards"]
    NameTable.write(tmp_path, "images", ["a.png"])
    assert parts(tmp_path) == [] and (tmp_path / "other.json").read_text() == "{}"


def test_parts__names_that_only_look_alike_stay(tmp_path: Path) -> None:
    for name in ("mine.part", ".mine.part", ".x.0123zz.part.json", "x.01234567.part.json"):
        (tmp_path / name).touch()
    before = sorted(tmp_path.iterdir())
    atomic.write_text(tmp_path / "a", "")
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "a"])


def test_parts__a_fifo_of_such_a_name_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".x.01234567.part")
    atomic.write_text(tmp_path / "a", "")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_parts__without_locks_only_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_lock", lambda *_, **__: None)
    for name, age in (("new", 60), ("old", 2 * atomic.OLD)):
        path = tmp_path / f".{name}.01234567.part.json"
        path.touch()
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    atomic.write_text(tmp_path / "a", "")
    assert parts(tmp_path) == ["new"]


def test_check_writable__makes_and_leaves_nothing(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "a" / "b"):
        atomic.check_writable(place)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"found .*file: Not a directory; change its rights or choose another"):
        atomic.check_writable(tmp_path / "file" / "out")


def test_check_writable__a_folder_that_takes_no_files() -> None:
    folder = Path("/sys/kernel")  # nobody can write there, root neither
    if not folder.is_dir():
        pytest.skip("no /sys")
    for place in (folder, folder / "new"):
        with pytest.raises(UserError, match=rf"^--output {place}: expected a folder that can be written in, found "
                                            r"/sys/kernel: .*; change its rights or choose another --output$"):
            atomic.check_writable(place)


def test_check_writable__a_log_that_somebody_else_owns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("metrics.jsonl", "result.json"):
        (tmp_path / name).touch()
    closed = {tmp_path / "metrics.jsonl", tmp_path / "result.json"}
    monkeypatch.setattr(os, "access", lambda path, _: path not in closed)
    with pytest.raises(UserError, match=r"found .*metrics\.jsonl: Permission denied; change its rights"):
        atomic.check_writable(tmp_path)
    closed.remove(tmp_path / "metrics.jsonl")
    atomic.check_writable(tmp_path)  # a result is replaced, not written to
