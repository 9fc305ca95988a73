"""Names in a file or in memory: the same ones, whole or not at all, and none in the memory of a loader process."""

import hashlib
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from pretrain.data.name_table import BLOCK, NameTable

AWKWARD = ["", "a b.jpg", "line\nbreak.jpg", "ü/日本.png", "\udcff.jpg", "x" * 5000]


def names(count: int) -> list[str]:
    return [AWKWARD[number % len(AWKWARD)] + str(number) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 1000])
@pytest.mark.parametrize("where", ["memory", "file"])
def test_table__is_the_sequence_that_it_was_made_of(tmp_path: Path, count: int, where: str) -> None:
    expected = names(count)
    table = NameTable(expected) if where == "memory" else NameTable.write(tmp_path, "x", iter(expected))
    assert len(table) == count and list(table) == expected == [table[number] for number in range(count)]
    assert table[5:90:7] == expected[5:90:7] and list(pickle.loads(pickle.dumps(table))) == expected
    joined = "".join(name + "\0" for name in expected).encode("utf-8", "surrogateescape")
    assert table.sha256 == hashlib.sha256(joined).hexdigest()
    with pytest.raises(IndexError):
        table[count]
    if count:
        assert table[-1] == expected[-1]


def test_rows__belong_to_the_names(tmp_path: Path) -> None:
    rows = np.arange(300).reshape(100, 3) * 10**12
    for table in (NameTable(names(100), rows), NameTable.write(tmp_path, "x", names(100), rows, "a note")):
        assert table.has_rows and [table.row(number) for number in range(100)] == rows.tolist()
        again = table.renamed("before/")
        assert list(again) == ["before/" + name for name in names(100)] and again.row(99) == rows[99].tolist()
    assert table.note == "a note" and not NameTable(names(3)).has_rows


def test_write__is_named_after_its_content_and_leaves_one_that_is_there(tmp_path: Path) -> None:
    one, other = NameTable.write(tmp_path, "x", names(100)), NameTable.write(tmp_path, "x", names(101))
    assert one.path.name == f"x-{one.sha256[:16]}.names" and one.path != other.path
    before = one.path.stat().st_ino
    assert NameTable.write(tmp_path, "x", names(100)).path.stat().st_ino == before
    one.path.write_bytes(b"damaged")
    assert len(NameTable.write(tmp_path, "x", names(100))) == 100
    assert len(list(tmp_path.iterdir())) == 2

    def broken() -> object:
        yield "a"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        NameTable.write(tmp_path, "x", broken())
    assert len(list(tmp_path.iterdir())) == 2


def test_open__a_file_that_is_not_whole(tmp_path: Path) -> None:
    whole = NameTable.write(tmp_path, "x", names(100)).path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-1], whole + b"x", whole[:-24] + whole[-8:]):
        (tmp_path / "y.names").write_bytes(damaged)
        with pytest.raises(ValueError):
            NameTable.open(tmp_path / "y.names")
    with pytest.raises(FileNotFoundError):
        NameTable.open(tmp_path / "z.names")


def test_file__a_pickle_holds_the_path_alone_and_a_fork_reads_the_same_file(tmp_path: Path) -> None:
    table = NameTable.write(tmp_path, "x", names(10_000))
    assert len(pickle.dumps(table)) < 500
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(table.__getitem__, range(0, 10_000, 97)) == names(10_000)[::97]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(table.__getitem__, [4321]) == [names(10_000)[4321]]


def test_file__is_closed_with_its_table(tmp_path: Path) -> None:
    table = NameTable.write(tmp_path, "x", names(10))
    opened = len(os.listdir("/proc/self/fd"))
    copies = [pickle.loads(pickle.dumps(table)) for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) >= opened + 20
    del copies
    assert len(os.listdir("/proc/self/fd")) == opened
