"""What a run will cost, before it starts. Estimates, each with where its number comes from; never results."""

from benchmarks.options.evaluations import Protocol
from pretrain.common.architectures import SMALLEST
from pretrain.config import Config
from transfer import tasks

# Images per second of one H100 with bf16 and unfused batch norm: arithmetic from 102.4 GFLOP an
# image, not a measurement.
H100_IMAGES_PER_SECOND = 1870
# Seconds of one CPU core (one thread, no AVX-512) for an image of a ResNet-18, measured 2026-11.
# Pretraining: 604 steps of 16 images, 2 x 80 and 2 x 40 px, took 21 minutes (a recent core with
# AVX-512 needs a third). Fine-tuning: 240 iterations of 4 images of 160 to 192 px took 552 s, and
# 90 s more went into the start, batch norm's statistics and 60 evaluated images of 192 px. (With the
# narrower heads of today, 300 iterations took 653 s on a core that had other work beside.)
PRETRAIN_SECONDS, PRETRAIN_PIXELS = 0.130, 2 * 80**2 + 2 * 40**2
FINETUNE_SECONDS, FINETUNE_SIDE = 0.575, 176
EVALUATE_SECONDS, EVALUATE_SIDE = 1.5, 192
ON_CORES = SMALLEST  # nothing else was measured there
# On disk at once, for a ResNet-50: two checkpoints of student, teacher and momentum and one being
# written; as many of a detector with momentum (the largest, of keypoints: 0.49 GB each).
PRETRAIN_GB = 1.5
FINETUNE_GB = 1.5
MODEL_GB = 0.25  # what stays of a fine-tuning: the model alone
CONVERT_GB = 0.25
SHARE_OF_DISK = {SMALLEST: 0.36}  # measured: 0.47, 0.47, 0.08 and 0.09 GB in the place of these four


def disk_gb(of_resnet50: float, architecture: str) -> float:
    """Space for another architecture, where that was measured."""
    return round(of_resnet50 * SHARE_OF_DISK.get(architecture, 1.0), 2)


def pretraining(images: int, config: Config) -> str:
    """Cost of a pretraining on `images` images, in words."""
    train = config.train
    hours = pretraining_hours(images, config)
    if not hours:
        views = f"{images * train.epochs:,} image views of {train.global_size} px"
        return views + _in_words(pretraining_core_hours(images, config))
    how_many = f"about {hours['H100']:.1f}" if hours["H100"] >= 0.1 else "under 0.1"
    return f"{how_many} H100-hours (arithmetic, not measured)"


def pretraining_hours(images: int, config: Config) -> dict[str, float]:
    """{"H100": hours on one}; empty for small views, whose speed was never worked out."""
    train = config.train
    if train.global_size < 224:
        return {}
    return {"H100": images * train.epochs / H100_IMAGES_PER_SECOND / 3600}


def pretraining_core_hours(images: int, config: Config) -> float:
    """On one CPU core; 0 where that was never measured."""
    train = config.train
    if train.architecture != ON_CORES or train.global_size >= 224:
        return 0.0
    pixels = 2 * train.global_size**2 + train.local_views * train.local_size**2
    return images * train.epochs * PRETRAIN_SECONDS * pixels / PRETRAIN_PIXELS / 3600


def finetuning_core_hours(protocol: Protocol, architecture: str, evaluated: int) -> float:
    """On one CPU core, with an evaluation of `evaluated` images; 0 where that was never measured."""
    if architecture != ON_CORES or protocol.scale != "mini":
        return 0.0
    train = protocol.iterations * protocol.batch * FINETUNE_SECONDS * (protocol.train_side / FINETUNE_SIDE)**2
    return (train + evaluated * EVALUATE_SECONDS * (protocol.test_side / EVALUATE_SIDE)**2) / 3600


def _in_words(core_hours: float) -> str:
    return f", about {core_hours:.2f} CPU core-hours" if core_hours >= 0.005 else ""


def finetuning(task: str, iterations: int, scale: str, core_hours: float = 0.0) -> str:
    """Cost of a fine-tuning of `iterations` iterations, in words."""
    hours = finetuning_hours(task, iterations, scale)
    if not hours:
        return f"{iterations} small iterations" + _in_words(core_hours)
    return f"about {hours['V100']:.0f} V100-hours (model zoo's speed)"


def finetuning_hours(task: str, iterations: int, scale: str) -> dict[str, float]:
    """{"V100": hours on one}; empty for a small one."""
    if scale != "full":
        return {}
    return {"V100": tasks.get(task).v100_hours(iterations)}
