"""Child processes, one or several at once: a stop signal is passed on to each once, a second one kills them."""

import ctypes
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import FrameType

from pretrain.common.signals import EXIT_CODES

PR_SET_PDEATHSIG = 1  # Linux prctl: a signal for the child when its parent dies
# Found here: between fork and exec a lock of the loader may be held by a thread that the child has not.
PRCTL = ctypes.CDLL(None).prctl


class Children:
    """Commands that threads run. As a context of the main thread it owns the signals that ask to
    stop, and raises KeyboardInterrupt / SystemExit at its end when one came."""

    def __init__(self) -> None:
        self.asked: int | None = None  # the first signal that came
        self._processes: list[subprocess.Popen] = []
        self._lock = threading.RLock()  # the handler may come while its own thread starts a child

    def run(self, command: list[str], environment: dict[str, str], log: Path | None = None) -> int:
        """Run a command to its end, its output appended to `log` if there is one; returns its exit code."""
        with self._lock:
            process = start_command(command, environment, log)
            self._processes.append(process)
            if self.asked is not None:  # before it was there
                process.send_signal(self.asked)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._processes.remove(process)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        with self._lock:
            sent = number if self.asked is None else signal.SIGKILL
            self.asked = self.asked or number
            for process in self._processes:
                process.send_signal(sent)

    def __enter__(self) -> "Children":
        self._before = {number: signal.signal(number, self._pass_on) for number in EXIT_CODES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self.asked is not None:
            print("stopped: run the same command again to resume", file=sys.stderr)
            sys.exit(EXIT_CODES[signal.Signals(self.asked)])


def start_command(command: list[str], environment: dict[str, str], log: Path | None = None) -> subprocess.Popen:
    """A child in a process group of its own, so that Ctrl-C in a terminal reaches it through us,
    once; it gets SIGTERM when we die (the thread that started it). `log`: a file that its output is
    appended to."""
    start = partial(subprocess.Popen, command, env=environment, process_group=0, preexec_fn=_stop_with_parent)
    if log is None:
        return start()
    with log.open("ab") as file:
        return start(stdout=file, stderr=subprocess.STDOUT)


def _stop_with_parent() -> None:
    PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM)
