"""WebDataset tar shards: packing images into them, and reading any of them by its number.

  clove shards pack PHOTOS SHARDS                then:  clove pretrain --data SHARDS ...

A shard is a plain tar file. The headers are read once and kept as an index
(.clove-index-HASH.names in the folder, or where a run keeps its lists, if nothing may be written
there), so that reading is random access: order, views and resume of a run are exactly those of the
folder that was packed. WebDataset takes what stands before the first dot of a file's name for its
key: where names of the folder would clash there, single characters are percent-encoded in the
shard and decoded when read.
"""

import argparse
import contextlib
import hashlib
import heapq
import io
import itertools
import json
import os
import stat
import sys
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from tqdm import tqdm

from pretrain.common.atomic import part_folder
from pretrain.common.errors import UserError, refuse
from pretrain.data.images import SUFFIXES, ImageList, walk_images
from pretrain.data.name_table import SUFFIX, NameTable
from pretrain.data.pixels import UnreadableImage

INDEX = ".clove-index"
OPEN_SHARDS = 64  # files that one process holds open
END = bytes(512)  # of zeros, at the end of a tar file


def shard_paths(folder: str | Path) -> list[Path]:
    """The tar files directly in a folder, by name."""
    return sorted(path for path in Path(folder).iterdir() if path.name.endswith(".tar") and path.name[0] != ".")


class ShardList(ImageList):
    """The images of all shards of a folder, sorted by name. Safe to fork and to pickle.

    keep: folder for the index where none can be written into the shards' own. index: when it is
    there."""

    def __init__(self, folder: str | Path, keep: Path | None = None, index: NameTable | None = None) -> None:
        self.shards = shard_paths(folder)
        super().__init__(folder, index or _index(Path(folder), self.shards, keep))
        self._open: OrderedDict[int, int] = OrderedDict()  # shard -> file descriptor, the latest used last

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def size(self, number: int) -> int:
        return self.names.row(number)[2]

    def stamps(self, numbers: range, each: Callable[..., Iterable] = map) -> np.ndarray:
        """As of files: the sizes of the images, the times of their shards."""
        rows = self.names.rows(numbers)
        times = [super(ShardList, self)._stamp(path.name)[1] for path in self.shards]
        return np.stack([rows[:, 2], np.array(times, np.int64)[rows[:, 0]]], axis=1)

    def read(self, number: int) -> bytes:
        """The file of image `number`; `UserError` when its shard is gone, cannot be read or has
        become shorter."""
        shard, offset, size = self.names.row(number)
        data = b""
        with _reading(self.shards[shard]):
            while len(data) < size:  # one call reads at most 2 GB
                # No position: a fork may share the descriptor.
                more = os.pread(self._descriptor(shard), size - len(data), offset + len(data))
                if not more:
                    raise tarfile.ReadError(f"it ends inside {self[number]}")
                data += more
        return data

    def _descriptor(self, shard: int) -> int:
        if shard not in self._open:
            self._open[shard] = os.open(self.shards[shard], os.O_RDONLY)
            if len(self._open) > OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(shard)
        return self._open[shard]


@contextlib.contextmanager
def _reading(shard: Path) -> Iterator[None]:
    """Raise `UserError` when the block cannot read the shard, or finds that it is damaged."""
    try:
        yield
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"shard {shard} cannot be read: expected a whole tar file, found: {error}; copy or pack it "
                        "again") from None


def _index(folder: Path, shards: list[Path], keep: Path | None) -> NameTable:
    """Names of all images in the shards, sorted, each with its place: shard, offset and size in
    bytes."""
    described = []
    for path in shards:
        with _reading(path):
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):  # opening a FIFO would wait for a writer
                raise tarfile.ReadError("no regular file")
        described.append([path.name, found.st_size, found.st_mtime_ns])
    signature = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    for place in (folder, keep or folder):
        for path in place.glob(f"{INDEX}-*{SUFFIX}"):
            with contextlib.suppress(OSError, ValueError):
                index = NameTable.open(path)
                if index.note == signature:
                    return index
    runs = [_read_shard(number, path) for number, path in enumerate(shards)]
    rows = np.empty((sum(map(len, runs)), 3), np.int64)
    if not len(rows):  # somebody's other tar files: nothing is written beside them
        return NameTable((), rows, signature)
    with contextlib.suppress(OSError):  # read-only or full
        return _kept(folder, runs, shards, rows, signature)
    if keep is not None:
        return _kept(keep, runs, shards, rows, signature)
    return NameTable(_merged(runs, shards, rows), rows, signature)


def _kept(folder: Path, runs: list[NameTable], shards: list[Path], rows: np.ndarray, signature: str) -> NameTable:
    """Write the index into a folder, in the place of one of shards that are no more."""
    index = NameTable.write(folder, INDEX, _merged(runs, shards, rows), rows, signature)
    for path in folder.glob(f"{INDEX}-*{SUFFIX}"):
        if path != index.path:
            path.unlink()
    return index


def _read_shard(number: int, path: Path) -> NameTable:
    """The images in a tar file that is whole up to its end mark, sorted by name, each with its
    place."""
    members = []
    with _reading(path), open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            hidden = os.path.basename(member.name).startswith(".")
            if member.isreg() and member.name.lower().endswith(SUFFIXES) and not hidden:
                name = unquote(member.name.removeprefix("./"), errors="surrogateescape")
                members.append((name, number, member.offset_data, member.size))
        file.seek(tar.offset)
        if file.read(len(END)) != END:  # tarfile takes a header that it cannot read for the end
            raise tarfile.ReadError(f"no end mark after its last readable member (byte {tar.offset})")
    members.sort()
    places = np.array([place for _, *place in members], np.int64).reshape(-1, 3)
    return NameTable([name for name, *_ in members], places)


