"""Files that are whole or absent: written beside their place, then renamed. Folders to write them in.

What is being written is called .NAME.*.part and is locked by its writer. One without a lock is of a
writer that was killed: the next one in the folder removes it.
"""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pretrain.common.errors import UserError

PART = re.compile(r"\..+\.[0-9a-f]+\.part(\..+)?", re.DOTALL)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # of a network file system without locks
LOGS = (".log", ".jsonl", ".txt", ".lock", "metrics.json")  # which are appended to
OLD = 86_400  # seconds after which a part is nobody's where there are no locks
_rests: dict[Path, float] = {}  # until when a folder is not listed again, on the monotonic clock
NO_SPACE = ("os error 28", "No space left", "PytorchStreamWriter failed", "iostream error", "unexpected pos")


def make_folder(folder: Path) -> None:
    """Make the folder and those above it. Raises `UserError` when that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: expected a folder, found that it cannot be made ({error.strerror}); "
                        "choose another --output") from None


def check_writable(folder: Path) -> None:
    """Raise `UserError` when nothing can be written in a folder, or what an earlier run left there
    cannot be gone on with. One that is not there is not made: asked is the one that it would be
    made in."""
    place = Path(os.path.abspath(folder))
    while not os.path.lexists(place):
        place = place.parent
    try:
        with part_file(place, "try"):
            pass
        closed = [path for path in place.iterdir() if _is_written_again(path) and not os.access(path, os.W_OK)]
        if place != Path(os.path.abspath(folder)) or not closed:
            return
        place, problem = closed[0], os.strerror(errno.EACCES)
    except OSError as error:
        problem = error.strerror
    raise UserError(f"--output {folder}: expected a folder that can be written in, found {place}: {problem}; change "
                    "its rights or choose another --output")


def _is_written_again(place: Path) -> bool:
    """Folders and logs; all other files are replaced by new ones."""
    return place.is_dir() or (place.is_file() and (place.suffix in LOGS or place.name in LOGS))


@contextmanager
def part_file(folder: Path, stem: str, suffix: str = "") -> Iterator[Path]:
    """Yield an empty new file of a name that no reader takes for a whole one; it is gone at the end
    unless it was renamed. Those of killed writers in the folder are removed first."""
    _tidy(folder)
    while True:
        # The suffix is kept at the end: writers such as torch.save and matplotlib look at it.
        # Random: two machines on one network disk can have the same process number.
        part = folder / f".{stem}.{secrets.token_hex(4)}.part{suffix}"
        with open(part, "xb") as own:
            _lock(own.fileno(), wait=True)
            if not os.fstat(own.fileno()).st_nlink:  # taken for a dead one before it had its lock
                continue
            try:
                yield part
            finally:
                part.unlink(missing_ok=True)
            return


@contextmanager
def part_folder(output: Path) -> Iterator[Path]:
    """As `part_file`, for a folder beside `output`."""
    _tidy(output.parent)
    part = output.with_name(f".{output.name}.{secrets.token_hex(4)}.part")
    part.mkdir()
    descriptor = os.open(part, os.O_RDONLY)
    try:
        _lock(descriptor, wait=True)
        yield part
    finally:
        os.close(descriptor)
        shutil.rmtree(part, ignore_errors=True)


def _tidy(folder: Path) -> None:
    """Remove dead parts, in at most a twentieth of the time: thousands of results are written into one folder, and
    each listing takes milliseconds there."""
    began = time.monotonic()
    if began >= _rests.get(folder, 0.0):
        remove_dead_parts(folder)
        took = time.monotonic() - began
        _rests[folder] = began + 20 * took


def remove_dead_parts(folder: Path) -> None:
    """Remove what killed writers left in a folder; what another process is writing stays."""
    with suppress(OSError), os.scandir(folder) as found:  # cannot be listed: then nothing is written there either
        for entry in found:
            if PART.fullmatch(entry.name):
                with suppress(OSError):  # gone by now, or another's
                    _remove_if_dead(entry.path)


def _remove_if_dead(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        locked = _lock(descriptor, wait=False)
        if locked or (locked is None and time.time() - os.fstat(descriptor).st_mtime > OLD):
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, wait: bool) -> bool | None:
    """Whether the lock is ours now; None on a file system without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return None if error.errno in NO_LOCKS else False
    return True


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a sibling path to write to; it takes the place of `path` when the block ends without an
    error.

    A full disk is an `OSError` with ENOSPC for every writer: those of safetensors and torch raise
    errors of their own.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with part_file(path.parent, path.stem, path.suffix) as sibling:
        try:
            yield sibling
            with open(sibling, "rb") as written:
                os.fsync(written.fileno())
            os.replace(sibling, path)
        except Exception as error:
            if not isinstance(error, OSError) and any(text in str(error) for text in NO_SPACE):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with atomic_path(path) as sibling:
        sibling.write_text(text, encoding="utf-8")


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
