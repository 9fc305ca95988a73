"""Does it learn? The demo's pretraining, smaller, beside the same one with its matches taken away."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pretrain.loss
import pretrain.train
from benchmarks.demo.photos import photo
from pretrain.config import load_config
from pretrain.distributed import Process

# A ResNet-18 and 144 steps: about a minute on one core.
CONFIG = load_config("demo", {"architecture": "resnet18", "epochs": 12, "teacher_momentum": 0.87,
                              "checkpoint_every": 1000, "probe_every": 0})


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
    """Pretrains in a folder of that name: matched-location retrieval at the start and at the end, each of the backbone
    and of contextualized cells against the teacher's."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(192):
        photo(np.random.default_rng([0, index]), index).save(folder / f"{index:03d}.png")

    def pretrained(name: str) -> tuple[np.ndarray, np.ndarray]:
        pretrain.train.train(CONFIG, folder, tmp_path / name, Process(0, 1, torch.device("cpu")))
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        start, end = (np.array([line["retrieval_backbone"], line["retrieval_contextualized"]]) for line in lines
                      if "retrieval_backbone" in line)
        return start, end

    return pretrained


@pytest.mark.slow
def test_pretraining__raises_matched_location_retrieval_only_with_the_right_matches(
    run: Callable[[str], tuple[np.ndarray, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, end = run("right")
    true_match = pretrain.loss.match

    def cells_at_random(*arguments: object) -> Tensor:
        positives = true_match(*arguments)  # as many, but anywhere in the teacher's view
        return positives[..., torch.randperm(positives.shape[-1])]

    monkeypatch.setattr(pretrain.loss, "match", cells_at_random)
    same_start, shuffled = run("shuffled")
    print(f"backbone, contextualized: {start} -> {end}; with random matches -> {shuffled}")
    assert (same_start == start).all()
    assert end[0] > start[0] + 0.02 and end[1] > start[1] + 0.04
    assert (end > shuffled + 0.03).all()


def stripes(kind: int, random: np.random.Generator) -> Image.Image:
    """64 x 64 pixels of noise with horizontal stripes, vertical ones, rings or nothing: a mirror image stays of its
    kind."""
    y, x = np.mgrid[:64, :64]
    along = (y, x, np.hypot(x - 32, y - 32), np.zeros((64, 64)))[kind]
    wave = 60 * np.sin(along * random.uniform(0.5, 0.7) + random.uniform(0, 6))
    pixels = 128 + wave[..., None] + random.normal(0, 20, (64, 64, 3)) + random.uniform(-30, 30, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.slow
def test_supervised__classifies_views_only_with_the_right_labels(tmp_path: Path) -> None:
    config = load_config("mini_supervised", {
        "labels": "folder", "architecture": "resnet18", "batch_size": 16, "epochs": 8, "base_lr": 32, "global_size": 48,
        "local_size": 32, "local_views": 2, "trust": 0.001, "warmup_epochs": 0.5, "workers": 0,
        "probe_every": 0, "checkpoint_every": 1000, "log_every": 1})
    random = np.random.default_rng(0)
    accuracy = {}
    for name in ("right", "shuffled"):
        for index in range(96):
            folder = index % 4 if name == "right" else random.integers(4)
            (tmp_path / name / str(folder)).mkdir(parents=True, exist_ok=True)
            stripes(index % 4, np.random.default_rng([0, index])).save(tmp_path / name / str(folder) / f"{index}.png")
        pretrain.train.train(config, tmp_path / name, tmp_path / f"{name}_run", Process(0, 1, torch.device("cpu")))
        lines = [json.loads(line) for line in (tmp_path / f"{name}_run" / "metrics.jsonl").read_text().splitlines()]
        accuracy[name] = np.mean([line["accuracy"] for line in lines if "accuracy" in line][-12:])
    print(f"share of views with the right class, last quarter: {accuracy}")
    assert accuracy["right"] > 0.6 and accuracy["shuffled"] < 0.45
