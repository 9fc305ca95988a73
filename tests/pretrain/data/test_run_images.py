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

from pretrain import agreement, distributed
from pretrain.common.errors import UserError
from pretrain.data import run_images, stamps
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
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        found[0].names.path.name, stamps.place(found[0], tmp_path / "out").name}
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
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".names", ".stamps"}  # the first process's
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_run_images__the_same_names_and_other_sizes_are_told(make_photos: Callable, tmp_path: Path, tiny: Callable,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [make_photos(tmp_path / name, 4) for name in "ab"]
    with open(folders[1] / "02.png", "ab") as file:
        file.write(b"x")
    starts = [lambda process, folder=folder: run_images.run_images(tiny(), folder, tmp_path / "out", process)
              for folder in folders]
    host = socket.gethostname()
    text = (f"the processes have different images: the 4 files in {folders[0]} (process 0 on {host}) have the names of "
            f"those in {folders[1]} (process 1 on {host}) and other sizes: expected the same files everywhere, copy "
            "--data again or name one folder")
    found = together(starts, monkeypatch)
    assert [str(error) for error in found] == [text, text] and all(isinstance(error, UserError) for error in found)


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
    """Also those that change no number: with other steps between checkpoints a process would wait for ever."""
    changes = [{}, {}, {"seed": 1, "checkpoint_every": 7}, {"workers": 3}, {"seed": 1, "log_every": 2}]
    starts = [lambda process, more=more: run_images.run_images(tiny(**more), photos, tmp_path / "out", process)
              for more in changes]
    host = socket.gethostname()
    for error in together(starts, monkeypatch):
        assert str(error) == (f"processes 0 on {host} and 2 on {host}, 4 on {host} were started with different options "
                              "(seed 0 and 1, checkpoint_every 2 and 7): expected the same command everywhere")
    assert not (tmp_path / "out").exists()  # told before the images are listed


def test_run_images__other_code_is_told(photos: Path, tmp_path: Path, tiny: Callable,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = threading.local()
    monkeypatch.setattr(agreement, "code_sha256", lambda _: str(ranks.own))

    def start(process: Process) -> None:
        ranks.own = process.rank // 2
        run_images.run_images(tiny(), photos, tmp_path / "out", process)

    host = socket.gethostname()
    for error in together([start] * 4, monkeypatch):
        assert str(error) == (f"processes 0 on {host} and 2 on {host}, 3 on {host} run different code: expected one "
                              "version everywhere, install or check out the same one on all machines")


def test_check_agreement__names_what_differs_after_the_start(make_photos: Callable, tmp_path: Path, tiny: Callable,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    images = [list_images(make_photos(tmp_path / str(count), count)) for count in (2, 2, 3)]
    starts = [lambda process, own=own: run_images.check_agreement(tiny(), own) for own in images]
    assert together(starts[:2], monkeypatch) == [None, None]
    host = socket.gethostname()
    for error in together(starts, monkeypatch):
        assert str(error) == (f"processes 0 on {host} and 2 on {host} have different images: expected the same names "
                              "and sizes everywhere, copy --data again or name one folder")


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


def two_processes(words: list[list[str]], environment: dict[str, str], prelude: str = "") -> str:
    """The command line in two processes with their own words; both must end with 2 and in one equal line, which is
    returned."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    code = (f"{prelude}\nfrom pretrain.__main__ import main\nfrom pretrain.common.errors import run_cli\nrun_cli(main)")
    children = []
    for rank, own in enumerate(words):
        group = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port}
        children.append(subprocess.Popen([sys.executable, "-P", "-c", code, *own], env=environment | group,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    try:
        said = [child.communicate(timeout=300)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    lines = [[line for line in text.splitlines() if line.startswith("error: ")] for text in said]
    assert [child.returncode for child in children] == [2, 2], said
    assert len(lines[0]) == 1 and lines[0] == lines[1] and "Traceback" not in "".join(said)
    return lines[0][0]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "text"), [
    ("fewer", "the processes have different images: process 0 on"),
    ("sizes", "and other sizes: expected the same files everywhere, copy --data again or name one folder"),
    ("options", r"were started with different options (log_every 1 and 3): expected the same command everywhere")])
def test_command_line__processes_that_differ_end_in_one_line(
    change: str, text: str, make_photos: Callable, tmp_path: Path, environment: dict[str, str], tiny_words: Callable
) -> None:
    """One path that leads each process to a folder of its own, as a disk of each machine does."""
    folders = [make_photos(tmp_path / "0", 12), make_photos(tmp_path / "1", 9 if change == "fewer" else 12)]
    if change == "sizes":
        with open(folders[1] / "02.png", "ab") as file:
            file.write(b"x")
    words = [["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), *tiny_words(**more)]
             for more in ({}, {"log_every": 3} if change == "options" else {})]
    prelude = ("import os, pathlib, tempfile\nlink = tempfile.mkdtemp() + '/data'\n"
               f"os.symlink('{tmp_path}/' + os.environ['RANK'], link)\n"
               f"import sys\nsys.argv = [link if word == '{tmp_path / 'data'}' else word for word in sys.argv]")
    assert text in two_processes(words, environment, prelude)


@pytest.mark.slow
def test_command_line__processes_that_differ_at_a_checkpoint_end_in_one_line(
    photos: Path, tmp_path: Path, environment: dict[str, str], tiny_words: Callable
) -> None:
    words = ["--data", str(photos), "--output", str(tmp_path / "out"), *tiny_words()]
    prelude = """
import os, pretrain.agreement, pretrain.trainer
step = pretrain.trainer.Trainer.step
def changing(self, number, batches):
    if os.environ["RANK"] == "1":
        pretrain.agreement.code_sha256 = lambda _: "another"
    return step(self, number, batches)
pretrain.trainer.Trainer.step = changing
"""
    assert "1 on " in (line := two_processes([words, words], environment, prelude)) and "run different code" in line
    assert not (tmp_path / "out" / "checkpoints").exists()
