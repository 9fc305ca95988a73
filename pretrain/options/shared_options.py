"""The options that every objective shares: `Train` changes the numbers, `Runtime` does not.

The defaults are the 200-epoch ImageNet run.
"""

from dataclasses import dataclass
from typing import Literal

from pretrain.common.architectures import STANDARD, ArchitectureName
from pretrain.common.errors import UserError
from pretrain.options.option import option


@dataclass(frozen=True)
class Train:
    """What changes the numbers, whatever the objective."""

    seed: int = option(0, "initialisation, order of images and every random draw of a view")
    epochs: int = option(200, "passes over the images")
    batch_size: int = option(2048, "images in one optimizer step, over all devices and accumulation")
    precision: Literal["fp32", "bf16", "fp16"] = option("fp16", "automatic mixed precision; the loss is fp32 always")
    labels: Literal["none", "folder", "prefix"] = option(
        "none", "classes of the images: none, of CLASS/IMAGE the folder, of CLASS__IMAGE the prefix of the name")
    sixteen_bit: Literal["shift", "range"] = option(
        "shift", "how 16-bit pixels become 8-bit ones: by their high byte (refused where no value is above 4095), or "
                 "each image's own range becomes 0 to 255")

    architecture: ArchitectureName = option(STANDARD, "encoder")
    last_stage_stride: Literal[1, 2] = option(2, "stride of the last ResNet stage; 1 doubles the grid of small views")

    global_views: int = option(2, "global views of an image; a teacher sees these only")
    local_views: int = option(6, "local views of an image")
    global_size: int = option(224, "pixels a side of a global view")
    local_size: int = option(96, "pixels a side of a local view")
    global_scale: tuple[float, float] = option((0.2, 1.0), "area of a global view as a share of the image")
    local_scale: tuple[float, float] = option((0.08, 0.3), "area of a local view as a share of the image")
    colour_on: Literal["loader", "device"] = option(
        "loader", "where colour, blur and solarize are computed: in the loader processes, or on the training device "
                  "(same draws, pixels off by a level or so; needs half the loader processes)")
    box_frame: Literal["edges", "pixel_centres"] = option(
        "edges", "a view's box: crop edges / image side, or the released (pixel index) / (side - 1)")

    base_lr: float = option(1.0, "LARS rate per 256 images of batch_size")
    weight_decay: float = option(2e-5, "on tensors of more than one dimension")
    sgd_momentum: float = option(0.9, "momentum inside LARS")
    trust: float = option(1e-3, "trust coefficient of LARS")
    warmup_epochs: float = option(5.0, "linear warm-up from lr/100")
    final_lr: float = option(0.01, "last rate as a share of the peak (cosine)")
    max_corrupt_share: float = option(0.02, "stop when more than this share of the images cannot be read")


@dataclass(frozen=True)
class Runtime:
    """What does not change the numbers: where and how a run is done and what is written down."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto: CUDA when there is a GPU")
    device_batch: int = option(128, "images that a process takes through the network at once, at most; accumulation "
                                     "makes up the rest of batch_size, whatever devices there are")
    workers: int = option(4, "loader processes for each device; 0 loads in the training process")
    log_every: int = option(20, "steps between two lines of metrics.jsonl and TensorBoard")
    checkpoint_every: int = option(600, "steps between two checkpoints")
    keep_checkpoints: int = option(2, "newest checkpoints that stay on disk")
    archive_every: int = option(0, "steps between two checkpoints that stay for good, a multiple of checkpoint_every "
                                   "(0: none)")
    probe_every: int = option(600, "steps between two probes: retrieval, spread of the features, k-NN "
                                   "(0: at the start and at the end)")
    probe_images: int = option(64, "images the retrieval probe looks at")
    knn_images: int = option(0, "labelled images (CLASS/IMAGE) of the k-NN probe; 0: none. Each process holds them, "
                                "150 kB an image at 224 pixels")
    channels_last: bool = option(True, "memory format of the encoder")
    compile: bool = option(False, "torch.compile for student and teacher: minutes at the start, faster steps on a GPU")
    nonfinite_limit: int = option(5, "NaN or inf losses in a row that end the run; each is skipped and counted")


def check(train: Train, runtime: Runtime) -> None:
    """Raise `UserError` for values that cannot be, whatever the objective."""
    positive = ("epochs", "batch_size", "global_views", "global_size", "local_size", "base_lr", "trust")
    for key in positive:
        if getattr(train, key) <= 0:
            raise UserError(f"{key} must be above 0, found {getattr(train, key)}")
    for key in ("seed", "local_views", "warmup_epochs", "weight_decay"):
        if getattr(train, key) < 0:
            raise UserError(f"{key} must be at least 0, found {getattr(train, key)}")
    if train.global_views < 2:
        raise UserError(f"global_views must be at least 2, found {train.global_views}: a view is compared with another "
                        "one")
    for key in ("global_scale", "local_scale"):
        low, high = getattr(train, key)
        if not 0 < low <= high <= 1:
            raise UserError(f"{key} must be two shares with 0 < low <= high <= 1, found {low} and {high}")
    for key in ("sgd_momentum", "final_lr", "max_corrupt_share"):
        if not 0 <= getattr(train, key) <= 1:
            raise UserError(f"{key} must lie between 0 and 1, found {getattr(train, key)}")
    if train.warmup_epochs > train.epochs:
        raise UserError(f"warmup_epochs must not exceed epochs, found {train.warmup_epochs} and {train.epochs}")
    one_cell = train.local_size <= (32 if train.last_stage_stride == 2 else 16)
    if train.local_views == 1 and one_cell and 1 in (train.batch_size, runtime.device_batch):
        raise UserError(f"a single local view of {train.local_size} pixels, one image at once: batch norm would see "
                        "one value; use a larger --local-size, --device-batch or more --local-views")
    _check_runtime(runtime)


def _check_runtime(runtime: Runtime) -> None:
    for key in ("device_batch", "log_every", "checkpoint_every", "keep_checkpoints", "probe_images", "nonfinite_limit"):
        if getattr(runtime, key) < 1:
            raise UserError(f"{key} must be at least 1, found {getattr(runtime, key)}")
    for key in ("workers", "probe_every", "archive_every"):
        if getattr(runtime, key) < 0:
            raise UserError(f"{key} must be at least 0, found {getattr(runtime, key)}")
    if runtime.knn_images < 0 or 0 < runtime.knn_images < 4:
        raise UserError(f"knn_images must be 0 or at least 4 (two of each of two classes), found {runtime.knn_images}")
    if runtime.archive_every % runtime.checkpoint_every:
        raise UserError(f"archive_every must be a multiple of checkpoint_every, found {runtime.archive_every} and "
                        f"{runtime.checkpoint_every}")
