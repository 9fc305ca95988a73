"""The images of a run: listed once on each machine, then read from that list by all its processes.

The list is OUTPUT/images-HASH.names (for shards the index beside them, where one can be written),
beside it sizes and times in OUTPUT/images-HASH.stamps (pretrain/data/stamps.py), and with labels
OUTPUT/classes-KIND-HASH.json. Machines that do not share a disk list each for themselves, and must
find the same.
"""

import json
import socket
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pretrain import agreement, distributed
from pretrain.common.atomic import make_folder, write_text
from pretrain.common.errors import UserError
from pretrain.config import Config
from pretrain.data import stamps
from pretrain.data.batches import list_images, open_list
from pretrain.data.images import ImageList, identity
from pretrain.data.labels import Kind, count_classes
from pretrain.data.name_table import NameTable
from pretrain.distributed import Process

OWN = ("workers",)  # options that may differ from process to process
BOOT = Path("/proc/sys/kernel/random/boot_id")  # names may be shared, as localhost is


class _Found(NamedTuple):
    """What one process sends to the others. problem: why it has no list; path: the list that it
    has made; sizes: hash of the images' sizes."""

    host: str
    folder: str
    problem: str | None = None
    path: Path | None = None
    images: int = 0
    sha256: str = ""
    sizes: str = ""


def run_images(
    config: Config, folder: Path, output: Path, process: Process, resumes: bool = False
) -> ImageList:
    """The images below `folder`, with the labels that the configuration asks for. Raises
    `UserError` on every process when one of them cannot list them, has other images than the
    first, other options or other code, or when the images of a run that `resumes` have changed."""
    place = _place(folder)
    own = agreement.facts(agreement.code_sha256(config.objective_name), _options(config))
    everyone = distributed.gather({**own, "place": place})
    problem = agreement.difference(everyone)
    if problem:
        raise UserError(problem)
    leader = [other["place"] for other in everyone].index(place)
    found = _Found(socket.gethostname(), str(folder))
    if leader == process.rank:
        found = _listed(found, config, output, process.is_main, resumes)
    lists = distributed.gather(found)
    problem = _problem(lists, process.rank)
    if problem is not None:
        if found.path and lists[0].path and found.sha256 != lists[0].sha256:
            found.path.unlink(missing_ok=True)
        raise UserError(problem)
    images = open_list(folder, NameTable.open(lists[leader].path))
    images.sixteen_bit = config.train.sixteen_bit
    images.label_by(config.train.labels, _classes(images, config.train.labels, output))
    return images


def check_agreement(config: Config, images: ImageList) -> None:
    """Raise `UserError` on every process unless all of them train on the same images, with the same
    options and the same code."""
    own = agreement.facts(agreement.code_sha256(config.objective_name), _options(config), images.sha256)
    problem = agreement.difference(distributed.gather(own))
    if problem:
        raise UserError(problem)


def _options(config: Config) -> dict[str, object]:
    """Those that must be the same everywhere: with other images at once batch norm would be wrong,
    with other steps between two checkpoints one process would wait for the other."""
    return {key: value for key, value in config.flat().items() if key not in OWN}


def _place(folder: Path) -> tuple[object, ...]:
    """The same for processes of one machine that see one folder: they need one list."""
    machine = (socket.gethostname(), BOOT.read_text().strip() if BOOT.is_file() else "")
    try:
        return (*machine, *identity(folder))
    except OSError:
        return (*machine, str(folder))


def _listed(found: _Found, config: Config, output: Path, main: bool, resumes: bool) -> _Found:
    folder, kind = Path(found.folder), config.train.labels
    try:
        make_folder(output)
        images = list_images(folder, keep=output, output=output)
        _classes(images, kind, output)
        sizes = stamps.record_or_compare(images, output, resumes) if main else stamps.sizes_sha256(images)
    except UserError as error:
        return found._replace(problem=str(error))
    return found._replace(path=images.names.path.absolute(), images=len(images), sha256=images.sha256, sizes=sizes)


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
        if other.path is not None and other.sizes != first.sizes:
            return (f"the processes have different images: the {first.images} files in {first.folder} (process 0 on "
                    f"{first.host}) have the names of those in {other.folder} (process {rank} on {other.host}) and "
                    "other sizes: expected the same files everywhere, copy --data again or name one folder")
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
