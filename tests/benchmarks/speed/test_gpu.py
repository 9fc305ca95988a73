"""The measurement of a GPU: its cells on the CPU, small; what it does without time, memory or GPU; its page."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.speed import gpu, gpu_cells, gpu_page
from benchmarks.speed.gpu import Cell
from pretrain import kernels
from pretrain.common.errors import UserError
from tests.transfer.conftest import THIN
from transfer.settings.request import Request

CPU = torch.device("cpu")
SMALL = gpu_cells.Sizes((2, 4), 6, {
    "architecture": "resnet18", "last_stage_stride": 1, "projector_hidden": 32, "projector_dim": 16, "heads": 2,
    "global_size": 48, "local_size": 32, "local_views": 1, "k": 5, "warmup_epochs": 0, "workers": 1},
    "demo", "resnet18", THIN, learn=False)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("WARM_UP", 1), ("LEAST", 1), ("MOST", 1)):
        monkeypatch.setattr(gpu, name, number)


def cell(name: str, problem: Exception | None = None, unit: str = "images/s") -> Cell:
    @contextlib.contextmanager
    def make() -> Iterator:
        if problem:
            raise problem
        yield lambda: None

    return Cell(name, unit, 4, make)


def test_main__without_a_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="^speed gpu: expected a GPU that torch can use, found none; run it on a "):
        gpu.main([])
    with pytest.raises(UserError, match="^--minutes 0: expected a number above 0"):
        gpu.main(["--minutes", "0"])


def test_measured__rates_of_images_and_of_iterations() -> None:
    found = gpu.measured(cell("one"), CPU, 0.01)
    assert found["smallest"] <= found["rate"] <= found["largest"] and found["peak_memory_gb"] is None
    assert gpu.LEAST <= found["steps"] <= gpu.MOST


def test_measured__a_full_gpu_is_a_finding_and_a_bug_is_none() -> None:
    full = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
    assert gpu.measured(cell("one", full), CPU, 1) == {"name": "one", "unit": "images/s", "problem": "out of memory"}
    with pytest.raises(RuntimeError, match="a bug"):
        gpu.measured(cell("one", RuntimeError("a bug")), CPU, 1)


def test_measure__what_does_not_fit_into_the_minutes_is_named(capsys: pytest.CaptureFixture) -> None:
    found = {}
    gpu.measure([cell("one"), cell("two")], {"three": lambda: pytest.fail("no time")}, CPU, 1e-9, found.update)
    assert [one["problem"] for one in found["cells"]] == 2 * ["left out: no time"]
    assert found["learns"] == [{"name": "three", "problem": "left out: no time"}]
    assert capsys.readouterr().out == ("one: left out: no time\ntwo: left out: no time\n"
                                       "a short three: left out: no time\n")


def test_measure__what_was_measured_before_an_error_is_saved() -> None:
    found = {}
    with pytest.raises(RuntimeError, match="a bug"):
        gpu.measure([cell("one"), cell("two", RuntimeError("a bug"))], {}, CPU, 1, found.update)
    assert [one["name"] for one in found["cells"]] == ["one"]


def test_cells__are_twelve_and_each_says_what_it_is(tmp_path: Path) -> None:
    names = [one.name for one in gpu.cells_of(tmp_path, CPU, gpu_cells.FULL)]
    assert len(names) == len(set(names)) == 12
    assert names[0] == "pretraining, bf16, 64 images at once" and names[-1] == (
        "fine-tuning, keypoints, fp32, 4 images at once")


def test_page__all_that_was_found_and_where() -> None:
    cells = [{"name": "pretraining", "unit": "images/s", "rate": 12.0, "smallest": 11.0, "largest": 13.5, "steps": 9,
              "peak_memory_gb": 2.25}, {"name": "fine-tuning", "unit": "it/s", "problem": "out of memory"}]
    learns = [{"name": "pretraining", "what": "retrieval", "start": 10.0, "end": 20.0, "learns": True},
              {"name": "fine-tuning", "what": "loss", "start": 4.0, "end": 4.5, "learns": False}]
    described = {"gpus": ["GPU 9"], "cpu": "CPU", "cores": 4, "python": "3.12", "versions": {"torch": "2", "x": None}}
    text = gpu_page.page({"machine": described, "started": "2026-01-02T03:04:05", "minutes": 8.0, "cuda": "12.8",
                          "cells": cells, "learns": learns})
    assert text.startswith("# GPU 9, 2026-01-02\n\n`clove speed gpu --minutes 8`, measured once, on generated images")
    assert "CPU, 4 cores; Python 3.12, torch 2, CUDA 12.8." in text
    assert "| pretraining | 12 images/s | 11 to 13.5 | 9 | 2.2 GB |" in text
    assert "| fine-tuning | out of memory | | | |" in text
    assert "A short pretraining learns: retrieval 10 -> 20.\n" in text
    assert "A short fine-tuning DOES NOT LEARN: loss 4 -> 4.5.\n" in text


@pytest.mark.usefixtures("short")
def test_pretraining__on_the_cpu() -> None:
    made = Cell("p", "images/s", 2, lambda: gpu_cells.pretraining(CPU, SMALL, 2, "fp32"))
    assert gpu.measured(made, CPU, 1)["rate"] > 0


@pytest.mark.parametrize(("end", "learns"), [(3.1, True), (3.3, False)])
def test_finetuning_learns__beside_the_loss_of_the_first_step(
    end: float, learns: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finetune(request: Request) -> None:
        losses = [4.0] if "SOLVER.MAX_ITER=1" in request.overrides else [3.5, end]
        request.output.mkdir()
        lines = [json.dumps({"total_loss": loss}) for loss in losses]
        (request.output / "metrics.json").write_text("\n".join(["{}", *lines]))

    monkeypatch.setattr("transfer.finetuning.finetune.finetune", finetune)
    assert gpu_cells.finetuning_learns(CPU, tmp_path, tmp_path) == {
        "what": "loss", "start": 4.0, "end": end, "learns": learns}


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_run__every_cell_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    monkeypatch.setattr(kernels, "choose", lambda _, search=True, **__: searched.append(search))
    file, page = gpu.run(CPU, tmp_path / "speed", 60, SMALL)
    record = json.loads(file.read_text())
    assert [one["name"] for one in record["cells"]] == [one.name for one in gpu.cells_of(tmp_path, CPU, SMALL)]
    assert all(one["rate"] > 0 and one["steps"] == 1 for one in record["cells"])
    assert record["cells"][0]["name"] in page.read_text()
    assert searched == 6 * [True] + 6 * [False]  # each cell as a run of its kind
