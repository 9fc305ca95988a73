"""Folders of images of any kind, and files that cannot be read: pixels, or one reason why not."""

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pretrain.common.errors import UserError
from pretrain.data.batches import list_images
from pretrain.data.images import ImageList, UnreadableImage

GRADIENT = np.linspace(0, 255, 40 * 30).astype(np.uint8).reshape(30, 40)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_list_images__nested_mixed_and_hidden(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/deep/er/x.png", "a/y.webp", "c.jpeg", "notes.txt", ".hidden.jpg", ".git/z.png",
          "a/.cache/w.png", "archive.zip", "jpg")
    assert list(list_images(tmp_path)) == ["a/deep/er/x.png", "a/y.webp", "b.JPG", "c.jpeg"]


def test_list_images__follows_links_to_folders(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "x.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    assert list(list_images(tmp_path / "data")) == ["link/x.png"]


def test_list_images__links_that_lead_round_in_circles_are_followed_once(tmp_path: Path) -> None:
    """Up to the folder itself, and two folders that link to each other; a second way to a folder is no circle."""
    touch(tmp_path / "data", "x.png", "a/y.png", "b/z.png")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "other").symlink_to(tmp_path / "data" / "b")
    (tmp_path / "data" / "b" / "other").symlink_to(tmp_path / "data" / "a")
    assert list(list_images(tmp_path / "data")) == ["a/other/z.png", "a/y.png", "b/other/y.png", "b/z.png", "x.png"]


def test_list_images__missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none does not exist: expected a folder of images, nested or flat"):
        list_images(tmp_path / "none")


def test_list_images__empty_folder(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "sub/.x.png")
    text = r": expected images that end in \.jpg .* found 0 images \(\) and 0 \.tar files; name"
    with pytest.raises(UserError, match=text):
        list_images(tmp_path)


def test_image_list__is_a_sequence_of_names(tmp_path: Path) -> None:
    names = ["b/1.jpg", "a.jpg"]  # as given: an annotation file's order
    listed = ImageList(tmp_path, names)
    assert list(listed) == names and listed[-1] == "a.jpg" and listed[0:9] == names and len(listed) == 2
    assert listed.index("a.jpg") == 1 and "b/1.jpg" in listed and "x" not in listed
    assert list(pickle.loads(pickle.dumps(listed))) == names


def test_list_images__sorted_by_the_whole_path(tmp_path: Path) -> None:
    """A folder's images stand where its path with a slash would."""
    names = ["a-b/1.png", "a.png", "a/1.png", "a/b.png", "a/b/0.png", "a/b0.png", "a0.png", "ü.png", "\udcff.png"]
    touch(tmp_path, *names)
    assert list(list_images(tmp_path)) == sorted(names)


def test_read__what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    listed = list_images(tmp_path)
    for number in range(2):
        with pytest.raises(UnreadableImage, match="^cannot be read: not a regular file$"):
            listed.read(number)


def test_label__by_folder_and_by_prefix(tmp_path: Path) -> None:
    listed = ImageList(tmp_path, ["dog/x__1.jpg", "cat/deep/er/y__1.jpg", "dog/y__2.jpg"])
    assert listed.classes == () and listed.label(0) is None
    listed.label_by("folder")
    assert listed.classes == ("cat", "dog") and [listed.label(number) for number in range(3)] == [1, 0, 1]
    listed.label_by("prefix")
    assert listed.classes == ("x", "y") and [listed.label(number) for number in range(3)] == [0, 1, 1]


def test_list_images__a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, make_photos: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_photos(tmp_path, 3)
    (folder / "closed").mkdir()
    scandir = os.scandir

    def refused(place: str) -> object:
        if str(place).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"^the folder .*closed cannot be listed \(Permission denied\): fix its"):
        list_images(folder)
