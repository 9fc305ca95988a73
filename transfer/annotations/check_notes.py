"""Notes of what was checked, in the user's cache: a check of files that are as they were is not made again.

A note belongs to the names, sizes and times of all its files and to the code of the checks. The
times are those of the last change to the content and to the file itself, which no program can set
back. A failed check leaves no note.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import PIL

from pretrain import ROOT
from pretrain.common.atomic import sha256_file, write_text
from pretrain.data.pixels import JPEG_DECODER
from transfer.annotations.user_cache import cache_folder

RESTING = 2.0  # seconds since the last change of a file: coarser clocks of disks could hide another one


def remember(paths: Iterable[Path], facts: object, check: Callable[[], dict]) -> dict:
    """What `check` returns (JSON, and paths) for the files `paths`, or a note of it.

    `facts`: what else it depends on.
    """
    started, newest = time.time(), 0.0
    total = hashlib.sha256(f"{_code_version()} {json.dumps(facts)}".encode())
    for path in paths:
        try:
            seen = path.stat()
        except OSError:
            return check()  # which says what is wrong
        total.update(f"{path.absolute()}\0{seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns}\n".encode(
            "utf-8", "surrogateescape"))
        newest = max(newest, seen.st_mtime, seen.st_ctime)
    note = cache_folder() / "checked" / f"{total.hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(note.read_text(encoding="utf-8"))
    found = check()
    if newest + RESTING < started:
        with contextlib.suppress(OSError):  # no place for a note: the check is made again
            write_text(note, json.dumps(found, default=str))
    return found


@cache
def _code_version() -> str:
    """Of the checks, and of what decodes images."""
    checks = [*ROOT.glob("transfer/annotations/*.py"), *ROOT.glob("transfer/data/*.py")]
    sources = sorted([*checks, ROOT / "pretrain" / "data" / "pixels.py"])
    return " ".join([PIL.__version__, JPEG_DECODER, *map(sha256_file, sources)])
