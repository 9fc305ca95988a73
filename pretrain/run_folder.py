"""The output folder of a run: bound to one configuration and its images, and used by one process at a time."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.atomic import make_folder, write_text
from pretrain.config import Config
from pretrain.errors import UserError
from pretrain.images import ImageList, among_images, check_folder

PATIENCE = 30.0  # seconds that a run which is just being stopped is waited for
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # of a network file system without locks
LEFT_BY_A_RUN = ("checkpoints", "metrics.jsonl", "done.json", "backbone.safetensors")


@contextlib.contextmanager
def claimed(output: Path, config: Config, folder: Path) -> Iterator[None]:
    """Make `output` ours while the block runs. Raises `UserError` when it cannot be made, lies in the images' `folder`
    (links in there are seen by the listing), holds something else or a run with other values, or when another process
    works in it."""
    check_folder(folder)
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(folder)):  # Path.resolve fails in loops
        raise among_images(output, folder)
    make_folder(output)
    with locked(output):
        _stored(output, config)
        yield


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other processes out of the folder while the block runs; one that is just being stopped is waited for.

    A POSIX lock: loader processes do not inherit it, and it ends with its owner, however that ends."""
    deadline, said = time.monotonic() + PATIENCE, False
    with open(output / ".lock", "a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                file.seek(0)
                owner = file.read().strip() or "another process"
                if time.monotonic() >= deadline:
                    raise UserError(f"{owner} works in {output}: wait for it, or choose another --output") from None
                if not said:
                    print(f"{owner} works in {output}; waiting up to {PATIENCE:.0f} s for it to stop", flush=True)
                    said = True
                time.sleep(0.2)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                print(f"{output} is on a file system without locks: nothing keeps a second run out of it", flush=True)
                break
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def bind(output: Path, config: Config, images: ImageList) -> None:
    """Write down whose folder it is, or raise `UserError` when it is that of a run on other images."""
    before = _stored(output, config)
    if before is None:
        record = {**config.identity(), "config_hash": config.hash(), "images": len(images),
                  "images_hash": images.sha256, "classes": len(images.classes)}
        write_text(output / "run.json", json.dumps(record, indent=2) + "\n")
    elif before["images_hash"] != images.sha256:
        if images.names.path and images.names.path.parent == output.absolute():
            images.names.path.unlink()
        raise UserError(f"{output} holds a run on other images (then {before['images']}, now {len(images)}): choose "
                        "another --output")


def _stored(output: Path, config: Config) -> dict[str, Any] | None:
    """What stands in the run.json of a run with these values; None in an empty folder."""
    path = output / "run.json"
    if not path.is_file():
        there = [name for name in LEFT_BY_A_RUN if (output / name).exists()]
        if there:
            raise UserError(f"{output} holds {', '.join(there)} but no run.json: expected an empty folder or one of a "
                            "run, choose another --output")
        return None
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        before["images"], before["images_hash"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: expected the values of a run, choose another --output") from None
    changed = config.difference(before, path)
    if changed and not _has_work(output):  # it was refused before its first step, and is tried with other options
        path.unlink()
        return None
    if changed:
        raise UserError(f"{output} holds a run with other values ({'; '.join(changed)}): choose another --output, or "
                        "use the same options as before to resume")
    return before


def _has_work(output: Path) -> bool:
    """Whether a run left something that took time: a checkpoint, or a line of metrics."""
    log = output / "metrics.jsonl"
    return any((output / "checkpoints").glob("*")) or (log.is_file() and log.stat().st_size > 0) \
        or (output / "done.json").exists()
