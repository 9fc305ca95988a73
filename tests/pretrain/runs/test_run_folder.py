"""The output folder: one process at a time, and never one that holds something else."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pretrain.common import lock
from pretrain.common.errors import UserError
from pretrain.data.batches import list_images
from pretrain.runs import run_folder

HOLDER = """
import os, sys, time
from pathlib import Path
from pretrain.common.lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # as a loader process: goes on when its parent is killed
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def held(output: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """Another process, with a child of its own, holds the folder."""
    child = subprocess.Popen([sys.executable, "-P", "-c", HOLDER, str(output)], env=environment,
                             stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def test_claimed__a_folder_that_another_process_works_in_is_refused(
    photos: Path, tiny: Callable, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    with held(tmp_path, environment) as child:
        who = f"process {child.pid} on "
        text = f"{who}.* works in .*: wait for it, or choose another --output"
        with pytest.raises(UserError, match=text), run_folder.claimed(tmp_path, tiny(), photos):
            pass
        said = capsys.readouterr().out
        assert said.count(who) == 1 and "waiting up to 0 s for it to stop" in said
        assert not (tmp_path / "run.json").exists()
        child.kill()
        child.wait()
        with run_folder.claimed(tmp_path, tiny(), photos):  # its own child, which lives on, does not keep us out
            assert f"process {os.getpid()} on " in (tmp_path / ".lock").read_text()


def test_bind__writes_whose_folder_it_is_and_refuses_other_images(make_photos: Callable, tiny: Callable, tmp_path: Path
                                                                  ) -> None:
    images = list_images(make_photos(tmp_path / "photos", 3))
    run_folder.bind(tmp_path, tiny(), images)
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["images"], record["images_hash"], record["classes"]) == (3, images.sha256, 0)
    run_folder.bind(tmp_path, tiny(), images)
    (tmp_path / "photos" / "02.png").rename(tmp_path / "photos" / "03.png")
    other = list_images(tmp_path / "photos", keep=tmp_path)
    text = r"holds a run on other images \(then 3, now 3\): choose another --output"
    with pytest.raises(UserError, match=text):
        run_folder.bind(tmp_path, tiny(), other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "run.json"]


def test_claimed__a_file_system_without_locks(photos: Path, tiny: Callable, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with run_folder.claimed(tmp_path, tiny(), photos):
        assert "file system without locks: nothing keeps a second run out of it" in capsys.readouterr().out
    with lock.locked(tmp_path, inherited=True):
        assert not lock.is_locked(tmp_path)  # nobody can tell


@pytest.mark.parametrize(("place", "text"), [
    ("a_file", r"--output .*a_file: expected a folder, found that it cannot be made \(File exists\); choose another"),
    ("a_file/out", r"a_file/out: expected a folder, found that it cannot be made \(Not a directory\)"),
    ("x" * 300, r"cannot be made \(File name too long\)"),
    ("photos/out", "photos/out lies inside --data .*photos, where the run's own figures would become images"),
    ("photos", "lies inside --data"),
    ("loop/out", r"cannot be made \(Too many levels of symbolic links\)"),
])
def test_claimed__places_that_cannot_work(make_photos: Callable, tiny: Callable, tmp_path: Path, place: str,
                                          text: str) -> None:
    (tmp_path / "a_file").touch()
    (tmp_path / "loop").symlink_to("loop")
    photos = make_photos(tmp_path / "photos", 2)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=text), run_folder.claimed(tmp_path / place, tiny(), photos):
        pass
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", [
    "{", "[1]", '{"a": 1}',
    '{"objective": "clove", "train": 3, "images": 1, "images_hash": ""}'])
def test_claimed__run_json_of_something_else(photos: Path, tiny: Callable, tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    text = "run.json: expected the values of a run of this version, found it damaged"
    with pytest.raises(UserError, match=text), run_folder.claimed(tmp_path, tiny(), photos):
        pass
    assert (tmp_path / "run.json").read_text() == content


def test_claimed__the_folder_of_an_older_version(photos: Path, tiny: Callable, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"numbers": {"seed": 0}, "images": 9, "images_hash": ""}')
    text = r"run.json: expected the values of a run of this version, found it damaged"
    with pytest.raises(UserError, match=text) as error, run_folder.claimed(tmp_path, tiny(), photos):
        pass
    assert "\n" not in str(error.value)


def test_claimed__the_folder_of_another_objective(photos: Path, tiny: Callable, tmp_path: Path) -> None:
    record = {"objective": "other", "train": {}, "other": {}, "images": 9, "images_hash": ""}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    text = r"holds a run with other values \(objective 'other' -> 'clove'\): choose another --output"
    with pytest.raises(UserError, match=text), run_folder.claimed(tmp_path, tiny(), photos):
        pass


@pytest.mark.parametrize("name", run_folder.LEFT_BY_A_RUN)
def test_claimed__files_of_a_run_without_its_run_json(photos: Path, tiny: Callable, tmp_path: Path,
                                                      name: str) -> None:
    """Checkpoints of another program would be passed over and then deleted; a stray done.json would end the run."""
    (tmp_path / name).mkdir()
    text = f"holds {name} but no run.json: expected an empty folder"
    with pytest.raises(UserError, match=text), run_folder.claimed(tmp_path, tiny(), photos):
        pass


def test_bind__a_run_that_was_refused_before_its_first_step_may_have_other_options(
    photos: Path, tiny: Callable, tmp_path: Path
) -> None:
    output, images = tmp_path / "output", list_images(photos)
    with run_folder.claimed(output, tiny(), photos):
        run_folder.bind(output, tiny(), images)
    with run_folder.claimed(output, tiny(seed=7), photos):
        run_folder.bind(output, tiny(seed=7), images)
    assert json.loads((output / "run.json").read_text())["train"]["seed"] == 7
    (output / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="holds a run with other values"), run_folder.claimed(output, tiny(), photos):
        pass
