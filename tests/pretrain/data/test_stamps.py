"""Files that changed under their names are noticed when a run resumes; a copy is told from a change."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.common.errors import UserError
from pretrain.data import stamps
from pretrain.data.batches import list_images
from pretrain.data.images import ImageList
from pretrain.data.shards import pack


def touch(path: Path, later: int = 5) -> None:
    seen = path.stat()
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + later))


@pytest.fixture
def folder(make_photos: Callable, tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", 4)


@pytest.fixture
def output(folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    stamps.record_or_compare(list_images(folder), tmp_path / "out", resumes=False)
    return tmp_path / "out"


def changed(images: ImageList, output: Path) -> str:
    with pytest.raises(UserError) as error:
        stamps.record_or_compare(images, output, resumes=True)
    return str(error.value)


def test_resume__nothing_has_changed(folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = list_images(folder)
    record, = output.glob("images-*.stamps")
    before = (record.read_bytes(), record.stat().st_ino)
    monkeypatch.setattr(stamps, "BLOCK", 3)
    assert stamps.record_or_compare(images, output, resumes=True) == stamps.sizes_sha256(images)
    assert (record.read_bytes(), record.stat().st_ino) == before


def test_resume__another_size_or_time_is_one_line_with_a_way_to_go_on(folder: Path, output: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "BLOCK", 3)
    touch(folder / "03.png")
    with open(folder / "02.png", "ab") as file:
        file.write(b"x")
    images = list_images(folder)
    record, = output.glob("images-*.stamps")
    assert changed(images, output) == (
        f"2 of 4 images have changed since the run in {output} began (another size: 1, another modification time: 1), "
        f"the first is 02.png: bring the old ones back, choose another --output, or remove {record} to go on with the "
        "images as they are now")
    assert changed(images, output)  # and again
    record.unlink()
    stamps.record_or_compare(images, output, resumes=True)
    stamps.record_or_compare(images, output, resumes=True)


def test_resume__a_copy_is_said_and_gone_on_with(folder: Path, output: Path, capsys: pytest.CaptureFixture) -> None:
    for path in folder.iterdir():
        touch(path)
    for said in (1, 0):
        stamps.record_or_compare(list_images(folder), output, resumes=True)
        text = f"all 4 images have other modification times than when the run in {output} began, and the same sizes"
        assert capsys.readouterr().out.count(text) == said
    touch(folder / "01.png")
    assert "another size: 0, another modification time: 1), the first is 01.png" in changed(list_images(folder), output)


def test_resume__a_run_that_took_no_step_begins_anew(folder: Path, output: Path) -> None:
    touch(folder / "01.png")
    stamps.record_or_compare(list_images(folder), output, resumes=False)
    stamps.record_or_compare(list_images(folder), output, resumes=True)


def test_stamps__of_shards_are_the_sizes_of_their_images(folder: Path, tmp_path: Path, output: Path) -> None:
    pack(folder, tmp_path / "shards", shard_mb=0.03)
    images = list_images(tmp_path / "shards")
    shards = sorted((tmp_path / "shards").glob("*.tar"))
    assert len(shards) > 1
    assert stamps.sizes_sha256(images) == stamps.sizes_sha256(list_images(folder))
    found = images.stamps(range(1, 4))
    assert [size for size, _ in found.tolist()] == [images.size(number) for number in (1, 2, 3)]
    stamps.record_or_compare(images, output, resumes=False)
    touch(shards[-1])
    assert "another modification time: " in changed(list_images(tmp_path / "shards"), output)


def test_stamps__a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("nowhere.png")
    assert ImageList(tmp_path, ["a.png"]).stamps(range(1)).tolist() == [[-1, -1]]
