"""What `clove speed gpu` measures: each cell is a context that gives its step, and nothing is kept after it."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.step import STEPS, made_batch, our_side
from pretrain.common.architectures import STANDARD, ArchitectureName
from pretrain.config import Config, load_config
from pretrain.data.batches import list_images, make_loader
from pretrain.data.workers import with_workers
from pretrain.distributed import Process
from pretrain.train import train
from transfer import tasks

Step = Callable[[], object]
TASKS = tuple(name for name, task in tasks.TASKS.items() if task.table.in_poster)
BATCHES = 8  # different ones that a fine-tuning's steps take in turn


@dataclass(frozen=True)
class Sizes:
    """Images at once in pretraining (two numbers), generated photographs, values over the default configuration, and
    of a fine-tuning scale, architecture and KEY=VALUE; `learn`: whether the two short trainings follow."""

    batches: tuple[int, int]
    photos: int
    pretraining: dict[str, Any]
    scale: str
    architecture: ArchitectureName
    overrides: tuple[str, ...]
    learn: bool


FULL = Sizes((64, 128), 192, {}, "full", STANDARD, (), learn=True)


def settings(device: torch.device, sizes: Sizes, images: int, **values: object) -> Config:
    """The 200-epoch recipe with one micro-batch of `images` a step."""
    return load_config(None, {**sizes.pretraining, "device": device.type, "batch_size": images, "device_batch": images,
                              **values})


@contextmanager
def pretraining(device: torch.device, sizes: Sizes, images: int, precision: str) -> Iterator[Step]:
    """Steps on one batch that lies in pinned memory, as a loader gives it."""
    config = settings(device, sizes, images, precision=precision)
    (_, step), batch = our_side(config), made_batch(config)
    if device.type == "cuda":
        batch = batch.pin_memory()
    numbers = itertools.count()
    yield lambda: step(next(numbers), batch)


@contextmanager
def loading(device: torch.device, sizes: Sizes, images: int, colour_on: str, photos: Path) -> Iterator[Step]:
    """Steps that wait for the loader, with its processes as a run would have them."""
    process = Process(0, 1, device)
    config = with_workers(settings(device, sizes, images, precision="bf16", colour_on=colour_on), process)
    _, step = our_side(config)
    loader, numbers = make_loader(list_images(photos), config, range(STEPS), process), itertools.count()
    yield lambda: step(next(numbers), next(loader))


@contextmanager
def finetuning(device: torch.device, sizes: Sizes, task: str, images: int, data: Path) -> Iterator[Step]:
    """Steps of the published protocol with a batch of `images`, from random weights, on batches that are there."""
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from benchmarks.speed.finetuning import prepared
    from transfer.finetuning.trainer import trainer_of
    from transfer.finetuning.training_images import train_loader
    from transfer.settings.random_starts import RAND
    from transfer.settings.request import Request

    request = Request(task=task, scale=sizes.scale, weights=RAND.weights, data=data / task, output="",
                      overrides=(f"SOLVER.IMS_PER_BATCH={images}", *sizes.overrides))
    cfg, _ = prepared(request, sizes.architecture, device.type)
    batches = list(itertools.islice(train_loader(cfg, 0, 0), BATCHES))
    trainer = trainer_of(cfg, build_model(cfg).train())
    trainer._data_loader_iter_obj = itertools.cycle(batches)
    with EventStorage(0) as trainer.storage:
        yield trainer.run_step


def pretraining_learns(device: torch.device, data: Path, output: Path) -> dict[str, Any]:
    """The demo's pretraining; retrieval of the backbone in percent at its start and end must rise."""
    config = load_config("demo", {"device": device.type})
    train(config, data / "photos", output, Process(0, 1, device))
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    probed = [100 * line["retrieval_backbone"] for line in lines if "retrieval_backbone" in line]
    return {"what": "retrieval of the backbone, percent", "start": probed[0], "end": probed[-1],
            "learns": probed[-1] > probed[0]}


def finetuning_learns(device: torch.device, data: Path, output: Path) -> dict[str, Any]:
    """The demo's fine-tuning on the first task from random weights; its loss must end a fifth below that of its first
    step, which a run of one step writes: the curves are medians of twenty steps, most of the fall is before that."""
    one_step = ("SOLVER.MAX_ITER=1", "SOLVER.STEPS=()", "TEST.PRECISE_BN.NUM_ITER=1")
    start = _last_loss(device, data, output / "first-step", one_step)
    end = _last_loss(device, data, output / "whole", ())
    return {"what": "loss", "start": start, "end": end, "learns": end < 0.8 * start}


def _last_loss(device: torch.device, data: Path, output: Path, overrides: tuple[str, ...]) -> float:
    """Of the demo's fine-tuning; a median of the last steps."""
    from transfer.finetuning.curves import METRICS
    from transfer.finetuning.finetune import Request, finetune
    from transfer.settings.random_starts import RAND

    task = TASKS[0]
    finetune(Request(task=task, scale="demo", weights=RAND.weights, data=data / tasks.get(task).demo_layout,
                     output=output, device=device.type, overrides=overrides))
    lines = [json.loads(line) for line in (output / METRICS).read_text(encoding="utf-8").splitlines()]
    return [line["total_loss"] for line in lines if "total_loss" in line][-1]
