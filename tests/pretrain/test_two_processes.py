"""Two processes (gloo) are one process with the double batch: loss, gradients, update, through synchronised batch norm.

test_distributed.py has batch norm alone and whole runs, and is slow.
"""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import pretrain.train
import pretrain.trainer
from pretrain.config import load_config
from pretrain.data import Batch
from pretrain.distributed import Process
from pretrain.trainer import Trainer

TINY = {"architecture": "resnet18", "projector_hidden": 32, "projector_dim": 16, "heads": 2, "global_size": 64,
        "local_size": 32, "local_views": 2, "last_stage_stride": 1, "precision": "fp32", "epochs": 2,
        "warmup_epochs": 0, "base_lr": 32.0}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def join(rank: int, port: int) -> Process:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    return Process(rank, 2, torch.device("cpu"))


def batch(images: int, seed: int = 0, config=None) -> Batch:
    train = config.train
    rng = np.random.default_rng(seed)

    def boxes(views: int) -> torch.Tensor:
        corner = rng.uniform(0, 0.4, (views, images, 2))
        side = rng.uniform(0.3, 0.6, (views, images, 2))
        made = np.concatenate([corner, corner + side], -1).astype(np.float32)
        flipped = rng.random((views, images)) < 0.5
        made[flipped] = made[flipped][:, [2, 1, 0, 3]]
        return torch.from_numpy(made)

    sides = [(train.global_views, train.global_size), (train.local_views, train.local_size)]
    views = [torch.from_numpy(rng.integers(0, 256, (v, images, 3, s, s), dtype=np.uint8)) for v, s in sides]
    return Batch(views, [boxes(v) for v, _ in sides], torch.full((images, 2), 100.0), [""] * images, {})


def part(whole: Batch, start: int, stop: int) -> Batch:
    return Batch([v[:, start:stop] for v in whole.views], [b[:, start:stop] for b in whole.boxes],
                 whole.sizes[start:stop], whole.names[start:stop], {})


def one_step(config, process: Process, micro_batches: list[Batch], classes: tuple[str, ...] = ()) -> dict:
    """A whole step in float64, so that equality is not a matter of tolerance."""
    original = pretrain.trainer.normalise
    pretrain.trainer.normalise = lambda pixels: original(pixels).double()
    torch.set_default_dtype(torch.float64)
    try:
        trainer = Trainer(config, process, steps=10, per_epoch=5, classes=classes)
        result = trainer.step(3, micro_batches)
    finally:
        torch.set_default_dtype(torch.float32)
        pretrain.trainer.normalise = original
    gradients = {name: p.grad for name, p in trainer.student.named_parameters() if p.grad is not None}
    follower = trainer.objective.follower
    return {"loss": result["loss"], "result": result, "gradients": gradients, "student": trainer.student.state_dict(),
            "follower": {} if follower is None else follower.state_dict()}


def close(found: dict, expected: dict, tolerance: float) -> None:
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)  # reported in float32
    for part_name in ("gradients", "student", "follower"):
        assert found[part_name].keys() == expected[part_name].keys()
        for name, tensor in expected[part_name].items():
            scale = max(tensor.abs().max().item(), 1e-6)
            difference = (found[part_name][name] - tensor).abs().max().item()
            assert difference <= tolerance * scale, f"{part_name} {name}: {difference} of {scale}"


def _worker_step(rank: int, port: int, folder: str) -> None:
    process = join(rank, port)
    config = load_config(None, {**TINY, "batch_size": 8, "device_batch": 2})
    whole = batch(8, config=config)
    mine = [part(whole, a * 4 + rank * 2, a * 4 + rank * 2 + 2) for a in range(2)]
    torch.save(one_step(config, process, mine), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_step__two_processes_equal_one_with_the_double_batch(tmp_path):
    config = load_config(None, {**TINY, "batch_size": 8, "device_batch": 4})
    whole = batch(8, config=config)
    alone = one_step(config, Process(0, 1, torch.device("cpu")), [part(whole, 0, 4), part(whole, 4, 8)])
    mp.spawn(_worker_step, args=(free_port(), str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for found in ranks:
        close(found, alone, tolerance=1e-9)
    for name, tensor in ranks[0]["student"].items():
        if "running_" not in name:  # sums over processes are the same bits; running statistics are compared above
            assert torch.equal(tensor, ranks[1]["student"][name]), name


def _without_batch_norm(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        else:
            _without_batch_norm(child)
    return module


def test_step__two_micro_batches_of_four_equal_one_of_eight_without_batch_norm(monkeypatch):
    monkeypatch.setattr(pretrain.trainer.distributed, "synchronise_batch_norm",
                        lambda module, process: _without_batch_norm(module))
    results = []
    for micro in (4, 8):
        config = load_config(None, {**TINY, "batch_size": 8, "device_batch": micro})
        whole = batch(8, config=config)
        results.append(one_step(config, Process(0, 1, torch.device("cpu")),
                                [part(whole, a, a + micro) for a in range(0, 8, micro)]))
    close(results[0], results[1], tolerance=1e-9)