def _merged(runs: list[NameTable], shards: list[Path], rows: np.ndarray) -> Iterator[str]:
    """The names of all runs, sorted; their places go into `rows`, (N, 3)."""
    before = None
    for name, *_ in _sorted_members(runs):
        if name == before:  # numbered from zero in each shard: told apart by its name
            runs = [run.renamed(f"{path.name}/") for run, path in zip(runs, shards, strict=True)]
            break
        before = name
    for at, (name, run, number) in enumerate(_sorted_members(runs)):
        rows[at] = run.row(number)
        yield name


def _sorted_members(runs: list[NameTable]) -> Iterator[tuple[str, NameTable, int]]:
    """(name, its run, its number there), sorted by name."""
    runs = sorted((run for run in runs if len(run)), key=lambda run: run[0])
    streams = [zip(run, itertools.repeat(place), itertools.count()) for place, run in enumerate(runs)]
    members = heapq.merge(*streams)
    if all(first[-1] < second[0] for first, second in itertools.pairwise(runs)):
        # Shards of our own packing follow each other; a merge would hold a block of each at once.
        members = itertools.chain(*streams)
    for name, place, number in members:
        yield name, runs[place], number


def pack(folder: str | Path, output: str | Path, shard_mb: float = 500.0) -> tuple[int, int]:
    """Copy the images below `folder`, as they are, into shards of at most `shard_mb` million bytes
    (or one image).

    The same folder gives the same bytes. `output` appears when all is written, or not at all.
    Returns the numbers of images and of shards. Raises `UserError`.
    """
    output = Path(os.path.abspath(output))
    refuse(
        (not shard_mb > 0, f"--shard-mb must be above 0, found {shard_mb:g}"),  # nor NaN
        (os.path.ismount(output),
         f"{output} is a mount, which nothing can take the place of: name a new folder in it"),
        (output.exists() and (not output.is_dir() or any(output.iterdir())),
         f"{output} exists: expected a new or empty folder; choose another one"))
    images = ImageList(folder, walk_images(folder))
    refuse((not images, f"{folder}: expected images that end in {' '.join(SUFFIXES)}, found none and "
                        f"{len(shard_paths(folder))} .tar shards; name another folder"))
    output.parent.mkdir(parents=True, exist_ok=True)
    with part_folder(output) as beside:
        shards = _write_shards(images, beside, shard_mb * 1e6)
        refuse((ShardList(beside).names.sha256 != images.names.sha256,  # this also writes the index
                f"the names in the shards are not those of {folder}: report this as a bug"))
        os.replace(beside, output)
    return len(images), len(shards)


def _write_shards(images: ImageList, folder: Path, limit: float) -> list[Path]:
    shards, keys = [], set[str]()
    interval = 0.5 if sys.stderr.isatty() else 15
    with tqdm(total=len(images), desc="pack", unit="image", mininterval=interval) as bar:
        for numbers in _split(images, limit):
            shards.append(folder / f"images-{len(shards):06d}.tar")
            with open(shards[-1], "wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                    for number in numbers:
                        _add_image(tar, images, number, keys)
                        bar.update()
                file.flush()
                os.fsync(file.fileno())
    return shards


def _add_image(tar: tarfile.TarFile, images: ImageList, number: int, keys: set[str]) -> None:
    try:
        content = images.read(number)
    except UnreadableImage as error:
        raise UserError(f"{images.folder / images[number]} {error}: bring it back or take it out of the images, "
                        "then start again") from None
    member = tarfile.TarInfo(_member_name(images[number], keys))  # no owner, time 0: the same bytes
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))


def _split(images: ImageList, limit: float) -> Iterator[list[int]]:
    """Runs of images whose files, with all that tar adds, stay below `limit` bytes."""
    numbers, total = [], float(tarfile.RECORDSIZE)  # the end mark
    for number, name in enumerate(images):
        # Its header, a second one for a long name, and the last block filled up.
        size = images.size(number) + 4 * tarfile.BLOCKSIZE + len(os.fsencode(name))
        if numbers and total + size > limit:
            yield numbers
            numbers, total = [], float(tarfile.RECORDSIZE)
        numbers.append(number)
        total += size
    yield numbers


def _member_name(name: str, keys: set[str]) -> str:
    """The name in the shard: dots and percent signs before the suffix encoded, then as many last
    characters as it takes to make the key (all before the first dot of the file's name) a new
    one."""
    folder, file = os.path.split(name)
    stem, suffix = os.path.splitext(file)
    folder, stem = folder.replace("%", "%25"), stem.replace("%", "%25").replace(".", "%2E")
    plain = len(stem)
    while os.path.join(folder, stem) in keys and plain:
        plain -= 1
        encoded = "".join(f"%{byte:02X}" for byte in os.fsencode(stem[plain]))
        stem = stem[:plain] + encoded + stem[plain + 1:]
    key = os.path.join(folder, stem)
    refuse((key in keys, f"too many images have the name of {name} but for the suffix: WebDataset would take them for "
                         "one sample; rename one of them"))
    keys.add(key)
    return key + suffix


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="clove shards", description="Pack images into tar shards.")
    command = parser.add_subparsers(dest="command", required=True).add_parser("pack", help="folder of images -> shards")
    command.add_argument("folder", type=Path, help="images, nested or flat")
    command.add_argument("output", type=Path, help="new folder for the shards")
    command.add_argument("--shard-mb", type=float, default=500.0, help="million bytes in one shard (default 500)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    args = build_parser().parse_args(arguments)
    images, shards = pack(args.folder, args.output, args.shard_mb)
    print(f"{images} images in {shards} shards: {args.output}")
    return 0
