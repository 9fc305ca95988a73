"""Sizes and modification times of a run's images: by these a run that resumes notices files that have changed.

images-HASH.stamps beside the list images-HASH.names: (N, 2) int64, size in bytes and time in
nanoseconds of each image; -1 for what cannot be reached.
"""

import hashlib
import os
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pretrain.common.atomic import atomic_path
from pretrain.common.errors import UserError
from pretrain.common.one_line import escaped
from pretrain.data.images import ImageList

BLOCK = 8192  # images
THREADS = 16  # on a network disk most of the time is waiting


class Changes(NamedTuple):
    """What differs from a record. first: the name of the first image that does."""

    sizes: int
    times: int
    images: int
    first: str


def place(images: ImageList, output: Path) -> Path:
    """The file of the stamps."""
    return output / f"images-{images.sha256[:16]}.stamps"


def sizes_sha256(images: ImageList) -> str:
    """SHA-256 of the sizes of all images."""
    digest = hashlib.sha256()
    _each_block(images, lambda _, block: digest.update(block[:, 0].tobytes()))
    return digest.hexdigest()


def record_or_compare(images: ImageList, output: Path, resumes: bool) -> str:
    """Write the stamps of a run's images into `output`, or, where it resumes, compare them with
    those that its first start wrote. Returns `sizes_sha256`; raises `UserError` when images have
    changed.

    A copy has other times and equal sizes throughout: that is said, and its times are those that
    count from then on.
    """
    record = place(images, output)
    whole = record.is_file() and record.stat().st_size == 16 * len(images)
    if not (resumes and whole):
        return _write(images, record)
    digest, found = _compared(images, record)
    if found.sizes == 0 and found.times == found.images:
        print(f"all {len(images)} images have other modification times than when the run in {output} began, and the "
              "same sizes: taken for a copy", flush=True)
        return _write(images, record)
    if found.sizes or found.times:
        raise UserError(f"{found.sizes + found.times} of {len(images)} images have changed since the run in {output} "
                        f"began (another size: {found.sizes}, another modification time: {found.times}), the first is "
                        f"{escaped(found.first)}: bring the old ones back, choose another --output, or remove {record} "
                        "to go on with the images as they are now")
    return digest


def _write(images: ImageList, path: Path) -> str:
    digest = hashlib.sha256()
    with atomic_path(path) as part, open(part, "wb") as file:
        def keep(_: int, block: np.ndarray) -> None:
            digest.update(block[:, 0].tobytes())
            file.write(block.tobytes())

        _each_block(images, keep)
    return digest.hexdigest()


def _compared(images: ImageList, record: Path) -> tuple[str, Changes]:
    digest, before = hashlib.sha256(), np.memmap(record, np.int64, "r").reshape(-1, 2)
    changed, first = [0, 0], []

    def compare(start: int, block: np.ndarray) -> None:
        digest.update(block[:, 0].tobytes())
        other = block != before[start:start + len(block)]
        changed[0] += int(other[:, 0].sum())
        changed[1] += int((other[:, 1] & ~other[:, 0]).sum())
        if not first and other.any():
            first.append(images[start + int(other.any(axis=1).argmax())])

    _each_block(images, compare)
    return digest.hexdigest(), Changes(*changed, len(images), "".join(first))


def _each_block(images: ImageList, use: Callable[[int, np.ndarray], None]) -> None:
    """Call `use` with the number of the first image and the stamps of each block, in order."""
    with ThreadPool(min(THREADS, 4 * (os.cpu_count() or 1))) as pool:
        for start in range(0, len(images), BLOCK):
            use(start, images.stamps(range(start, min(start + BLOCK, len(images))), pool.map))
