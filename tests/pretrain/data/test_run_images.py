"""One list of images for a run: made once a machine, the same for all processes, or one line that says who differs."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain import distributed
from pretrain.common.errors import UserError
from pretrain.data import run_images
from pretrain.data.batches import list_images
from pretrain.data.images import ImageList
from pretrain.data.shards import pack
from pretrain.distributed import Process

CPU = torch.device("cpu")


def together(starts: list[Callable[[Process], Any]], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each process's function returns or raises; the processes are threads here."""
    world = len(starts)
    barrier, told, results = threading.Barrier(world), [None] * world, [None] * world
    ranks = threading.local()

    def gather(value: object) -> list:
        told[ranks.own] = value
        barrier.wait()
        everyone = list(told)
        barrier.wait()
        return everyone

    def start(rank: int) -> None:
        ranks.own = rank
        try:
            results[rank] = starts[rank](Process(rank, world, CPU))
        except Exception as error:
            results[rank] = error
            if not isinstance(error, UserError):
                barrier.abort()

    monkeypatch.setattr(distributed, "gather", gather)
    threads = [threading.Thread(target=start, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_run_images__one_process_lists_and_the_others_read_its_list(
    photos: Path, tmp_path: Path, tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    monkeypatch.setattr(run_images, "list_images", lambda *places, **more: listed.append(places) or
                        list_images(*places, **more))
    (tmp_path / "link").symlink_to(photos)  # another way to the same folder
    starts = [lambda process, folder=folder: run_images.run_images(tiny(), folder, tmp_path / "out", process)
              for folder in (photos, photos, tmp_path / "link")]
    found = together(starts, monkeypatch)
    assert [list(images) for images in found] == [list(list_images(photos))] * 3 and len(listed) == 1
    assert len({images.names.path for images in found}) == 1
    assert [images.folder for images in found] == [photos, photos, tmp_path / "link"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [found[0].names.path.name]
    assert all(images.read(3) == (photos / images[3]).read_bytes() for images in found)


def test_run_images__machines_with_copies_of_their_own(make_photos: Callable, tmp_path: Path, tiny: Callable,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []
    for machine in "ab":
        folder = make_photos(tmp_path / machine / "photos", 4)
        starts.append(lambda process, folder=folder, machine=machine: run_images.run_images(
            tiny(), folder, tmp_path / machine / "out", process))
    found = together(starts, monkeypatch)
    assert [images.names.path.parent.parent.name for images in found] == ["a", "b"]
    assert found[0].sha256 == found[1].sha256


def test_run_images__other_images_are_told_on_every_process(make_photos: Callable, tmp_path: Path, tiny: Callable,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [make_photos(tmp_path / "a", 4), make_photos(tmp_path / "b", 5)]
    starts = [lambda process, folder=folder: run_images.run_images(tiny(), folder, tmp_path / "out", process)
              for folder in folders]
    found = together(starts, monkeypatch)
    host = socket.gethostname()
    text = (f"the processes have different images: process 0 on {host} 4 in {folders[0]}, process 1 on {host} 5 in "
            f"{folders[1]}: expected the same names everywhere, copy --data again or name one folder")
    assert [str(error) for error in found] == [text, text] and all(isinstance(error, UserError) for error in found)
    assert len(list((tmp_path / "out").iterdir())) == 1  # the first process's


def test_run_images__what_one_process_cannot_do_is_told_on_all(photos: Path, tmp_path: Path, tiny: Callable,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    starts = [lambda process, folder=folder: run_images.run_images(tiny(), folder, tmp_path / "out", process)
              for folder in (photos, gone)]
    first, second = together(starts, monkeypatch)
    assert str(second) == f"image folder {gone} does not exist: expected a folder of images, nested or flat"
    assert str(first) == f"process 1 on {socket.gethostname()}: {second}"


def test_run_images__other_options_are_told(photos: Path, tmp_path: Path, tiny: Callable,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    starts = [lambda process, seed=seed: run_images.run_images(tiny(seed=seed), photos, tmp_path / "out", process)
              for seed in (0, 1)]
    for error in together(starts, monkeypatch):
        assert "processes 0 on" in str(error) and "were started with different options" in str(error)


@pytest.mark.parametrize("packed", [False, True])
def test_run_images__labels_are_counted_once(make_photos: Callable, tmp_path: Path, tiny: Callable, packed: bool,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("bee", "ant"):
        make_photos(tmp_path / "photos" / label, 2)
    folder = tmp_path / "photos"
    if packed:
        pack(folder, tmp_path / "packed")
        folder = tmp_path / "packed"

    def found() -> ImageList:
        return run_images.run_images(tiny(labels="folder"), folder, tmp_path / "out", Process(0, 1, CPU))

    images = found()
    assert images.classes == ("ant", "bee") and [images.label(number) for number in range(4)] == [0, 0, 1, 1]
    kept, = (tmp_path / "out").glob("classes-folder-*.json")
    assert json.loads(kept.read_text()) == {"ant": 2, "bee": 2}
    monkeypatch.setattr(run_images, "count_classes", None)  # a call would fail
    assert found().classes == ("ant", "bee")


def test_run_images__an_output_that_a_link_in_the_images_leads_to(make_photos: Callable, tiny: Callable, tmp_path: Path
                                                                  ) -> None:
    make_photos(tmp_path / "elsewhere" / "deep", 2)
    make_photos(tmp_path / "photos", 2)
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "elsewhere")
    for place in ("elsewhere/out", "elsewhere/deep/out"):
        with pytest.raises(UserError, match=r"out lies inside --data .*photos, where the run's own figures"):
            run_images.run_images(tiny(), tmp_path / "photos", tmp_path / place, Process(0, 1, CPU))
    assert len(run_images.run_images(tiny(), tmp_path / "photos", tmp_path / "other", Process(0, 1, CPU))) == 4


@pytest.mark.slow
def test_command_line__processes_with_different_images_end_in_one_line(
    make_photos: Callable, tmp_path: Path, environment: dict[str, str], tiny_words: Callable
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    folders = [make_photos(tmp_path / "a", 24), make_photos(tmp_path / "b", 17)]
    children = []
    for rank, folder in enumerate(folders):
        group = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port}
        words = ["--data", str(folder), "--output", str(tmp_path / "out"), *tiny_words()]
        children.append(subprocess.Popen([sys.executable, "-P", "-m", "pretrain", *words], env=environment | group,
                                         stderr=subprocess.PIPE, text=True))
    for child in children:
        _, said = child.communicate(timeout=300)
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert child.returncode == 2 and len(lines) == 1 and "Traceback" not in said
        assert "the processes have different images: process 0 on" in lines[0]
