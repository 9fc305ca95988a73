"""Processes that train together: steps that equal those of one process, whole runs that stop and go on together.

test_objectives.py has the single step, test_batch_norm.py the layer; here two processes do everything once, and the
slow tests look at it.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pretrain import distributed
from pretrain.batch_norm import SynchronisedBatchNorm
from pretrain.common.errors import UserError
from pretrain.distributed import Process

SCRIPT = Path(__file__).parent / "joined_process.py"


def launch(world: int, photos: Path, folder: Path, values: dict, environment: dict[str, str]) -> list[dict]:
    """Run the script in `world` processes; what each one saved."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(world):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        children.append(subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT), str(photos), str(folder), json.dumps(values)],
            env=environment | {name: str(value) for name, value in group.items()}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True))
    try:
        texts = [child.communicate(timeout=600)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    for child, text in zip(children, texts, strict=True):
        assert child.returncode == 0, text[-3000:]
        assert "strides do not match" not in text  # of a gradient and its bucket in DistributedDataParallel
    return [torch.load(folder / f"{rank}_of_{world}.pt", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("joined")


@pytest.fixture(scope="module")
def single(photos: Path, folder: Path, tiny_values: dict, environment: dict[str, str]) -> dict:
    return launch(1, photos, folder, tiny_values, environment)[0]


@pytest.fixture(scope="module")
def double(photos: Path, folder: Path, tiny_values: dict, environment: dict[str, str]) -> list[dict]:
    return launch(2, photos, folder, tiny_values, environment)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    """Within `tolerance` of the largest entry: float64, only the order of summation differs."""
    assert one.dtype == other.dtype == torch.float64 or one.dtype == torch.int64
    assert (one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1e-12)


@pytest.mark.slow
def test_step__two_processes_have_the_loss_and_statistics_of_one(single: dict, double: list[dict]) -> None:
    for step, expected in enumerate(single["steps"]["results"]):
        assert expected["positives_per_query"] > 0
        for one in double:
            assert one["steps"]["results"][step] == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_step__two_processes_have_the_gradients_of_one(single: dict, double: list[dict]) -> None:
    for step, grads in enumerate(single["steps"]["grads"]):
        assert len(grads) > 60
        for one in double:
            for name, value in grads.items():
                close(one["steps"]["grads"][step][name], value, 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["student", "teacher"])
def test_step__two_processes_have_the_parameters_and_buffers_of_one(single: dict, double: list[dict],
                                                                    network: str) -> None:
    for one in double:
        assert one["steps"][network].keys() == single["steps"][network].keys()
        for name, value in single["steps"][network].items():
            close(one["steps"][network][name], value, 1e-9)


@pytest.mark.slow
def test_step__batch_norm_over_the_own_share_would_be_told(single: dict, double: list[dict]) -> None:
    expected = single["steps"]["results"][0]["loss"]
    for one in double:
        assert abs(one["own_statistics"]["results"][0]["loss"] / expected - 1) > 1e-7


@pytest.mark.slow
def test_runs__a_signal_to_one_process_stops_all_after_the_same_step(double: list[dict]) -> None:
    text = "stopped after step 3, saved; run the same command again to resume"
    assert [one["runs"]["stopped"] for one in double] == [(text, 143), (text, 143)]


@pytest.mark.slow
def test_runs__stopped_and_restarted_ones_end_as_the_uninterrupted_one(double: list[dict], folder: Path) -> None:
    first = (folder / "first.safetensors").read_bytes()
    assert (folder / "stopped" / "backbone.safetensors").read_bytes() == first
    assert (folder / "whole" / "backbone.safetensors").read_bytes() == first
    assert len(double) == 2


def test_synchronise__replaces_every_batch_norm_and_keeps_its_state() -> None:
    inner = nn.Sequential(nn.BatchNorm2d(4, affine=False))
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.2), inner)
    nn.init.normal_(module[1].weight)
    module(torch.randn(5, 3, 2, 2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert distributed.synchronise_batch_norm(module, Process(0, 1, torch.device("cpu"))) is module
    assert type(module[1]) is nn.BatchNorm2d  # one process: nothing to do
    distributed.synchronise_batch_norm(module, Process(0, 2, torch.device("cpu")))
    assert type(module[1]) is type(module[2][0]) is SynchronisedBatchNorm
    assert module[1].momentum == 0.2 and not module[2][0].affine
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_one_process__nothing_communicates() -> None:
    values = torch.tensor([1.0, 2.0])
    assert distributed.mean_over_processes(values) is values and distributed.world_size() == 1


def test_start__an_environment_that_torchrun_did_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "x")
    text = "environment variable WORLD_SIZE: expected a whole number as torchrun sets it, found 'x'"
    with pytest.raises(UserError, match=text):
        distributed.start("cpu")


def test_start__asking_for_a_gpu_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: torch sees no GPU here; use --device cpu"):
        distributed.start("cuda")
    assert distributed.start("auto") == Process(0, 1, torch.device("cpu"))


def test_start__on_the_cpu_of_a_machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gloo, and no word about fewer GPUs than processes."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: pytest.fail("a GPU was touched"))
    monkeypatch.setattr(torch.distributed, "init_process_group",
                        lambda backend, timeout: asked.append((backend, timeout.total_seconds())))
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "3"), ("LOCAL_RANK", "3")):
        monkeypatch.setenv(name, value)
    assert distributed.start("cpu", 77) == Process(3, 4, torch.device("cpu"))
    assert asked == [("gloo", 77)]
    with pytest.raises(UserError, match="4 processes or more on this machine, found 1 GPUs"):
        distributed.start("auto")
