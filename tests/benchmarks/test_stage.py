"""A stage runs once for each key, comes back after an interruption, and stops with its parent."""

import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.stage import Stage, StageFailed, hash_product, locked, read_stamp, run_stage
from pretrain.errors import UserError

WRITE = "import pathlib, sys; pathlib.Path(sys.argv[1], 'out.txt').write_text(sys.argv[2])"


def stage(numbers=None, code=WRITE, **rest):
    return Stage("work", numbers or {"a": 1}, lambda folder, _: [sys.executable, "-c", code, str(folder), "text"],
                 product="out.txt", **rest)


def test_run_stage__leaves_a_stamp_that_is_read_again(tmp_path):
    work = stage()
    key = work.key({})
    stamp = run_stage(work, tmp_path, key, {}, dict(os.environ))
    folder = work.folder(tmp_path, key)
    assert read_stamp(work, folder, key) == stamp
    assert stamp["output_sha256"] == hash_product(folder / "out.txt")


def test_read_stamp__is_none_when_the_product_was_touched(tmp_path):
    work = stage()
    key = work.key({})
    run_stage(work, tmp_path, key, {}, dict(os.environ))
    (work.folder(tmp_path, key) / "out.txt").write_text("edited")
    assert read_stamp(work, work.folder(tmp_path, key), key) is None


def test_key__follows_numbers_inputs_and_parents():
    keys = {stage().key({}), stage({"a": 2}).key({}),
            stage(inputs={"x": "1"}).key({}), stage(inputs={"x": "2"}).key({}),
            stage(parents=("p",)).key({"p": "1"}), stage(parents=("p",)).key({"p": "2"})}
    assert len(keys) == 6
    assert stage().key({}) == stage().key({"other": "ignored"})


def test_run_stage__failing_command_says_code_and_folder(tmp_path):
    work = stage(code="import sys; sys.exit(3)")
    with pytest.raises(StageFailed, match=r"stage work failed \(exit code 3\); its files are in .*work-") as failed:
        run_stage(work, tmp_path, work.key({}), {}, dict(os.environ))
    assert failed.value.code == 3
    assert read_stamp(work, work.folder(tmp_path, work.key({})), work.key({})) is None


def test_run_stage__command_without_product_fails(tmp_path):
    work = stage(code="pass")
    with pytest.raises(StageFailed):
        run_stage(work, tmp_path, work.key({}), {}, dict(os.environ))


def test_hash_product__folder_hash_follows_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = hash_product(tmp_path)
    (tmp_path / "a").write_text("2")
    second = hash_product(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, hash_product(tmp_path)}) == 3


def test_locked__second_run_is_refused(tmp_path):
    refused = rf"^process {os.getpid()} on \S+ works in .*: wait for it, or choose another --output$"
    with locked(tmp_path), pytest.raises(UserError, match=refused), locked(tmp_path, patience=0.1):
        pass
    with locked(tmp_path, patience=0.1):
        pass


PARENT = """
import os, pathlib, sys
from benchmarks.stage import locked, run_command
with locked(pathlib.Path(sys.argv[1])):
    run_command([sys.executable, "-c", sys.argv[2], sys.argv[1]], dict(os.environ))
"""
CHILD = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def stop(number, _):
    with open(folder / "signals", "a") as file:
        file.write(f"{number}\\n")
    time.sleep(0.5)
    sys.exit(128 + number)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR2, stop)
(folder / "ready").touch()
time.sleep(60)
"""


def wait_for(path, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.parametrize("number, sent_to_group, code", [
    (signal.SIGINT, True, -signal.SIGINT), (signal.SIGINT, False, -signal.SIGINT), (signal.SIGTERM, False, 143),
    (signal.SIGUSR2, False, 75)])
def test_run_command__passes_a_stop_signal_on_once_and_waits(tmp_path, number, sent_to_group, code):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), CHILD], process_group=0,
                              stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "ready")
    if sent_to_group:
        os.killpg(parent.pid, number)  # as a terminal does for Ctrl-C
    else:
        parent.send_signal(number)
    assert parent.wait(60) in (code, 1 if code < 0 else code, 130)
    assert (tmp_path / "signals").read_text().split() == [str(int(number))]


def test_run_command__child_stops_when_its_parent_is_killed_and_keeps_the_lock_until_then(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), CHILD], process_group=0)
    wait_for(tmp_path / "ready")
    parent.kill()
    parent.wait()
    wait_for(tmp_path / "signals")
    with locked(tmp_path, patience=60):
        assert (tmp_path / "signals").read_text().split() == [str(int(signal.SIGTERM))]
