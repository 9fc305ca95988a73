"""Ends a process that was asked to stop and waits in vain: for another process, or for its loaders.

Such a wait is inside a library that does not come back to Python, where no handler runs. So a
thread is told of the signal (signal.set_wakeup_fd) and looks at what the main thread is doing: a
step may end, a checkpoint may be written, everything else has nothing to lose.
"""

import contextlib
import multiprocessing
import os
import select
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

PATIENCE = 20.0  # seconds that a process asked to stop may go on for, and three usual steps more within a step
SLOW = 600.0  # the same for what would be lost: a checkpoint that is being written, an evaluation in the middle
END, EVERY = b"\0", 0.2
# In the messages: of what is ended here, and of those whose deadlines were over.
NOT_WITHIN = "did not get on within"
NO_IMAGES, IN_VAIN = "gave no images in time", "waited in vain for another one"


class _Doing:
    """What the main thread is doing: since when (seconds of the monotonic clock), and how long it may
    go on for when it is asked to stop."""

    def __init__(self) -> None:
        self.since, self.patience = time.monotonic(), PATIENCE
        self.steps: deque[float] = deque(maxlen=21)  # seconds of the latest ones


_doing = _Doing()


@contextlib.contextmanager
def slow() -> Iterator[None]:
    """Inside, the process saves or measures: asked to stop, it may go on for `SLOW` seconds."""
    with _during(SLOW):
        yield


@contextlib.contextmanager
def step() -> Iterator[None]:
    """Inside, the process takes a step, from its images to the update: asked to stop, it may end it,
    which should not take much longer than the steps before."""
    with _during(PATIENCE + 3 * statistics.median(_doing.steps or [0.0])):
        since = time.monotonic()
        yield
        _doing.steps.append(time.monotonic() - since)


@contextlib.contextmanager
def _during(patience: float) -> Iterator[None]:
    before = _doing.patience
    _doing.since, _doing.patience = time.monotonic(), patience
    try:
        yield
    finally:
        _doing.since, _doing.patience = time.monotonic(), before


@contextlib.contextmanager
def ended_when_stalled(codes: Mapping[int, int], leave: Callable[[int, str], int] | None = None) -> Iterator[None]:
    """Inside, the process leaves with codes[SIGNAL] when it gets that signal and does not come to its
    own end, or to something else to do, in time; of several signals the last one counts. The signals
    need handlers; in the main thread only.

    `leave`: called before that, in a thread, with the code and what is said; returns the code to
    leave with.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _doing.since, _doing.patience = time.monotonic(), PATIENCE
    watch = threading.Thread(target=_watch, args=(reader, codes, leave or _as_it_is), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        os.write(writer, END)
        watch.join()
        os.close(reader)
        os.close(writer)


def _as_it_is(code: int, _: str) -> int:
    return code


def _watch(reader: int, codes: Mapping[int, int], leave: Callable[[int, str], int]) -> None:
    asked, number = 0.0, 0
    while True:
        if not number or select.select([reader], [], [], EVERY)[0]:
            received = os.read(reader, 1)
            if received in (END, b""):
                return
            if received[0] in codes:
                asked, number = asked or time.monotonic(), received[0]
            continue
        since, patience = _doing.since, _doing.patience
        if time.monotonic() - max(asked, since) > patience:
            _end(signal.Signals(number), codes[number], patience, leave)


def _end(received: signal.Signals, code: int, patience: float, leave: Callable[[int, str], int]) -> None:
    end_children()
    message = (f"stopped by {received.name}: this process {NOT_WITHIN} {patience:.0f} s, perhaps it waits for "
               "another one or for images; nothing was saved after the newest checkpoint, run the same command "
               "again to resume")
    # Not print: the main thread may hold the lock of the stream.
    os.write(sys.stderr.fileno() if sys.stderr else 2, f"{message}\n".encode())
    try:
        code = leave(code, message)
    finally:
        os._exit(code)


def end_children() -> None:
    """Kill the daemons that this process has started by multiprocessing: loaders, which outlive
    SIGTERM."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _forget_in_child() -> None:
    """A loader's signals are not its parent's."""
    with contextlib.suppress(ValueError):  # forked by another thread than the main one
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_in_child)
