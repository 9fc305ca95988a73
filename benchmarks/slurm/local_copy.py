"""A dataset copied to a node's own disk, once for all jobs that use it there.

A copy's name has the hash of the folder's path and of the names, sizes and times of its files:
the copy of a folder that has changed is not used.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pretrain.common.errors import UserError, refuse

THREADS = 16  # a network file system answers many small files at once
SPARE = 2**30  # bytes that stay free on the disk
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def place(disk: str) -> Path:
    """The user's own folder on `disk`, with the environment variables of this node; `UserError`
    without one."""
    folder, host = Path(os.path.expandvars(disk)), socket.gethostname()
    refuse(
        ("$" in str(folder),
         f"--local-disk {disk}: the variable is not set on node {host}; name a folder instead"),
        (not os.access(folder, os.W_OK) or not folder.is_dir(),
         f"--local-disk {disk}: {folder} is not a folder that can be written to on node {host}"))
    own = folder / f"clove-data-{os.getuid()}"  # others use the disk too
    own.mkdir(mode=0o700, exist_ok=True)
    return own


def local_copy(source: Path, disk: Path, start: str) -> Path:
    """The folder `source` on `disk`; copied unless it is there already. `UserError` when it does
    not fit.

    Links are followed. A process waits for another one that copies the folder, and one of the
    same `start` of a job does not look at the source again: a million files on a network are not
    listed eight times.
    """
    place_of_source = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
    with open(disk / f".{source.name}-{place_of_source}.lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that copies {source} to {disk}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        before, _, name = lock.read().partition("\n")
        if before != start or not (disk / name).is_dir():
            name = _copy(source, disk).name
            lock.truncate(0)
            lock.write(f"{start}\n{name}")
    return disk / name


def _copy(source: Path, disk: Path) -> Path:
    """Lists `source` and copies it, unless there is a copy of just these files."""
    try:
        files = [(path, name, path.stat()) for path, name in sorted(_files(source))]
    except OSError as error:  # a folder that cannot be listed, a link to nothing, links in a circle
        raise UserError(f"--local-disk: {source} cannot be read whole ({error.strerror}: {error.filename}); fix that, "
                        "or leave the option out") from None
    refuse((not files, f"--local-disk: found no file in {source}"))
    lines = "\n".join([str(source), *(f"{name} {about.st_size} {about.st_mtime_ns}" for _, name, about in files)])
    digest = hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
    target = disk / f"{source.name}-{digest[:16]}"
    if target.is_dir():
        whole = True
        for _, name, about in files:
            copied = target / name
            whole = whole and copied.is_file() and copied.stat().st_size == about.st_size
        if whole:
            return target
        print(f"{target} has lost files, perhaps to a clean-up of the disk: copied again", flush=True)
        shutil.rmtree(target, ignore_errors=True)
    part = disk / f".{target.name}.part"
    shutil.rmtree(part, ignore_errors=True)  # of a job that was killed
    size, free = sum(about.st_size for *_, about in files), shutil.disk_usage(disk).free
    refuse((size + SPARE > free,
            f"--local-disk {disk} on node {socket.gethostname()}: {source} has {size / 2**30:.1f} GB, free are "
            f"{free / 2**30:.1f} GB (1 GB stays free): choose another disk, or leave the option out"))
    print(f"copying {len(files)} files ({size / 2**30:.1f} GB) of {source} to {target}", flush=True)
    started = time.monotonic()
    try:
        for folder in {name.parent for _, name, _ in files}:
            (part / folder).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(lambda one: shutil.copyfile(one[0], part / one[1]), files):
                pass
    except OSError as error:  # somebody else filled the disk meanwhile
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(f"--local-disk {disk} on node {socket.gethostname()}: copying {source} failed "
                        f"({error.strerror}: {error.filename}); nothing of the copy was left") from None
    part.rename(target)
    print(f"copied in {time.monotonic() - started:.0f} s", flush=True)
    return target


def holds_images(source: Path) -> bool:
    """False where a task's folder holds annotations alone, as LVIS beside COCO: a copy would not
    find the images."""
    try:
        return any(path.suffix.lower() in IMAGES for path, _ in _files(source))
    except OSError:  # `local_copy` says what
        return True


def _files(source: Path) -> Iterator[tuple[Path, Path]]:
    """(file, name below `source`) of every file. Raises `OSError`: what cannot be listed is not
    left out."""
    def stop(error: OSError) -> None:
        raise error

    for root, _, names in os.walk(source, onerror=stop, followlinks=True):
        for name in names:
            path = Path(root, name)
            yield path, path.relative_to(source)
