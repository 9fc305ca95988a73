"""One process at a time works in a folder: the lock of a training's folder, and that of a whole run.

Two kinds of lock, for who must let go of it. A training's ends with its own process: its loader processes, which may
outlive it, do not keep the next start out. A run's is inherited: when the run is killed, its last stage still holds the
folder until it has saved. Both end with their owners, however these end.
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from pretrain.common.errors import UserError

NAME = ".lock"
PATIENCE = 30.0  # seconds that a process which is just being stopped is waited for
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # of a network file system without locks


@contextlib.contextmanager
def locked(folder: Path, patience: float | None = None, inherited: bool = False) -> Iterator[None]:
    """Keep other processes out of the folder while the block runs; waits `patience` seconds for one that stops.

    Raises `UserError` when it goes on.
    """
    patience = PATIENCE if patience is None else patience
    take = fcntl.flock if inherited else fcntl.lockf
    deadline, said = time.monotonic() + patience, False
    with open(folder / NAME, "a+", encoding="utf-8") as file:
        os.set_inheritable(file.fileno(), inherited)
        while True:
            try:
                take(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                file.seek(0)
                owner = file.read().strip() or "another process"
                if time.monotonic() >= deadline:
                    raise UserError(f"{owner} works in {folder}: wait for it, or choose another --output") from None
                if not said:
                    print(f"{owner} works in {folder}; waiting up to {patience:.0f} s for it to stop", flush=True)
                    said = True
                time.sleep(0.2)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                print(f"{folder} is on a file system without locks: nothing keeps a second run out of it", flush=True)
                break
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
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    return False
