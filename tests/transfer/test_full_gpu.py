"""A GPU whose memory is full: one line that names the option, in every command that computes on one."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch.multiprocessing import ProcessRaisedException

import pretrain.train
from benchmarks.speed.__main__ import main as speed
from pretrain.__main__ import run
from pretrain.common.errors import UserError, fitting_the_gpu
from pretrain.config import load_config
from transfer import __main__ as transfer
from transfer.finetuning import processes

SAID = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB"
FULL = torch.cuda.OutOfMemoryError(SAID)
DATA = ("--data", "D", "--output", "O")


def full(*_: object, **__: object) -> None:
    raise FULL


@pytest.mark.parametrize(("command", "words", "option"), [
    ("finetune", ("--task", "coco", "--weights", "random", *DATA), "--fit accumulate=N with a smaller N"),
    ("preflight", ("--task", "coco", *DATA), "--fit accumulate=N with a smaller N"),
    ("probe", ("--task", "coco", "--weights", "random", *DATA), "use a smaller --side, or --device cpu"),
    ("evaluate", ("MODEL", "--task", "coco", *DATA), "use --device cpu"),
    ("detections", ("--model", "RUN", "--photos", "P", "--output", "O"), "use --device cpu")])
def test_transfer(command: str, words: tuple, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module(f"transfer.{transfer.COMMANDS[command][0]}"), "run", full)
    with pytest.raises(UserError, match=f"^the GPU has too little memory: .*{option}.* [(]CUDA out of memory") as error:
        transfer.main([command, *words])
    assert "\n" not in str(error.value)


def test_pretraining_and_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pretrain.train, "train", full)
    with pytest.raises(UserError, match="the GPU has too little memory for 128 images at once: use a smaller --device"):
        run(load_config(None, {"device": "cpu"}), tmp_path, tmp_path / "out", lambda: 0)
    monkeypatch.setattr(import_module("benchmarks.speed.step"), "main", full)
    with pytest.raises(UserError, match="^the GPU has too little memory: measure fewer images at once [(]--batch"):
        speed(["step"])


def test_fine_tuning__of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a child raises comes as the text of its traceback."""
    def launch(*_: object, **__: object) -> None:
        raise ProcessRaisedException(f"Traceback ...\ntorch.OutOfMemoryError: {SAID}\n", 1, 4711)

    monkeypatch.setattr(processes, "launch", launch)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="^CUDA out of memory"):
        processes.start(full, 2, device="cuda")


@pytest.mark.parametrize("text", ["CUDA error: out of memory\nCompile with", "cuBLAS: CUBLAS_STATUS_ALLOC_FAILED"])
def test_fitting__what_else_torch_says_of_full_memory(text: str) -> None:
    with pytest.raises(UserError, match="^the GPU has too little memory: take less "), fitting_the_gpu("take less"):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="a bug"), fitting_the_gpu("take less"):
        raise RuntimeError("a bug")
