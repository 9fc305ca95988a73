"""Children are told to stop once, waited for, and never left behind; several run side by side."""

import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.stages.stage import locked

PARENT = """
import os, pathlib, sys
from benchmarks.stages.child_processes import Children
from benchmarks.stages.stage import locked
with locked(pathlib.Path(sys.argv[1])), Children() as children:
    children.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], dict(os.environ))
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
def test_children__pass_a_stop_signal_on_once_and_waits(tmp_path, number, sent_to_group, code):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), CHILD], process_group=0,
                              stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "ready")
    if sent_to_group:
        os.killpg(parent.pid, number)  # as a terminal does for Ctrl-C
    else:
        parent.send_signal(number)
    assert parent.wait(60) in (code, 1 if code < 0 else code, 130)
    assert (tmp_path / "signals").read_text().split() == [str(int(number))]


def test_children__stop_when_its_parent_is_killed_and_keeps_the_lock_until_then(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), CHILD], process_group=0)
    wait_for(tmp_path / "ready")
    parent.kill()
    parent.wait()
    wait_for(tmp_path / "signals")
    with locked(tmp_path, patience=60):
        assert (tmp_path / "signals").read_text().split() == [str(int(signal.SIGTERM))]


SIDE_BY_SIDE = """
import os, pathlib, sys
from types import SimpleNamespace
from benchmarks.stages.local_run import LocalRun
from benchmarks.stages.stage import Stage
output = pathlib.Path(sys.argv[1])
def stage(name, parents=()):
    return Stage(name, {}, lambda folder, _: [sys.executable, "-c", sys.argv[2], str(output / name)], "out",
                 parents=parents)
for name in ("one", "two", "three"):
    (output / name).mkdir()
run = LocalRun(SimpleNamespace(output=output, jobs=2, rerun=()), [stage("one"), stage("two"), stage("three")], set())
run.run()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR2, 75)])
def test_local_run__a_stop_signal_ends_all_that_run_and_starts_no_other(tmp_path, number, code):
    parent = subprocess.Popen([sys.executable, "-c", SIDE_BY_SIDE, str(tmp_path), CHILD], process_group=0,
                              stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "one" / "ready", 300)
    wait_for(tmp_path / "two" / "ready", 300)
    parent.send_signal(number)
    assert parent.communicate(timeout=60)[1] == "stopped: run the same command again to resume\n"
    assert parent.returncode == code
    for name in ("one", "two"):
        assert (tmp_path / name / "signals").read_text().split() == [str(int(number))]
    assert not (tmp_path / "three" / "ready").exists()
    assert not list(tmp_path.glob("*-*/failed.json"))


def test_local_run__children_stop_when_the_run_is_killed(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", SIDE_BY_SIDE, str(tmp_path), CHILD], process_group=0)
    wait_for(tmp_path / "one" / "ready", 300)
    wait_for(tmp_path / "two" / "ready", 300)
    parent.kill()
    parent.wait()
    for name in ("one", "two"):
        wait_for(tmp_path / name / "signals", 300)
