"""How many loader processes a run has where it does not say, and that no number depends on it."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pretrain import distributed
from pretrain.config import Config
from pretrain.data.workers import MOST, automatic, with_workers
from pretrain.distributed import Process
from pretrain.options.shared_options import Runtime
from pretrain.train import train

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(("cores", "device", "expected"), [
    (1, "cuda", 1), (2, "cuda", 1), (5, "cuda", 4), (8, "cuda", 7), (64, "cuda", MOST),
    (1, "cpu", 1), (2, "cpu", 1), (16, "cpu", 2), (256, "cpu", MOST)])
def test_automatic__all_cores_but_one_for_a_gpu_and_few_where_the_cores_train(
    cores: int, device: str, expected: int
) -> None:
    assert automatic(cores, device) == expected


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


@pytest.mark.usefixtures("sixteen")
def test_with_workers__processes_that_share_cores_have_their_parts(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(others: Callable[[tuple], list[tuple]]) -> int:
        monkeypatch.setattr(distributed, "gather", lambda own: [own, *others(own)])
        config = tiny(workers="auto")
        found = with_workers(config, Process(0, 4, GPU))
        assert found == replace(config, runtime=replace(config.runtime, workers=found.runtime.workers))
        assert found.hash() == config.hash()
        return found.runtime.workers

    assert asked(lambda own: [own, own, own]) == 3  # torchrun's: four processes on these cores
    assert asked(lambda own: [("another", own[1])] * 3) == MOST  # one of four machines
    assert asked(lambda own: [(own[0], [16, 17, 18])] * 3) == MOST  # bound to cores of their own


def test_with_workers__a_number_that_was_asked_for_stays(tiny: Callable[..., Config]) -> None:
    config = tiny(workers=3)
    assert with_workers(config, Process(0, 1, GPU)) is config and Runtime().workers == "auto"


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_train__auto_has_the_weights_of_the_training_process_alone(
    photos: Path, tiny: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    made = []
    for workers, processes in (("auto", 2), (0, 0)):
        config = tiny(workers=workers, epochs=2, probe_every=0)
        made.append(train(config, photos, tmp_path / str(workers), Process(0, 1, CPU)).read_bytes())
        assert f"fp32 on cpu x 1, loader processes for each: {processes}" in capsys.readouterr().out
    assert made[0] == made[1]
