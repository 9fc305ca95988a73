"""One process at a time works in a folder: the lock of a training's folder, and that of a whole run.

Two kinds of lock, which differ in who must let go. A training's lock ends with its own process:
loader processes, which may outlive it, do not keep the next start out. A whole run's lock is
inherited by its stages: when the run is killed, its last stage holds the folder until it has saved.
"""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pretrain.common.atomic import NO_LOCKS
from pretrain.common.errors import UserError

NAME = ".lock"
PATIENCE = 30.0  # seconds to wait for a process that is just being stopped


@contextlib.contextmanager
def locked(folder: Path, patience: float | None = None, inherited: bool = False) -> Iterator[None]:
    """Keep other processes out of the folder while the block runs; waits `patience` seconds for one
    that stops.

    Raises `UserError` when that one works on.
    """
    patience = PATIENCE if patience is None else patience
    lock = fcntl.flock if inherited else fcntl.lockf
    deadline, said = time.monotonic() + patience, False
    with open(folder / NAME, "a+", encoding="utf-8") as file:
        os.set_inheritable(file.fileno(), inherited)
        held = _held_elsewhere(lock, file, fcntl.LOCK_EX)
        while held:
            file.seek(0)
            owner = file.read().strip() or "another process"
            if time.monotonic() >= deadline:
                raise UserError(f"{owner} works in {folder}: wait for it, or choose another --output")
            if not said:
                print(f"{owner} works in {folder}; waiting up to {patience:.0f} s for it to stop", flush=True)
                said = True
            time.sleep(0.2)
            held = _held_elsewhere(lock, file, fcntl.LOCK_EX)
        if held is None:
            print(f"warning: {folder} is on a file system without locks: nothing keeps a second run out of it",
                  flush=True)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def is_locked(folder: Path) -> bool:
    """Whether a whole run holds the folder."""
    try:
        file = open(folder / NAME, "rb")  # noqa: SIM115
    except OSError:
        return False
    with file:
        return bool(_held_elsewhere(fcntl.flock, file, fcntl.LOCK_SH))


def _held_elsewhere(lock: Callable[[IO, int], None], file: IO, kind: int) -> bool | None:
    """Take the lock, or say that another process holds it. None: this file system has no locks."""
    try:
        lock(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return False
