"""WebDataset tar shards: packing a folder of images into them, and reading any image of them by its number.

  python -m pretrain.shards pack PHOTOS SHARDS                then:  python -m pretrain --data SHARDS ...

A shard is a plain tar file. The headers are read once and kept as an index (.clove-index.npz in the folder, or only in
memory where nothing may be written), so that reading is random access: order, views and resume of a run are exactly
those of the folder that was packed. WebDataset takes what stands before the first dot of a file's name for its key:
where names of the folder would clash there, single characters are percent-encoded in the shard and decoded when read.
"""

import argparse
import contextlib
import json
import os
import secrets
import shutil
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from tqdm import tqdm

from pretrain.atomic import atomic_path
from pretrain.errors import UserError, run_cli
from pretrain.images import SUFFIXES, ImageList, find_images

INDEX = ".clove-index.npz"
OPEN_SHARDS = 64  # files that one process holds open
END = bytes(512)  # of zeros, at the end of a tar file


def shard_paths(folder: str | Path) -> list[Path]:
    """The tar files directly in a folder, by name."""
    return sorted(path for path in Path(folder).iterdir() if path.name.endswith(".tar") and path.name[0] != ".")


class ShardList(ImageList):
    """The images of all shards of a folder, sorted by name. Safe to fork and to pickle."""

    def __init__(self, folder: str | Path, shards: list[Path]) -> None:
        try:
            stats = [path.stat() for path in shards]
        except OSError as error:
            raise UserError(f"shard {error.filename} cannot be read: {error.strerror}") from None
        signature = json.dumps([[path.name, stat.st_size, stat.st_mtime_ns]
                                for path, stat in zip(shards, stats, strict=True)])
        index = _load_index(Path(folder) / INDEX, signature)
        if index is None:
            index = _read_headers(shards)
            if not len(index["ends"]):
                raise UserError(f"no images in the shards of {folder}: expected members that end in "
                                f"{' '.join(SUFFIXES)}, found none in {len(shards)} .tar files")
            _save_index(Path(folder) / INDEX, signature, index)
        self.folder, self.shards = Path(folder), shards
        self._text, self._ends = index["text"], np.concatenate([[0], index["ends"]])
        self._places = index["places"]  # (N, 3): shard, offset and size in bytes
        self._open: OrderedDict[int, int] = OrderedDict()  # shard -> file descriptor, the latest used last

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def size(self, number: int) -> int:
        """Bytes of the file of image `number`."""
        return int(self._places[number, 2])

    def read(self, number: int) -> bytes:
        """The file of image `number`; `UserError` when its shard is gone, cannot be read or has become shorter."""
        shard, offset, size = self._places[number].tolist()
        try:
            data = os.pread(self._descriptor(shard), size, offset)  # no position: a fork may share the descriptor
            while 0 < len(data) < size and (more := os.pread(self._descriptor(shard), size - len(data),
                                                             offset + len(data))):
                data += more
        except OSError as error:
            raise UserError(f"shard {self.shards[shard]} cannot be read: {error.strerror}") from None
        if len(data) < size:
            raise _damaged(self.shards[shard], f"ends inside {self[number]}")
        return data

    def _descriptor(self, shard: int) -> int:
        if shard not in self._open:
            self._open[shard] = os.open(self.shards[shard], os.O_RDONLY)
            if len(self._open) > OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(shard)
        return self._open[shard]


def _damaged(shard: Path, why: str) -> UserError:
    return UserError(f"shard {shard} is damaged: expected a whole tar file, found that it {why}; copy or pack it again")


def _read_headers(shards: list[Path]) -> dict[str, np.ndarray]:
    """Names (text and where each ends) and places of all images in the shards, sorted by name."""
    found: list[tuple[str, int, int, int]] = []
    for number, path in enumerate(shards):
        found += [(name, number, offset, size) for name, offset, size in _members(path)]
    if len({name for name, *_ in found}) < len(found):  # numbered from zero in each shard
        found = [(f"{shards[shard].name}/{name}", shard, offset, size) for name, shard, offset, size in found]
    found.sort()
    encoded = [name.encode("utf-8", "surrogateescape") for name, *_ in found]
    return {"text": np.frombuffer(b"".join(encoded), np.uint8),
            "ends": np.cumsum([len(name) for name in encoded], dtype=np.int64),
            "places": np.array([place for _, *place in found], dtype=np.int64).reshape(-1, 3)}


def _members(path: Path) -> list[tuple[str, int, int]]:
    """Name, offset and size of each image in a tar file that is whole up to its end mark."""
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = [(_original_name(member.name), member.offset_data, member.size)
                       for member in tar if member.isreg() and _is_image(member.name)]
            # tarfile takes a header that it cannot read for the end.
            file.seek(tar.offset)
            if file.read(len(END)) != END:
                raise _damaged(path, f"has no end mark after its last readable member (byte {tar.offset})")
    except tarfile.TarError as error:
        raise _damaged(path, f"cannot be read ({error})") from None
    except OSError as error:
        raise UserError(f"shard {path} cannot be read: {error.strerror or error}") from None
    return members


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not os.path.basename(name).startswith(".")


