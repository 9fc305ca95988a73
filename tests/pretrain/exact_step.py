"""One optimizer step in float64, in one process or in one of two (gloo), and what is compared of it. No test itself."""

import os
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist

import pretrain.trainer
from pretrain.config import Config
from pretrain.data.batches import Batch
from pretrain.distributed import Process
from pretrain.trainer import Trainer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def join(rank: int, port: int) -> Process:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    return Process(rank, 2, torch.device("cpu"))


def batch(images: int, seed: int, config: Config) -> Batch:
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


def one_step(config: Config, process: Process, micro_batches: list[Batch], classes: tuple[str, ...] = ()) -> dict:
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
