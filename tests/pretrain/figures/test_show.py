"""`clove show` from the command line: pictures, notes, and one line for each mistake."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pretrain.figures.cell_figure
import pretrain.figures.show
from pretrain.__main__ import main
from pretrain.common.errors import UserError, run_cli
from pretrain.distributed import Process
from pretrain.figures.show import find_cell, find_image
from pretrain.train import train
from tests.pretrain.conftest import FIGURES

Show = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def finished(photos: Path, tiny: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of two steps; not to be changed."""
    output = tmp_path_factory.mktemp("finished")
    state = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        for name in FIGURES:
            patch.setattr("pretrain.train." + name, lambda *_: None)
        train(tiny(epochs=1, seed=5), photos, output, Process(0, 1, torch.device("cpu")))
    torch.set_rng_state(state)
    yield output
    for path in output.rglob("step_*.pt"):
        path.unlink()


@pytest.fixture
def show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Show:
    """show(*words): the command line with these words, in an empty current folder."""

    def run(*words: object) -> subprocess.CompletedProcess:
        (tmp_path / "here").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "here")
        monkeypatch.setattr("sys.argv", ["pretrain", "show", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            run_cli(main)
        return subprocess.CompletedProcess(words, left.value.code, *capfd.readouterr())

    return run


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list:
    """(scene, report, note) of each picture, which is not drawn."""
    kept: list = []
    monkeypatch.setattr(pretrain.figures.cell_figure, "draw_show", lambda *what: kept.append(what[:3]))
    return kept


def identity_options(tiny_words: Callable, **changes: object) -> list[str]:
    """TINY without the runtime options, which `show` does not take."""
    words, kept = tiny_words(**changes), []
    runtime = ("--workers", "--log-every", "--checkpoint-every", "--probe-images", "--device")
    for at, word in enumerate(words):
        if word not in runtime and (not at or words[at - 1] not in runtime):
            kept.append(word)
    return kept


def test_show__picture_of_a_random_network(show: Show, photos: Path, tiny_words: Callable, tmp_path: Path) -> None:
    done = show("--data", photos, "--output", "made/a.png", *identity_options(tiny_words))
    assert (done.returncode, done.stdout, done.stderr) == (0, "made/a.png\n", "")
    picture = Image.open(tmp_path / "here" / "made" / "a.png")
    assert picture.width == 1200 and np.asarray(picture.convert("L")).std() > 20


def test_show__run_brings_its_values_and_its_network(show: Show, photos: Path, finished: Path, drawn: list) -> None:
    assert show("--data", photos, "--run", finished, "--image", "3").returncode == 0
    scene, report, note = drawn[0]
    assert scene.config.train.seed == 5 and scene.config.train.architecture == "resnet18" and scene.index == 3
    assert note == f"network of {finished.name} after step 2"
    record = json.loads((finished / "run.json").read_text())
    words = [word for key, value in (record["train"] | record["clove"]).items()
             for word in (f"--{key.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value]))]
    assert show("--data", photos, "--image", "3", *words).returncode == 0
    same, before, note = drawn[1]
    assert all(torch.equal(a.box, b.box) for a, b in zip(scene.views, same.views, strict=True))
    assert "random initial network" in note and not torch.allclose(report.cosine, before.cosine, atol=1e-3)


def test_show__words_win_over_the_run(show: Show, photos: Path, finished: Path, drawn: list) -> None:
    done = show("--data", photos, "--run", finished, "--t-pos", "0.3", "--seed", "7", "--epoch", "2", "--cell", "1,0",
                "--pair", "l1,G2")
    assert done.returncode == 0, done.stderr
    scene, report, _ = drawn[0]
    assert (scene.config.objective.t_pos, scene.config.train.seed, scene.epoch, scene.pair) == (0.3, 7, 2, (2, 1))
    assert report.cell == 2


def test_show__cell_of_a_grid_of_three(show: Show, photos: Path, finished: Path, drawn: list) -> None:
    assert show("--data", photos, "--run", finished, "--cell", "2,1").returncode == 0
    assert drawn[0][1].cell == 7


def test_show__no_overlap_is_said_and_drawn(show: Show, photos: Path, finished: Path, tmp_path: Path) -> None:
    done = show("--data", photos, "--run", finished, "--t-pos", "1e-6")
    assert done.returncode == 0
    assert "no overlap: global 1 and global 2 have no positive cells; try another --pair" in done.stdout
    assert (tmp_path / "here" / "views.png").is_file()


def test_show__curves(show: Show, finished: Path, tmp_path: Path) -> None:
    done = show("--run", finished, "--curves")
    assert (done.returncode, done.stdout) == (0, "curves.png\n")
    assert Image.open(tmp_path / "here" / "curves.png").width == 1200


def test_show__leaves_a_running_run_alone(show: Show, photos: Path, finished: Path, drawn: list) -> None:
    """What looks like a half-written checkpoint may be one that is being written."""
    part = finished / "checkpoints" / ".step_00000004.abcd.part.pt"
    part.write_bytes(b"half")
    before = sorted(path.name for path in finished.rglob("*"))
    assert show("--data", photos, "--run", finished).returncode == 0
    assert sorted(path.name for path in finished.rglob("*")) == before
    part.unlink()


MISTAKES = {
    "no data": ([], "show needs --data DIR, a folder of images (or --run OUTPUT --curves)"),
    "no such folder": (["--data", "nowhere"], "image folder nowhere does not exist"),
    "name": (["--data", "PHOTOS", "--image", "03.pgn"], "--image 03.pgn: expected the path of an image, a name"),
    "number": (["--data", "PHOTOS", "--image", "9"], "a number from 0 to 8, found 0 images of this name; for"),
    "cell": (["--data", "PHOTOS", "--run", "RUN", "--cell", "3,0"],
             "--cell: expected ROW,COL as in 1,0 of global 1 with 3 x 3 cells, rows 0 to 2 and columns 0 to 2"),
    "cell of local view": (["--data", "PHOTOS", "--run", "RUN", "--cell", "0,2", "--pair", "L1,G1"],
                           "of local 1 with 2 x 2 cells, rows 0 to 1 and columns 0 to 1, found '0,2'"),
    "pair": (["--data", "PHOTOS", "--run", "RUN", "--pair", "G1,L1"],
             "--pair: expected a student view (G1 to L1) and another, global, teacher view (G1 to G2)"),
    "same view": (["--data", "PHOTOS", "--run", "RUN", "--pair", "G1,G1"], "--pair: expected a student view"),
    "epoch": (["--data", "PHOTOS", "--epoch", "-1"], "--epoch: expected a whole number from 0, found '-1'"),
    "one global view": (["--data", "PHOTOS", "--global-views", "1"], "global_views must be at least 2, found 1"),
    "type": (["--data", "PHOTOS", "--t-pos", "near"], "t_pos on the command line: expected a number, found 'near'"),
    "recipe": (["--data", "PHOTOS", "--recipe", "dmeo"], "--recipe dmeo: expected a YAML file or one of"),
    "both": (["--data", "PHOTOS", "--recipe", "demo", "--run", "RUN"], "expected --recipe or --run, found both"),
    "run": (["--data", "PHOTOS", "--run", "nowhere"], "run folder nowhere does not exist"),
    "no run": (["--data", "PHOTOS", "--run", "PHOTOS"], "run.json is missing or damaged: expected the --output of"),
    "other network": (["--data", "PHOTOS", "--run", "RUN", "--projector-dim", "32"], "is of another network"),
    "curves of nothing": (["--curves"], "--curves needs --run OUTPUT"),
    "curves of no run": (["--curves", "--run", "PHOTOS"], "no metrics.jsonl in"),
    "suffix": (["--data", "PHOTOS", "--output", "a.jpg"], "--output must be a file that ends in .png, found a.jpg"),
    "folder": (["--data", "PHOTOS", "--output", "."], "--output must be a file that ends in .png, found ."),
}


@pytest.mark.parametrize("words, expected", MISTAKES.values(), ids=MISTAKES.keys())
def test_show__mistakes_end_in_one_line(show: Show, photos: Path, finished: Path, tmp_path: Path, words: list[str],
                                        expected: str) -> None:
    done = show(*[{"PHOTOS": photos, "RUN": finished}.get(word, word) for word in words])
    assert done.returncode == 2 and expected in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not list((tmp_path / "here").iterdir())


def test_show__run_without_a_whole_checkpoint(show: Show, photos: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((finished / "run.json").read_bytes())
    done = show("--data", photos, "--run", tmp_path)
    assert done.returncode == 2 and "no whole checkpoint in" in done.stderr
    (tmp_path / "run.json").write_text('{"objective": "clove", "train": [1]}')
    done = show("--data", photos, "--run", tmp_path)
    assert done.returncode == 2 and "run.json: expected the values of a run of this version, found it" in done.stderr
    (tmp_path / "run.json").write_text('{"objective": "clove", "train": {"seed": 0}, "clove": {"margin": 100}}')
    done = show("--data", photos, "--run", tmp_path)
    assert done.returncode == 2 and "unknown key 'margin' in " in done.stderr
    (tmp_path / "run.json").write_text('{"numbers": {"seed": 0}}')
    done = show("--data", photos, "--run", tmp_path)
    assert done.returncode == 2 and "run.json: expected the values of a run of this version, found it" in done.stderr


def test_show__image_that_cannot_be_read(show: Show, make_photos: Callable, tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "photos", 3)
    (folder / "01.png").write_bytes(b"no")
    done = show("--data", folder, "--image", "01", "--architecture", "resnet18")
    assert done.returncode == 2 and "01.png: cannot be decoded" in done.stderr
    assert done.stderr.endswith("choose another --image\n")


NAMES = ["0.jpg", "cat/1.jpg", "cat/2.jpg", "dog/2.jpg", "7"]


@pytest.mark.parametrize("wanted, number", [("cat/2.jpg", 2), ("1.jpg", 1), ("1", 1), ("3", 3), ("7", 4), ("0", 0)])
def test_find_image__path_then_name_then_number(wanted: str, number: int) -> None:
    assert find_image(wanted, NAMES) == number


def test_find_image__name_of_two() -> None:
    with pytest.raises(UserError, match=r"--image 2.jpg: .* 2 images of this name; for example cat/2.jpg or dog/2.jpg"):
        find_image("2.jpg", NAMES)


@pytest.mark.parametrize("wanted", ["-1", "5"])
def test_find_image__number_out_of_range(wanted: str) -> None:
    with pytest.raises(UserError, match="or a number from 0 to 4, found 0 images of this name"):
        find_image(wanted, NAMES)


@pytest.mark.parametrize("wanted", ["3", "a,b", "1,2,3", "1.5,2", ""])
def test_find_cell__two_whole_numbers(wanted: str) -> None:
    with pytest.raises(UserError, match="--cell: expected ROW,COL as in 1,0 of global 1"):
        find_cell(wanted, (7, 7), "global 1")


@pytest.mark.parametrize("wanted", ["-1,0", "0,-1", "4,0", "0,6"])
def test_find_cell__outside(wanted: str) -> None:
    with pytest.raises(UserError, match=r"4 x 6 cells, rows 0 to 3 and columns 0 to 5, found"):
        find_cell(wanted, (4, 6), "local 1")
    assert find_cell("3,5", (4, 6), "local 1") == 23


def test_command_line__both_forms_have_their_help(environment: dict[str, str]) -> None:
    helps = [subprocess.run([sys.executable, "-P", "-m", "pretrain", *words, "--help"], env=environment, text=True,
                            capture_output=True, check=True).stdout for words in ([], ["show"])]
    assert "usage: clove pretrain --data DIR --output DIR" in helps[0] and "clove show --help" in helps[0]
    assert "usage: clove show --data DIR" in helps[1] and "--run OUTPUT --curves" in helps[1]
    assert "--knn-images" in helps[0] and "--knn-images" not in helps[1] and "--t-pos" in helps[1]
