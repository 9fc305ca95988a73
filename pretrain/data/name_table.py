"""Many names without a Python object each, in memory or in a file that all processes read.

The file: the names in UTF-8, each ended by a NUL; where each 64th begins (int64); rows of whole
numbers that belong to the names, where there are some (int64); a footer of JSON, its length, and
eight bytes that say what it is. One name costs one read of a few kilobytes. These are read in
place, from the page cache that the processes of a machine share: mapped pages would count as
memory of each process, more with every image that it reads.
"""

import hashlib
import io
import itertools
import json
import os
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pretrain.common.atomic import part_file

BLOCK = 64  # names
MAGIC = b"CLOVE-N1"
SUFFIX = ".names"


class NameTable(Sequence[str]):
    """Names by number. Safe to fork; a pickled one opens its file again."""

    def __init__(self, names: Iterable[str] = (), rows: np.ndarray | None = None, note: str = "") -> None:
        """A table in memory. rows: (N, K) int64, one for each name; `note`: what a reader may
        compare."""
        file = io.BytesIO()
        _write(file, names, rows, note)
        self.__setstate__(file.getvalue())

    @classmethod
    def open(cls, path: Path) -> "NameTable":
        """The table in a file. Raises `ValueError` when there is no whole one, `OSError` when it
        cannot be read."""
        table = cls.__new__(cls)
        table.__setstate__(path)
        return table

    @classmethod
    def write(cls, folder: Path, stem: str, names: Iterable[str], rows: np.ndarray | None = None,
              note: str = "") -> "NameTable":
        """Write FOLDER/STEM-HASH.names, whole or not at all, and open it. `names` may be a
        generator: what is held is a few bytes for each block."""
        with part_file(folder, stem) as part:
            with open(part, "wb") as file:
                digest = _write(file, names, rows, note)
                file.flush()
                os.fsync(file.fileno())
            path = folder / f"{stem}-{digest[:16]}{SUFFIX}"
            if not _is_same(path, part):  # else another machine's process may be reading it
                os.replace(part, path)
        return cls.open(path)

    def _read_footer(self, size: int) -> None:
        end = self.bytes_at(max(size - 16, 0), 16)
        length = int.from_bytes(end[:8], "little")
        if end[8:] != MAGIC or length > size - 16:
            raise ValueError("no whole table of names")
        self.footer: dict[str, Any] = json.loads(self.bytes_at(size - 16 - length, length))
        starts = self.footer["starts"]
        if self.path is None:
            count = len(self) // BLOCK + 2
            self._starts = np.frombuffer(self._data, np.int64, count, starts)
        else:
            self._starts = np.memmap(self.path, np.int64, "r", starts, (len(self) // BLOCK + 2,))

    def __getstate__(self) -> Path | bytes:
        return self.path or self._data

    def __setstate__(self, state: Path | bytes) -> None:
        self.path: Path | None = None
        if isinstance(state, Path):
            self.path = state
            self._file = os.open(state, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
            self._read_footer(os.fstat(self._file).st_size)
        else:
            self._data = state
            self._read_footer(len(state))

    @property
    def sha256(self) -> str:
        return self.footer["sha256"]

    @property
    def note(self) -> str:
        return self.footer["note"]

    @property
    def has_rows(self) -> bool:
        return "rows" in self.footer

    def __len__(self) -> int:
        return self.footer["names"]

    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            wanted = range(*number.indices(len(self)))
            if wanted.step != 1:
                return [self[at] for at in wanted]
            first, blocks = wanted.start // BLOCK, range(wanted.start // BLOCK, -(-wanted.stop // BLOCK))
            names = [name for block in blocks for name in self._block(block)]
            return list(map(_decoded, names[wanted.start - first * BLOCK:wanted.stop - first * BLOCK]))
        at = range(len(self))[number]  # IndexError and negative numbers as for a list
        return _decoded(self._block(at // BLOCK)[at % BLOCK])

    def __iter__(self) -> Iterator[str]:
        for block in range(-(-len(self) // BLOCK)):
            yield from map(_decoded, self._block(block))

    def _block(self, number: int) -> list[bytes]:
        start, end = self._starts[number:number + 2].tolist()
        return self.bytes_at(start, end - start - 1).split(b"\0")

    def renamed(self, before: str) -> "NameTable":
        """The same table in memory with `before` put before each name."""
        rows = np.array([self.row(number) for number in range(len(self))])
        return NameTable((before + name for name in self), rows, self.note)

    def row(self, number: int) -> list[int]:
        return self.rows(range(number, number + 1))[0].tolist()

    def rows(self, numbers: range) -> np.ndarray:
        """(N, K) int64: those of consecutive names."""
        width = self.footer["row_width"]
        data = self.bytes_at(self.footer["rows"] + 8 * width * numbers.start, 8 * width * len(numbers))
        return np.frombuffer(data, np.int64).reshape(-1, width)

    def bytes_at(self, offset: int, length: int) -> bytes:
        if self.path is None:
            return self._data[offset:offset + length]
        return os.pread(self._file, length, offset)  # no position: a fork shares the descriptor


def _write(file: BinaryIO, names: Iterable[str], rows: np.ndarray | None, note: str) -> str:
    """Write a table; returns the hash of its names."""
    digest, starts, count, size = hashlib.sha256(), array("q"), 0, 0
    remaining = iter(names)
    while block := list(itertools.islice(remaining, BLOCK)):
        starts.append(size)
        text = ("\0".join(block) + "\0").encode("utf-8", "surrogateescape")
        digest.update(text)
        file.write(text)
        count, size = count + len(block), size + len(text)
    starts.extend([size] * (count // BLOCK + 2 - len(starts)))
    file.write(bytes(-size % 8))
    footer: dict[str, Any] = {"names": count, "sha256": digest.hexdigest(), "note": note, "starts": size + -size % 8}
    file.write(starts.tobytes())
    if rows is not None:
        footer |= {"rows": footer["starts"] + 8 * len(starts), "row_width": rows.shape[1]}
        file.write(np.ascontiguousarray(rows, np.int64).data)
    written = json.dumps(footer).encode()
    file.write(written + len(written).to_bytes(8, "little") + MAGIC)
    return digest.hexdigest()


def _is_same(path: Path, part: Path) -> bool:
    try:
        return NameTable.open(path).footer == NameTable.open(part).footer
    except (OSError, ValueError):
        return False


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
