"""The GPU benchmark where there is no GPU, and what it would measure."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.speed import gpu


def test_main__without_a_gpu_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no GPU") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_main__writes_a_file_named_after_the_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One row for each batch, mode and source; what does not fit is said and does not end the rest."""

    def measure(config: object, source: object, warmup: int, steps: int) -> dict:
        if config.train.batch_size == 64:
            raise torch.cuda.OutOfMemoryError
        return {"images_per_second": 10.0, "loader_wait": 0.0, "peak_gb": 1.0}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB")
    monkeypatch.setattr(gpu, "hardware", lambda: {"cpu": "x"})
    monkeypatch.setattr(gpu, "measure", measure)
    monkeypatch.setattr(gpu, "made_batch", lambda _: SimpleNamespace(pin_memory=lambda: None))
    assert gpu.main(["--batches", "32", "64", "--modes", "fp32", "bf16", "--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "NVIDIA_H100_80GB.json").read_text())["rows"]
    assert [(row["batch"], row["mode"], row["source"]) for row in rows] == [
        (32, "fp32", "synthetic"), (32, "bf16", "synthetic"), (64, "fp32", "synthetic"), (64, "bf16", "synthetic")]
    assert rows[0]["images_per_second"] == 10.0 and rows[2]["failed"] == "out of memory"


def test_configuration__modes_differ_in_precision_and_compilation() -> None:
    made = {mode: gpu.configuration(32, mode, 4, "cpu") for mode in gpu.MODES}
    assert [(made[mode].train.precision, made[mode].runtime.compile) for mode in made] == [
        ("fp32", False), ("bf16", False), ("bf16", True)]
    assert made["fp32"].train.batch_size == 32 and made["fp32"].train.architecture == "resnet50"
