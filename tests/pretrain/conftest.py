"""Small photographs, and ways to run the pretraining on them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pretrain.train
from pretrain.__main__ import main
from pretrain.common.errors import run_cli
from pretrain.config import Config, load_config

ROOT = Path(__file__).resolve().parent.parent.parent
# A network and views that take a few hundredths of a second a step, on one core.
TINY: dict[str, Any] = {
    "architecture": "resnet18", "last_stage_stride": 1, "projector_hidden": 32, "projector_dim": 16, "heads": 2,
    "global_size": 48, "local_size": 32, "local_views": 1, "global_scale": "0.4 1.0", "local_scale": "0.2 0.4",
    "batch_size": 4, "epochs": 3, "warmup_epochs": 1, "base_lr": 16.0, "precision": "fp32", "k": 5,
    "workers": 0, "log_every": 1, "checkpoint_every": 2, "probe_images": 4, "device": "cpu",
}


AT_STEP = """
import os, signal, pretrain.trainer
original_step = pretrain.trainer.Trainer.step
def step(self, number, batches):
    if number == {}:
        {}
    return original_step(self, number, batches)
pretrain.trainer.Trainer.step = step
"""
FIGURES = ("draw_curves", "draw_views", "draw_run")  # they take longer than a tiny training
NO_FIGURES = f"""
import pretrain.train
for name in {FIGURES}:
    setattr(pretrain.train, name, lambda *_: None)
"""


@pytest.fixture(autouse=True)
def _no_checkpoints_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """pytest keeps the temporary folders of some sessions; a checkpoint here has 130 MB."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    for path in folder.rglob("step_*.pt") if folder else ():
        path.unlink()


def textured(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise at three scales: structure at every place, no two places alike."""
    picture = np.zeros((height, width, 3))
    for cells in (3, 9, 27):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        picture += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) / 3
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def write_photos(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        textured(rng, *((80, 60), (60, 72))[number % 2]).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def make_photos() -> Callable[..., Path]:
    """make_photos(folder, count, seed=0): PNG files 00.png, 01.png, ...; returns the folder."""
    return write_photos


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine photographs; not to be changed. With TINY: 3 epochs of 2 steps."""
    return write_photos(tmp_path_factory.mktemp("photos"), 9)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Config]:
    """tiny(**changes): the smallest useful configuration."""
    return lambda **changes: load_config(None, TINY | changes)


@pytest.fixture(scope="session")
def tiny_values() -> dict[str, Any]:
    """The values behind `tiny`, by key."""
    return dict(TINY)


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """What a child process needs to find the sources, with one thread."""
    drop = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in drop}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in this process end without them."""
    for name in FIGURES:
        monkeypatch.setattr(pretrain.train, name, lambda *_: None)


@pytest.fixture(scope="session")
def run_pretrain(
    environment: dict[str, str], tiny_words: Callable[..., list[str]]
) -> Callable[..., subprocess.CompletedProcess]:
    """run_pretrain(photos, output, prelude=NO_FIGURES, at_step=None, **changes): the command line in a child process of
    its own group.

    `prelude`: statements run before the command line takes over, to make something go wrong at a known place.
    `at_step`: (number, statement), run when that step begins; it knows `os` and `signal`.
    """

    def run(photos: Path, output: Path, prelude: str = NO_FIGURES, at_step: tuple[int, str] | None = None,
            **changes: Any) -> subprocess.CompletedProcess:
        words = ["--data", str(photos), "--output", str(output), *tiny_words(**changes)]
        if at_step:
            prelude += AT_STEP.format(*at_step)
        start = ["-m", "pretrain"]
        if prelude:
            start = ["-c", f"{prelude}\nfrom pretrain.__main__ import main\n"
                           "from pretrain.common.errors import run_cli\n"
                           "run_cli(main)\n"]
        return subprocess.run([sys.executable, "-P", *start, *words], env=environment, capture_output=True, text=True,
                              timeout=600, start_new_session=True, check=False)

    return run


@pytest.fixture(scope="session")
def tiny_words() -> Callable[..., list[str]]:
    """tiny_words(**changes): TINY as words of the command line."""
    return lambda **changes: [word for key, value in (TINY | changes).items()
                              for word in (f"--{key.replace('_', '-')}", *str(value).split())]


@pytest.fixture
def cli(
    tiny_words: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    no_figures: None
) -> Callable[..., subprocess.CompletedProcess]:
    """cli(photos, output, **changes): as `run_pretrain`, but in this process: quick, and open to monkeypatching."""

    def run(photos: Path, output: Path, **changes: Any) -> subprocess.CompletedProcess:
        words = ["pretrain", "--data", str(photos), "--output", str(output), *tiny_words(**changes)]
        monkeypatch.setattr("sys.argv", words)
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            run_cli(main)
        sys.stdout.flush()
        return subprocess.CompletedProcess(words, left.value.code, *capfd.readouterr())

    return run
