"""The images of a run: listed once on each machine, then read from that list by all its processes.

The list is OUTPUT/images-HASH.names (for shards the index beside them, where one can be written),
with labels also OUTPUT/classes-KIND-HASH.json. Machines that do not share a disk list each for
themselves, and must find the same.
"""

import json
import socket
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pretrain import distributed
from pretrain.common.atomic import make_folder, write_text
from pretrain.common.errors import UserError
from pretrain.config import Config
from pretrain.data.batches import list_images, open_list
from pretrain.data.images import ImageList, identity
from pretrain.data.labels import Kind, count_classes
from pretrain.data.name_table import NameTable
from pretrain.distributed import Process

BOOT = Path("/proc/sys/kernel/random/boot_id")  # names may be shared, as localhost is


class _Found(NamedTuple):
    """What one process sends to the others. problem: why it has no list; path: the list that it
    has made."""

    host: str
    folder: str
    options: str
    problem: str | None = None
    path: Path | None = None
    images: int = 0
    sha256: str = ""


def run_images(config: Config, folder: Path, output: Path, process: Process) -> ImageList:
    """The images below `folder`, with the labels that the configuration asks for. Raises
    `UserError` on every process when one of them cannot list them, has other images than the
    first, or other options."""
    place = _place(folder)
    leader = distributed.gather(place).index(place)
    # With other images at once their batch norm would be wrong, and one would wait for batches
    # that never come.
    options = f"{config.hash()} {config.runtime.device_batch}"
    found = _Found(socket.gethostname(), str(folder), options)
    if leader == process.rank:
        found = _listed(found, config.train.labels, folder, output)
    everyone = distributed.gather(found)
    problem = _problem(everyone, process.rank)
    if problem is not None:
        if found.path and everyone[0].path and found.sha256 != everyone[0].sha256:
            found.path.unlink(missing_ok=True)
        raise UserError(problem)
    images = open_list(folder, NameTable.open(everyone[leader].path))
    images.sixteen_bit = config.train.sixteen_bit
    images.label_by(config.train.labels, _classes(images, config.train.labels, output))
    return images


def _place(folder: Path) -> tuple[object, ...]:
    """The same for processes of one machine that see one folder: they need one list."""
    machine = (socket.gethostname(), BOOT.read_text().strip() if BOOT.is_file() else "")
    try:
        return (*machine, *identity(folder))
    except OSError:
        return (*machine, str(folder))


def _listed(found: _Found, kind: Kind, folder: Path, output: Path) -> _Found:
    try:
        make_folder(output)
        images = list_images(folder, keep=output, output=output)
        _classes(images, kind, output)
    except UserError as error:
        return found._replace(problem=str(error))
    return found._replace(path=images.names.path.absolute(), images=len(images), sha256=images.sha256)


def _problem(everyone: list[_Found], own_rank: int) -> str | None:
    """Why the processes cannot start, in the words of process `own_rank`; None when they can."""
    for rank, other in enumerate(everyone):
        if other.problem is not None and rank != own_rank:
            return f"process {rank} on {other.host}: {other.problem}"
        if other.problem is not None:
            return other.problem
    first = everyone[0]
    for rank, other in enumerate(everyone):
        if other.path is not None and other.sha256 != first.sha256:
            return (f"the processes have different images: process 0 on {first.host} {first.images} in "
                    f"{first.folder}, process {rank} on {other.host} {other.images} in {other.folder}: "
                    "expected the same names everywhere, copy --data again or name one folder")
        if other.options != first.options:
            return (f"processes 0 on {first.host} and {rank} on {other.host} were started with different "
                    "options: expected the same command everywhere")
    return None


def _classes(images: ImageList, kind: Kind, output: Path) -> Counter[str]:
    """How many images each class has, counted once for a list and kept in `output`."""
    if kind == "none":
        return Counter()
    path = output / f"classes-{kind}-{images.sha256[:16]}.json"
    try:
        return Counter(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        counts = count_classes(images, kind)
        write_text(path, json.dumps(counts, indent=1) + "\n")
        return counts
