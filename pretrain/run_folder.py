"""The output folder of a run: bound to one configuration and its images, and used by one process at a time."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from pretrain.atomic import make_folder, write_text
from pretrain.config import Config
from pretrain.errors import UserError
from pretrain.images import ImageList

PATIENCE = 30.0  # seconds that a run which is just being stopped is waited for
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # of a network file system without locks
LEFT_BY_A_RUN = ("checkpoints", "metrics.jsonl", "done.json", "backbone.safetensors")


@contextlib.contextmanager
def claimed(output: Path, config: Config, names: ImageList) -> Iterator[None]:
    """Make the folder ours while the block runs. Raises `UserError` when it cannot be made, lies among the images,
    holds something else or a run with other values, or when another process works in it."""
    if _among(output, names):
        raise UserError(f"--output {output} lies inside --data {names.folder}, where the run's own pictures would "
                        "become images to train on: choose an --output outside")
    make_folder(output)
    with locked(output):
        _bind(output, config, names)
        yield


def _among(output: Path, names: ImageList) -> bool:
    """Whether the images' folder holds `output`, itself or through one of the links that the search follows."""
    folders = {os.path.dirname(name) for name in names}
    folders |= {str(above) for folder in folders for above in Path(folder).parents} | {""}
    place = Path(os.path.realpath(output))  # Path.resolve fails in loops
    return any(place.is_relative_to(os.path.realpath(names.folder / folder)) for folder in folders)


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


def images_sha256(names: ImageList) -> str:
    """SHA-256 of the list of the images' names, one a line; file names need not be UTF-8."""
    digest = hashlib.sha256()
    for number, name in enumerate(names):
        digest.update(("\n" * (number > 0) + name).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _bind(output: Path, config: Config, names: ImageList) -> None:
    """Write down whose folder it is, or compare with what stands there."""
    record = {**config.identity(), "config_hash": config.hash(),
              "images": len(names), "images_hash": images_sha256(names)}
    path = output / "run.json"
    if not path.is_file():
        there = [name for name in LEFT_BY_A_RUN if (output / name).exists()]
        if there:
            raise UserError(f"{output} holds {', '.join(there)} but no run.json: expected an empty folder or one of a "
                            "run, choose another --output")
        write_text(path, json.dumps(record, indent=2) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        images, images_hash = before["images"], before["images_hash"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: expected the values of a run, choose another --output") from None
    changed = config.difference(before, path)
    if changed:
        raise UserError(f"{output} holds a run with other values ({'; '.join(changed)}): choose another --output, or "
                        "use the same options as before to resume")
    if images_hash != record["images_hash"]:
        raise UserError(f"{output} holds a run on other images (then {images}, now {record['images']}): "
                        "choose another --output")
