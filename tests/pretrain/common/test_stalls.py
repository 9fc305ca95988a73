"""Asked to stop, a process that waits in vain is ended; one that works is not."""

import signal
import subprocess
import sys
import time

import pytest

START = """
import multiprocessing, os, signal, sys, time
from pretrain.common import stalls
from pretrain.common.signals import stop_signals
stalls.PATIENCE = 0.5

def child():
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    print("ready", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    with stop_signals() as stop:
"""


def run(body: str, environment: dict[str, str], number: int = 0) -> tuple[int, str, str, float]:
    """Exit code, stdout, stderr and seconds of a process with these lines inside `stop_signals`, which gets a signal
    when it says that it is ready."""
    code = START + "".join(f"        {line}\n" for line in body.strip().splitlines())
    process = subprocess.Popen([sys.executable, "-P", "-c", code], env=environment, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        since = time.monotonic()
        if number:
            process.send_signal(number)
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, error, time.monotonic() - since


WAITS = """
print("ready", flush=True)
while True:
    time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR2, 75)])
def test_stalled__is_ended_with_the_code_of_its_signal(number: int, code: int, environment: dict[str, str]) -> None:
    left, _, error, seconds = run(WAITS, environment, number)
    assert left == code and 0.4 < seconds < 20
    assert error == (
        f"stopped by {signal.Signals(number).name}: this process did not get on within 0 s, perhaps it waits for "
        "another one or for images; nothing was saved after the newest checkpoint, run the same command "
        "again to resume\n")


def test_stalled__its_loaders_end_with_it(environment: dict[str, str]) -> None:
    """They ignore SIGTERM, and hold its stdout open: `run` would wait for them."""
    body = """
multiprocessing.get_context("fork").Process(target=child, daemon=True).start()
while True:
    time.sleep(60)
"""
    code, _, _, seconds = run(body, environment, signal.SIGTERM)
    assert code == 143 and seconds < 20


@pytest.mark.parametrize("what", ["slow", "step"])
def test_working__is_not_ended(what: str, environment: dict[str, str]) -> None:
    """A save may take long, and a step three times as long as those before."""
    body = f"""
for _ in range(3):
    with stalls.step():
        time.sleep(1)
with stalls.{what}():
    print("ready", flush=True)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        time.sleep(0.1)
sys.exit(stop() - 1)
"""
    assert run(body, environment, signal.SIGTERM)[:3] == (142, "", "")


def test_working__after_a_step_the_short_time_counts(environment: dict[str, str]) -> None:
    body = "with stalls.slow():\n    pass\n" + WAITS
    assert run(body, environment, signal.SIGTERM)[0] == 143


def test_stalled__ctrl_c_is_left_to_the_process(environment: dict[str, str]) -> None:
    body = """
print("ready", flush=True)
until = time.monotonic() + 2
while time.monotonic() < until:
    time.sleep(0.1)
sys.exit(stop() - 1)
"""
    assert run(body, environment, signal.SIGINT)[0] == 129


def test_child__its_signals_are_not_its_parents(environment: dict[str, str]) -> None:
    body = """
process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
process.start()
time.sleep(1)
os.kill(process.pid, signal.SIGTERM)
time.sleep(2)
process.kill()
sys.exit(stop() + 7)
"""
    assert run(body, environment)[0] == 7


def test_after__nothing_is_watched(environment: dict[str, str]) -> None:
    code = START + """
        pass
    signal.signal(signal.SIGTERM, lambda *_: None)
    print("ready", flush=True)
    time.sleep(2)
    sys.exit(9)
"""
    process = subprocess.Popen([sys.executable, "-P", "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 9
