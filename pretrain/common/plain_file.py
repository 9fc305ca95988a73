"""Files that a stranger may have put there: plain ones of sane length are read, no other is waited for."""

import errno
import os
import stat
from pathlib import Path

LARGEST = 2**26  # bytes: a record has some thousand


def read_plain(path: str | Path, most: int = LARGEST) -> bytes:
    """The bytes of a file; OSError for a FIFO, a socket, a device, or more than `most` bytes."""
    with open(path, "rb", opener=_open_at_once) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a plain file but a FIFO, a socket or a device", str(path))
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"{found.st_size / 1e6:.0f} MB, more than {most / 1e6:.0f}", str(path))
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # else a FIFO is waited for
