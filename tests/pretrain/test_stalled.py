"""Two processes of which one hangs: a signal ends each within seconds, a deadline ends the other in one line."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HANG = """
import os, time
import pretrain.trainer
from pretrain.common import stalls
stalls.PATIENCE = 3.0
step = pretrain.trainer.Trainer.step
def hang(self, number, batches):
    if number == 2 and os.environ["RANK"] == "1":
        print("hangs", flush=True)
        while True:
            time.sleep(1)
    return step(self, number, batches)
pretrain.trainer.Trainer.step = hang
from pretrain.__main__ import main
from pretrain.common.errors import run_cli
run_cli(main)
"""
pytestmark = pytest.mark.slow


@pytest.fixture
def pair(photos: Path, environment: dict[str, str], tiny_words: Callable, tmp_path: Path) -> Iterator[Callable]:
    """pair(**changes): two processes of one run; the second hangs in its third step."""
    children = []

    def start(**changes: object) -> list[subprocess.Popen]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        words = ["--data", str(photos), "--output", str(tmp_path), *tiny_words(**changes)]
        for rank in "01":
            group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                     "MASTER_PORT": port}
            children.append(subprocess.Popen([sys.executable, "-P", "-c", HANG, *words], env=environment | group,
                                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        assert "hangs" in children[1].stdout.readline()
        time.sleep(2)  # the first one waits in its step
        return children

    yield start
    for child in children:
        child.kill()
        child.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR2, 75)])
def test_signal__ends_the_one_that_waits_for_the_other_and_the_one_that_hangs(pair: Callable, number: int, code: int
                                                                              ) -> None:
    for child in pair():
        since = time.monotonic()
        child.send_signal(number)
        _, said = child.communicate(timeout=120)
        assert child.returncode == code and time.monotonic() - since < 40, said
        assert "Traceback" not in said and "run the same command again to resume" in said


def test_deadline__ends_the_one_that_waits_in_one_line(pair: Callable) -> None:
    waiting, hanging = pair(collective_timeout=10)
    _, said = waiting.communicate(timeout=120)
    assert waiting.returncode == 137 and "Traceback" not in said
    line, = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "this process waited in vain for another one (" in line and "--collective-timeout" in line
    assert hanging.poll() is None
    hanging.send_signal(signal.SIGTERM)
    assert hanging.wait(60) == 143
