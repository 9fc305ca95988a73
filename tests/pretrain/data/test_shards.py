"""Shards: what is packed is what was there, WebDataset agrees, and a run cannot tell shards from the folder."""

import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from pretrain.common.errors import UserError
from pretrain.data import shards
from pretrain.data.batches import Batch, list_images, make_loader
from pretrain.data.shards import ShardList, pack, shard_paths
from pretrain.distributed import Process

ALONE = Process(0, 1, torch.device("cpu"))

AWKWARD = ["a.b.c.jpg", "a.b.d.jpg", "deep/er/x.png", "deep/x y.JPG", "same.jpeg", "same.jpg", "same.png", "50%.jpg",
           "50%2E.jpg", "ü" * 70 + ".jpg", f"{'long/' * 40}x.jpg", "z/z.webp"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images with names that a shard cannot take as they are; one of them cannot be read."""
    rng = np.random.default_rng(0)
    for name in AWKWARD:
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "jpeg" if path.suffix.lower() in (".jpg", ".jpeg") else path.suffix[1:]
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path, kind)
    (tmp_path / "folder" / "damaged.jpg").write_bytes(b"not a picture")
    return tmp_path / "folder"


def indices(folder: Path) -> list[Path]:
    """The kept indices of shards in a folder."""
    return sorted(folder.glob(".*.names"))


def test_pack__names_order_and_bytes_are_the_folders(folder: Path, tmp_path: Path) -> None:
    images, count = pack(folder, tmp_path / "out", shard_mb=0.02)
    packed, plain = list_images(tmp_path / "out"), list_images(folder)
    assert isinstance(packed, ShardList) and images == len(AWKWARD) + 1 and count == len(packed.shards) > 3
    assert list(packed) == list(plain)
    assert [packed.read(n) for n in range(len(packed))] == [plain.read(n) for n in range(len(plain))]
    assert packed.read(plain.index("damaged.jpg")) == b"not a picture"
    assert [path.name for path in shard_paths(tmp_path / "out")] == [f"images-{n:06d}.tar" for n in range(count)]
    assert max(path.stat().st_size for path in packed.shards) <= 20_000


def test_pack__same_bytes_each_time(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "one", 0.02)
    os.utime(folder / "same.jpg", (1, 1))
    (folder / "same.jpg").chmod(0o600)
    pack(folder, tmp_path / "two", 0.02)
    one, two = shard_paths(tmp_path / "one"), shard_paths(tmp_path / "two")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_pack__webdataset_reads_every_image_as_a_sample_of_its_own(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "out", 0.02)
    urls = [str(path) for path in shard_paths(tmp_path / "out")]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    plain = list_images(folder)
    assert len({sample["__key__"] for sample in samples}) == len(samples) == len(plain)
    contents = {plain[n]: plain.read(n) for n in range(len(plain))}
    for sample, name in zip(samples, plain, strict=True):
        (extension,) = (key for key in sample if not key.startswith("__"))
        assert extension == Path(name).suffix[1:].lower() and sample[extension] == contents[name]


def test_read__shards_that_webdataset_wrote(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    contents = [(folder / name).read_bytes() for name in AWKWARD if name.lower().endswith(".jpg")]
    with webdataset.ShardWriter(str(tmp_path / "out" / "w-%04d.tar"), maxcount=3, verbose=0) as writer:
        for number, content in enumerate(contents):
            writer.write({"__key__": f"{number:05d}", "jpg": content, "cls": number, "json": {"n": number}})
    images = list_images(tmp_path / "out")
    assert list(images) == [f"{number:05d}.jpg" for number in range(len(contents))]
    assert [images.read(number) for number in range(len(images))] == contents


def test_read__same_names_in_each_shard(tmp_path: Path) -> None:
    """As some writers number them: told apart by their shard."""
    for shard in ("a", "b"):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            member = tarfile.TarInfo("./000.jpg")
            member.size = 1
            tar.addfile(member, io.BytesIO(shard.encode()))
    images = list_images(tmp_path)
    assert list(images) == ["a.tar/000.jpg", "b.tar/000.jpg"] and [images.read(0), images.read(1)] == [b"a", b"b"]


def test_read__shards_whose_names_interleave(tmp_path: Path) -> None:
    for shard, names in (("a", "31"), ("b", "20"), ("c", "")):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for name in names:
                member = tarfile.TarInfo(f"{name}.jpg")
                member.size = 1
                tar.addfile(member, io.BytesIO(name.encode()))
    images = list_images(tmp_path)
    assert list(images) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert b"".join(images.read(number) for number in range(4)) == b"0123"


def equal(one: Batch, other: Batch) -> bool:
    return (one.names == other.names and torch.equal(one.sizes, other.sizes)
            and all(torch.equal(a, b) for a, b in zip(one.views + one.boxes, other.views + other.boxes, strict=True)))


def test_loader__shards_folder_and_any_number_of_workers_give_the_same_batches(
    photos: Path, tmp_path: Path, tiny: Callable
) -> None:
    pack(photos, tmp_path / "out", 0.03)
    assert len(shard_paths(tmp_path / "out")) > 1

    def batches(folder: Path, workers: int, first: int = 0) -> list[Batch]:
        return list(make_loader(list_images(folder), tiny(workers=workers), range(first, 6), ALONE))

    plain = batches(photos, 0)
    for packed in (batches(tmp_path / "out", 0), batches(tmp_path / "out", 2)):
        assert all(equal(*pair) for pair in zip(packed, plain, strict=True))
    assert all(equal(*pair) for pair in zip(batches(tmp_path / "out", 1, 4), plain[4:], strict=True))


@pytest.mark.slow
def test_train__cannot_tell_shards_from_the_folder(photos: Path, tmp_path: Path, cli: Callable) -> None:
    """Same losses, colours on the device included; and the one goes on where the other stopped."""
    pack(photos, tmp_path / "packed", 0.03)
    losses = {}
    for name, data in (("folder", photos), ("shards", tmp_path / "packed")):
        ended = cli(data, tmp_path / name, colour_on="device", workers=1)
        assert ended.returncode == 0, ended.stderr
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        losses[name] = [line["loss"] for line in lines if "loss" in line]
    assert losses["folder"] == losses["shards"] and len(losses["folder"]) == 6
    assert "is finished already" in cli(tmp_path / "packed", tmp_path / "folder", colour_on="device").stdout


def test_index__is_kept_and_read_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(folder, tmp_path / "out", 0.02)
    names = list(list_images(tmp_path / "out"))
    monkeypatch.setattr(shards, "_read_shard", None)  # a call would fail
    images = list_images(tmp_path / "out")
    assert list(images) == names and images.read(0) == (folder / names[0]).read_bytes()


def test_index__of_other_shards_or_damaged_is_made_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(folder, out, 0.02)
    index, = indices(out)
    whole = index.read_bytes()
    for damaged in (b"", whole[:100], whole[:-30], whole + b"0"):
        index.write_bytes(damaged)
        assert len(list_images(out)) == len(AWKWARD) + 1
        assert index.read_bytes() == whole and indices(out) == [index]
    shard_paths(out)[0].unlink()
    assert 0 < len(list_images(out)) < len(AWKWARD) + 1
    assert len(indices(out)) == 1 and indices(out) != [index]  # the old one is gone


def test_index__folder_that_may_not_be_written_to(folder: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    pack(folder, tmp_path / "out", 0.02)
    indices(tmp_path / "out")[0].unlink()
    write = shards.NameTable.write

    def refuse(place: Path, *others: object) -> object:
        if place == tmp_path / "out":
            raise PermissionError(13, "Permission denied")
        return write(place, *others)

    monkeypatch.setattr(shards.NameTable, "write", refuse)
    assert len(list_images(tmp_path / "out")) == len(AWKWARD) + 1
    assert indices(tmp_path / "out") == []
    (tmp_path / "run").mkdir()
    kept = list_images(tmp_path / "out", tmp_path / "run")  # then the run's folder takes it
    assert [path.name for path in (tmp_path / "run").iterdir()] == [kept.names.path.name]
    monkeypatch.setattr(shards, "_read_shard", None)
    assert list(list_images(tmp_path / "out", tmp_path / "run")) == list(kept)


def one_shard(folder: Path, out: Path) -> Path:
    pack(folder, out)
    indices(out)[0].unlink()
    (path,) = shard_paths(out)
    return path


def test_damage__a_shard_cut_off_anywhere_is_told(folder: Path, tmp_path: Path) -> None:
    path = one_shard(folder, tmp_path / "out")
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    for length in (1, 700, len(whole) // 2, last.offset, last.offset + 100, last.offset_data, last.offset_data + 1, end,
                   end + 511):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"shard {path} cannot be read: expected a whole tar .*, found: .* again"):
            list_images(path.parent)
    path.write_bytes(whole[:end + 1024])  # the end mark alone is a whole file
    assert len(list_images(path.parent)) == len(AWKWARD) + 1


def test_damage__overwritten_header_is_told(folder: Path, tmp_path: Path) -> None:
    path = one_shard(folder, tmp_path / "out")
    with tarfile.open(path) as tar:
        offsets = [member.offset for member in tar]
    for offset in (offsets[0], offsets[5]):
        damaged = bytearray(path.read_bytes())
        damaged[offset:offset + 200] = b"\xff" * 200
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"shard {path} cannot be read"):
            list_images(path.parent)


@pytest.mark.parametrize("workers", [0, 1])
def test_damage__shard_that_shrinks_under_a_run_ends_it_in_one_line(photos: Path, tmp_path: Path, tiny: Callable,
                                                                    workers: int) -> None:
    pack(photos, tmp_path / "out")
    images = list_images(tmp_path / "out")
    os.truncate(images.shards[0], 600)
    with pytest.raises(UserError, match=rf"shard {images.shards[0]} cannot be read: .* ends inside \d+\.png; copy or"):
        next(make_loader(images, tiny(workers=workers), range(6), ALONE))


def test_damage__shard_that_goes_away(folder: Path, tmp_path: Path) -> None:
    path = one_shard(folder, tmp_path / "out")
    images = list_images(path.parent)
    path.unlink()
    with pytest.raises(UserError, match=rf"shard {path} cannot be read: .*, found: .*No such file"):
        images.read(0)


def test_read__pickled_forked_and_with_few_open_files(folder: Path, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "OPEN_SHARDS", 2)
    pack(folder, tmp_path / "out", 0.01)
    images = list_images(tmp_path / "out")
    assert len(images.shards) > 5
    contents = [images.read(number) for number in range(len(images))]
    assert len(images._open) == 2
    again = pickle.loads(pickle.dumps(images))
    assert not again._open and [again.read(number) for number in range(len(again))] == contents
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(images.read, range(len(images))) == contents


def test_pack__mistakes_are_told_and_leave_nothing(folder: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    pack(folder, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    for source, output, text in (
        (folder, tmp_path / "out", r"out exists: expected a new or empty folder"),
        (tmp_path / "out", tmp_path / "two", r"out: expected images .*, found none and 1 \.tar shards; name"),
        (tmp_path / "empty", tmp_path / "two", r"empty: expected images .*, found none and 0 \.tar shards; name"),
        (tmp_path / "none", tmp_path / "two", r"image folder .*none does not exist"),
    ):
        with pytest.raises(UserError, match=text):
            pack(source, output)
    for size in (0, float("nan")):
        with pytest.raises(UserError, match=f"--shard-mb must be above 0, found {size}"):
            pack(folder, tmp_path / "two", size)
    monkeypatch.setattr(os.path, "ismount", lambda path: path.name == "empty")
    with pytest.raises(UserError, match="empty is a mount, which nothing can take the place of: name a new folder in"):
        pack(folder, tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "folder", "out"]


def test_pack__links_to_nothing_and_names_that_webdataset_cannot_tell_apart(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"x")
    pack(tmp_path / "photos", tmp_path / "two")
    (tmp_path / "photos" / "a.webp").write_bytes(b"x")
    with pytest.raises(UserError, match=r"too many images have the name of a\.webp but for the suffix: WebDataset"):
        pack(tmp_path / "photos", tmp_path / "three")
    (tmp_path / "photos" / "a.webp").unlink()
    (tmp_path / "photos" / "c.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"photos/c\.png cannot be read: No such file or directory: bring it back or"):
        pack(tmp_path / "photos", tmp_path / "three")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "two"]


def test_pack__a_fifo_is_told(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    os.mkfifo(tmp_path / "photos" / "a.jpg")
    with pytest.raises(UserError, match=r"photos/a\.jpg cannot be read: not a regular file: bring it back or take it"):
        pack(tmp_path / "photos", tmp_path / "out")


def test_list_images__a_fifo_among_the_shards_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"shard .*a\.tar cannot be read: expected a whole tar file, found: no regular"):
        list_images(tmp_path)


def test_pack__all_or_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> str:
        (folder / "z/z.webp").unlink(missing_ok=True)
        return "x.jpg"

    monkeypatch.setattr(shards, "_member_name", gone)
    with pytest.raises(UserError, match=r"z\.webp cannot be read: No such file or directory: .* start again"):
        pack(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


def test_folder__images_beside_shards_and_a_link_to_nothing(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "out")
    (tmp_path / "out" / "stray.jpg").touch()
    with pytest.raises(UserError, match=r"not both, found 1 images \(stray\.jpg\) and 1 \.tar files; name"):
        list_images(tmp_path / "out")
    (tmp_path / "out" / "stray.jpg").unlink()
    (tmp_path / "out" / "x.tar").symlink_to("nowhere.tar")
    with pytest.raises(UserError, match=r"shard .*x\.tar cannot be read: .*No such file or directory"):
        list_images(tmp_path / "out")


def test_folder__shards_without_images(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("notes.txt"), io.BytesIO())
    with pytest.raises(UserError, match=r"expected images .* found 0 images \(\) and 1 \.tar files; name another"):
        list_images(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_command_line__packs_and_says_so(photos: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    assert "torch" not in subprocess.run(
        [sys.executable, "-P", "-c", "import sys, pretrain.data.shards; print(*sys.modules)"], env=environment,
        capture_output=True, text=True, check=True).stdout.split()  # a packer need not wait for it
    words = [sys.executable, "-P", "-m", "pretrain", "shards", "pack", str(photos), str(tmp_path / "out")]
    first = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert first.stdout == f"9 images in 1 shards: {tmp_path / 'out'}\n"
    second = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 2 and second.stderr.startswith("error: ") and second.stderr.count("\n") == 1
