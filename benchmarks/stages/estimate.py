"""What a run will cost, before it starts. Estimates, each with where its number comes from; never results."""

from dataclasses import dataclass

from benchmarks.options.evaluations import Protocol
from pretrain import memory
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


@dataclass(frozen=True)
class Cost:
    """In words; estimated hours on one GPU of a kind, and on one CPU core (0 where that was never measured)."""

    words: str
    gpu_hours: dict[str, float]
    core_hours: float = 0.0


def disk_gb(of_resnet50: float, architecture: str) -> float:
    """Space for another architecture, where that was measured."""
    return round(of_resnet50 * SHARE_OF_DISK.get(architecture, 1.0), 2)


def pretraining(images: int, config: Config) -> Cost:
    """Of a pretraining on `images` images; of small views on a GPU, and on cores but for them, nothing is known."""
    train = config.train
    if train.global_size >= 224:
        hours = images * train.epochs / H100_IMAGES_PER_SECOND / 3600
        how_many = f"about {hours:.1f}" if hours >= 0.1 else "under 0.1"
        at_once = min(config.runtime.device_batch, train.batch_size)
        return Cost(f"{how_many} H100-hours (arithmetic, not measured), {memory.in_words(train, at_once)}",
                    {"H100": hours})
    pixels = 2 * train.global_size**2 + train.local_views * train.local_size**2
    core_hours = images * train.epochs * PRETRAIN_SECONDS * pixels / PRETRAIN_PIXELS / 3600
    return _on_cores(f"{images * train.epochs:,} image views of {train.global_size} px",
                     core_hours * (train.architecture == ON_CORES))


def finetuning(task: str, protocol: Protocol, architecture: str, evaluated: int) -> Cost:
    """Of a fine-tuning, with an evaluation of `evaluated` images."""
    if protocol.scale == "full":
        hours = tasks.get(task).v100_hours(protocol.iterations)
        return Cost(f"about {hours:.0f} V100-hours (model zoo's speed)", {"V100": hours})
    seconds = protocol.iterations * protocol.batch * FINETUNE_SECONDS * (protocol.train_side / FINETUNE_SIDE)**2
    seconds += evaluated * EVALUATE_SECONDS * (protocol.test_side / EVALUATE_SIDE)**2
    return _on_cores(f"{protocol.iterations} small iterations",
                     seconds / 3600 * (architecture == ON_CORES and protocol.scale == "mini"))


def _on_cores(what: str, core_hours: float) -> Cost:
    hours = f", about {core_hours:.2f} CPU core-hours" if core_hours >= 0.005 else ""
    return Cost(what + hours, {}, core_hours)
