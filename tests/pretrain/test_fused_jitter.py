"""The compiled jitter against OpenCV's on the same parameters. Needs numba; `.ci/run` installs it at its end."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pretrain import augment
from pretrain.augment import CONTRAST, HUE, ORDERS, SATURATION, Colour

pytest.importorskip("numba", reason="numba is not installed (pip install numba)")
from pretrain import fused_jitter


def opencv(view: np.ndarray, colour: Colour) -> np.ndarray:
    pixels = np.ascontiguousarray(view.transpose(1, 2, 0))
    augment.jitter(pixels, colour)
    return pixels.transpose(2, 0, 1)


def compiled(view: np.ndarray, colour: Colour) -> np.ndarray:
    target = np.empty_like(view)
    fused_jitter.jitter(view, colour, target)
    return target


def every_colour(step: int) -> np.ndarray:
    """(3, H, W): all colours with levels 0, step, 2 step, ..., 255."""
    levels = np.unique([*range(0, 256, step), 255]).astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels, indexing="ij")).reshape(3, len(levels), -1)


@pytest.mark.parametrize("colour", [
    Colour((), grey=True),
    *(Colour((SATURATION,), saturation=factor) for factor in (0.8, 0.913, 1.0, 1.2)),
    *(Colour((CONTRAST,), contrast=factor) for factor in (0.6, 1.0, 1.37)),
    *(Colour((0,), brightness=factor) for factor in (0.6, 0.813, 1.0, 1.4)),
], ids=str)
def test_jitter__equals_opencv_but_for_the_hue(colour: Colour) -> None:
    view = every_colour(3)
    assert np.array_equal(compiled(view, colour), opencv(view, colour))


@pytest.mark.parametrize("hue", [-0.5, -0.1, -0.031, 0.0, 0.004, 0.07, 0.5])
def test_jitter__a_hue_of_every_colour_differs_by_single_levels(hue: float) -> None:
    view, colour = every_colour(1 if hue == 0.07 else 3), Colour((HUE,), hue=hue)
    distance = np.abs(compiled(view, colour).astype(np.int16) - opencv(view, colour))
    assert distance.max() <= 1 and (distance > 0).any(0).mean() < 2e-5


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_jitter__in_every_order_and_in_place(order: tuple[int, ...]) -> None:
    view = np.random.default_rng(order).integers(0, 256, (3, 61, 83), dtype=np.uint8)
    colour = Colour(order, 0.71, 1.3, 0.85, -0.07, grey=order[0] == HUE)
    expected, result = opencv(view, colour), compiled(view, colour)
    distance = np.abs(result.astype(np.int16) - expected)
    assert distance.max() <= 2 and (distance > 0).mean() < 1e-3
    fused_jitter.jitter(view, colour, view)
    assert np.array_equal(view, result)


def test_apply__blur_and_solarize_follow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    view = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    colour = Colour((CONTRAST, SATURATION), 1.0, 1.2, 0.9, sigma=1.1, solarize=True)
    assert augment.jitter_kernel() == "numba"
    ours = augment.apply(view, colour)
    monkeypatch.setattr(augment, "fused_jitter", lambda: None)
    assert augment.jitter_kernel() == "OpenCV"
    assert np.array_equal(ours, augment.apply(view, colour)) and ours.flags.c_contiguous


def test_run__one_that_goes_on_without_numba_says_so(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    make_photos(tmp_path / "photos", 8)
    words = ["--recipe", "demo", "--data", str(tmp_path / "photos"), "--output", str(tmp_path / "out"),
             "--architecture", "resnet18", "--batch-size", "4", "--global-size", "32", "--local-size", "32",
             "--local-views", "2", "--epochs", "2", "--workers", "0", "--probe-every", "0", "--checkpoint-every", "1"]
    hidden = "import sys; sys.modules['numba'] = None; from pretrain.__main__ import main; sys.exit(main())"
    run = {"capture_output": True, "text": True, "cwd": Path(__file__).parents[2]}
    first = subprocess.run([sys.executable, "-m", "pretrain", *words], **run)
    assert first.returncode == 0, first.stderr
    for path in (tmp_path / "out" / "done.json", *(tmp_path / "out" / "checkpoints").glob("step_00000004.*")):
        path.unlink()
    second = subprocess.run([sys.executable, "-c", hidden, *words], **run)
    assert second.returncode == 0, second.stderr
    assert "colour jitter by OpenCV instead of numba: single levels differ" in second.stdout + second.stderr