def _load_index(path: Path, signature: str) -> dict[str, np.ndarray] | None:
    """None when there is no index, or one of other shards."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            if str(saved["signature"]) == signature:
                return {name: saved[name] for name in ("text", "ends", "places")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    return None


def _save_index(path: Path, signature: str, index: dict[str, np.ndarray]) -> None:
    with contextlib.suppress(OSError), atomic_path(path) as sibling:  # read-only, full: then only in memory
        np.savez(sibling, signature=np.array(signature), **index)


def pack(folder: str | Path, output: str | Path, shard_mb: float = 500.0) -> tuple[int, int]:
    """Copy the images below `folder`, as they are, into shards of at most `shard_mb` million bytes (or one image).

    The same folder gives the same bytes. `output` appears when all is written, or not at all; a kill leaves a hidden
    folder beside it, .NAME.*.part, which may be deleted. Returns the numbers of images and of shards.
    """
    output = Path(os.path.abspath(output))
    if not shard_mb > 0:  # nor NaN
        raise UserError(f"--shard-mb must be above 0, found {shard_mb:g}")
    if os.path.ismount(output):
        raise UserError(f"{output} is a mount, which nothing can take the place of: name a new folder in it")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists: expected a new or empty folder, choose another one")
    images = ImageList(folder, find_images(folder))
    if not images:
        held = "shards already" if shard_paths(folder) else "none"
        raise UserError(f"expected a folder of images that end in {' '.join(SUFFIXES)}: {folder} holds {held}")
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(f".{output.name}.{secrets.token_hex(4)}.part")
    try:
        beside.mkdir()
        shards = _write_shards(images, beside, shard_mb * 1e6)
        if list(ShardList(beside, shards)) != list(images):
            raise UserError(f"the names in the shards are not those of {folder}: did it change meanwhile? Start again")
        os.replace(beside, output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return len(images), len(shards)


def _write_shards(images: ImageList, folder: Path, limit: float) -> list[Path]:
    shards, keys = [], set[str]()
    bar = tqdm(total=len(images), desc="pack", unit="image", mininterval=0.5 if sys.stderr.isatty() else 15)
    try:
        for names in _split(images, limit):
            shards.append(folder / f"images-{len(shards):06d}.tar")
            with open(shards[-1], "wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                    for name in names:
                        with open(images.folder / name, "rb") as image:
                            member = tarfile.TarInfo(_member_name(name, keys))  # no owner, time 0: the same bytes
                            member.size, member.mode = os.fstat(image.fileno()).st_size, 0o644
                            tar.addfile(member, image)
                        bar.update()
                file.flush()
                os.fsync(file.fileno())
    except FileNotFoundError as error:
        if os.path.islink(error.filename):
            raise UserError(f"{error.filename} is a link to {os.readlink(error.filename)}, which is not there: bring "
                            "its target back or remove it") from None
        raise UserError(f"{error.filename} is gone: the folder changed while it was packed; start again") from None
    finally:
        bar.close()
    return shards


def _split(images: ImageList, limit: float) -> Iterator[list[str]]:
    """Runs of names whose files, with all that tar adds, stay below `limit` bytes."""
    names, total = [], float(tarfile.RECORDSIZE)  # the end mark
    for name in images:
        # Its header, a second one for a long name, and the last block filled up.
        size = (images.folder / name).stat().st_size + 4 * tarfile.BLOCKSIZE + len(os.fsencode(name))
        if names and total + size > limit:
            yield names
            names, total = [], float(tarfile.RECORDSIZE)
        names.append(name)
        total += size
    yield names


def _member_name(name: str, keys: set[str]) -> str:
    """The name in the shard: dots and percent signs before the suffix encoded, then as many last characters as it
    takes to make the key (all before the first dot of the file's name) a new one."""
    folder, file = os.path.split(name)
    stem, suffix = os.path.splitext(file)
    folder, stem = folder.replace("%", "%25"), stem.replace("%", "%25").replace(".", "%2E")
    plain = len(stem)
    while (key := os.path.join(folder, stem)) in keys and plain:
        plain -= 1
        stem = stem[:plain] + "".join(f"%{byte:02X}" for byte in os.fsencode(stem[plain])) + stem[plain + 1:]
    if key in keys:
        raise UserError(f"too many images are called {os.path.join(folder, os.path.splitext(file)[0])} with different "
                        f"suffixes, {file} is the last: WebDataset would take them for one sample; rename one of them")
    keys.add(key)
    return key + suffix


def _original_name(member_name: str) -> str:
    return unquote(member_name.removeprefix("./"), errors="surrogateescape")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pretrain.shards", description="Pack images into tar shards.")
    command = parser.add_subparsers(dest="command", required=True).add_parser("pack", help="folder of images -> shards")
    command.add_argument("folder", type=Path, help="images, nested or flat")
    command.add_argument("output", type=Path, help="new folder for the shards")
    command.add_argument("--shard-mb", type=float, default=500.0, help="million bytes in one shard (default 500)")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    images, shards = pack(args.folder, args.output, args.shard_mb)
    print(f"{images} images in {shards} shards: {args.output}")
    return 0


if __name__ == "__main__":
    run_cli(main)
