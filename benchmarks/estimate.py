"""What a run will cost, before it starts. Estimates, each with where its figure comes from; never results."""

from pretrain.config import Config
from transfer import tasks

# Images a second of one H100 with bf16 and unfused batch norm: arithmetic from 102.4 GFLOP an image, not a measurement.
H100_IMAGES_PER_SECOND = 1870
V100_GPUS = 8  # of `Task.seconds`
# On disk at once: two checkpoints of student, teacher and momentum and one being written; as many of a detector with
# momentum (the largest, of keypoints: 0.49 GB each).
PRETRAIN_GB = 1.5
FINETUNE_GB = 1.5
MODEL_GB = 0.25  # what stays of a fine-tuning: the model alone


def pretraining(images: int, config: Config) -> str:
    """Cost of a pretraining on `images` images, in words."""
    train = config.train
    hours = pretraining_hours(images, config)
    if not hours:
        return f"{images * train.epochs:,} image views of {train.global_size} px"
    return f"about {hours['H100']:.1f} H100-hours (arithmetic, not measured)"


def pretraining_hours(images: int, config: Config) -> dict[str, float]:
    """{"H100": hours on one}; empty for small views, whose speed was never worked out."""
    train = config.train
    return {"H100": images * train.epochs / H100_IMAGES_PER_SECOND / 3600} if train.global_size >= 224 else {}


def finetuning(task: str, iterations: int, scale: str) -> str:
    """Cost of a fine-tuning of `iterations` iterations, in words."""
    hours = finetuning_hours(task, iterations, scale)
    if not hours:
        return f"{iterations} small iterations"
    return f"about {hours['V100']:.0f} V100-hours (model zoo's speed)"


def finetuning_hours(task: str, iterations: int, scale: str) -> dict[str, float]:
    """{"V100": hours on one}; empty for a small one."""
    return {"V100": iterations * tasks.get(task).seconds * V100_GPUS / 3600} if scale == "full" else {}
