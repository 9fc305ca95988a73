"""Does it learn? The demo's pretraining, smaller, beside the same one with its matches taken away."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
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
