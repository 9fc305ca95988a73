"""Sizes and modification times of a run's images: by these a run that resumes notices files that have changed.

images-HASH.stamps beside the list images-HASH.names: (N, 2) int64, size in bytes and time in
nanoseconds of each image; -1 for what cannot be reached.
"""

import hashlib
import os
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np

from pretrain.common.atomic import atomic_path
from pretrain.common.errors import refuse
from pretrain.common.one_line import escaped
from pretrain.data.images import ImageList

BLOCK = 8192  # images
THREADS = 16  # on a network disk most of the time is waiting


def place(images: ImageList, output: Path) -> Path:
    return output / f"images-{images.sha256[:16]}.stamps"


def sizes_sha256(images: ImageList) -> str:
    digest = hashlib.sha256()
    for _, block in _blocks(images):
        digest.update(block[:, 0].tobytes())
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
    digest, sizes, times, first = _compared(images, record)
    if sizes == 0 and times == len(images):
        print(f"all {len(images)} images have other modification times than when the run in {output} began, and the "
              "same sizes: taken for a copy", flush=True)
        return _write(images, record)
    refuse((sizes or times,
            f"{sizes + times} of {len(images)} images have changed since the run in {output} began (another size: "
            f"{sizes}, another modification time: {times}), the first is {escaped(first)}: bring the old ones back, "
            f"choose another --output, or remove {record} to go on with the images as they are now"))
    return digest


def _write(images: ImageList, path: Path) -> str:
    digest = hashlib.sha256()
    with atomic_path(path) as part, open(part, "wb") as file:
        for _, block in _blocks(images):
            digest.update(block[:, 0].tobytes())
            file.write(block.tobytes())
    return digest.hexdigest()


def _compared(images: ImageList, record: Path) -> tuple[str, int, int, str]:
    """`sizes_sha256`; how many sizes, and how many times of the others, differ from the record; the first such name."""
    digest, before = hashlib.sha256(), np.memmap(record, np.int64, "r").reshape(-1, 2)
    sizes, times, first = 0, 0, ""
    for start, block in _blocks(images):
        digest.update(block[:, 0].tobytes())
        other = block != before[start:start + len(block)]
        sizes += int(other[:, 0].sum())
        times += int((other[:, 1] & ~other[:, 0]).sum())
        if not first and other.any():
            first = images[start + int(other.any(axis=1).argmax())]
    return digest.hexdigest(), sizes, times, first


def _blocks(images: ImageList) -> Iterator[tuple[int, np.ndarray]]:
    """The number of the first image and the stamps of each block, in order."""
    with ThreadPool(min(THREADS, 4 * (os.cpu_count() or 1))) as pool:
        for start in range(0, len(images), BLOCK):
            yield start, images.stamps(range(start, min(start + BLOCK, len(images))), pool.map)
