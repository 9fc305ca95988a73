"""The options that every objective shares: `Train` changes the numbers, `Runtime` does not.

The defaults are the 200-epoch ImageNet run.
"""

from dataclasses import dataclass
from typing import Literal

from pretrain.common.architectures import STANDARD, ArchitectureName
from pretrain.common.errors import refuse
from pretrain.options.option import option

SHARES = "must be two shares with 0 < low <= high <= 1"


@dataclass(frozen=True)
class Train:
    """What changes the numbers, whatever the objective."""

    seed: int = option(0, "initialisation, order of images and every random draw of a view", at_least=0)
    epochs: int = option(200, "passes over the images", above=0)
    batch_size: int = option(2048, "images in one optimizer step, over all devices and accumulation", above=0)
    precision: Literal["fp32", "bf16", "fp16"] = option("fp16", "automatic mixed precision; the loss is fp32 always")
    labels: Literal["none", "folder", "prefix"] = option(
        "none", "classes of the images: none, the folder of CLASS/IMAGE, the name's prefix of CLASS__IMAGE")
    sixteen_bit: Literal["shift", "range"] = option(
        "shift", "how 16-bit pixels become 8-bit ones: by their high byte (refused where no value is above 4095), or "
                 "each image's own range becomes 0 to 255")

    architecture: ArchitectureName = option(STANDARD, "encoder")
    last_stage_stride: Literal[1, 2] = option(2, "stride of the last ResNet stage; 1 doubles the grid of small views")

    global_views: int = option(
        2, "global views of an image, compared with each other; a teacher sees only these", at_least=2)
    local_views: int = option(6, "local views of an image", at_least=0)
    global_size: int = option(224, "side of a global view in pixels", above=0)
    local_size: int = option(96, "side of a local view in pixels", above=0)
    global_scale: tuple[float, float] = option((0.2, 1.0), "area of a global view as a share of the image")
    local_scale: tuple[float, float] = option((0.08, 0.3), "area of a local view as a share of the image")
    colour_on: Literal["loader", "device"] = option(
        "loader", "where colour, blur and solarize are computed: in the loader processes, or on the training device "
                  "(same random draws, pixels differ by about one level of 255; needs half the loader processes)")
    box_frame: Literal["edges", "pixel_centres"] = option(
        "pixel_centres", "a view's box: crop edges / image side, or the released (pixel index) / (side - 1)")

    base_lr: float = option(1.0, "learning rate of LARS per 256 images of batch_size", above=0)
    weight_decay: float = option(2e-5, "on tensors of more than one dimension", at_least=0)
    sgd_momentum: float = option(0.9, "momentum inside LARS", at_least=0, at_most=1)
    trust: float = option(1e-3, "trust coefficient of LARS", above=0)
    warmup_epochs: float = option(5.0, "epochs of linear warm-up from 1/100 of the peak learning rate", at_least=0)
    final_lr: float = option(0.01, "last learning rate as a share of the peak (cosine)", at_least=0, at_most=1)
    max_corrupt_share: float = option(
        0.02, "stop when more than this share of the images cannot be read", at_least=0, at_most=1)


@dataclass(frozen=True)
class Runtime:
    """What does not change the numbers: where and how a run is done and what is written down."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto: CUDA when there is a GPU")
    device_batch: int = option(
        128, "most images in one forward pass of a process; gradients are accumulated up to batch_size", at_least=1)
    workers: int | Literal["auto"] = option(
        "auto", "loader processes for each device; auto: by the cores that this machine has for each of its GPUs; 0 "
                "loads in the training process", at_least=0)
    loader_timeout: int = option(
        1800, "seconds that a step waits for its images before the run ends in one line", at_least=1)
    collective_timeout: int = option(
        3600, "seconds that a process waits for the others before it ends in one line: longer than listing the images "
              "or drawing the last figures takes", at_least=1)
    log_every: int = option(20, "steps between two lines of metrics.jsonl and TensorBoard", at_least=1)
    checkpoint_every: int = option(600, "steps between two checkpoints", at_least=1)
    keep_checkpoints: int = option(2, "newest checkpoints that stay on disk", at_least=1)
    archive_every: int = option(
        0, "steps between two checkpoints that stay for good, a multiple of checkpoint_every (0: none)", at_least=0)
    probe_every: int = option(
        600, "steps between two probes: retrieval, spread of the features, k-NN (0: at the start and the end)",
        at_least=0)
    probe_images: int = option(64, "images of the retrieval probe", at_least=1)
    knn_images: int = option(
        0, "labelled images (CLASS/IMAGE) of the k-NN probe; 0: none. Each process holds them, 150 kB an image at 224 "
           "pixels", at_least=0)
    channels_last: bool = option(True, "memory format of the encoder")
    deterministic: bool = option(
        False, "on a GPU, kernels that give the same bits in every run, which are slower; a CPU always does")
    compile: bool = option(False, "torch.compile for student and teacher: minutes at the start, faster steps on a GPU")
    nonfinite_limit: int = option(
        5, "NaN or inf losses in a row that end the run; each is skipped and counted", at_least=1)


def check(train: Train, runtime: Runtime) -> None:
    """Raise `UserError` for values that do not fit together, whatever the objective."""
    one_cell = train.local_size <= (32 if train.last_stage_stride == 2 else 16)
    one_image = 1 in (train.batch_size, runtime.device_batch)
    refuse(
        (not _is_range(train.global_scale), f"global_scale {SHARES}, found {train.global_scale}"),
        (not _is_range(train.local_scale), f"local_scale {SHARES}, found {train.local_scale}"),
        (train.warmup_epochs > train.epochs,
         f"warmup_epochs must not exceed epochs, found {train.warmup_epochs} and {train.epochs}"),
        (train.local_views == 1 and one_cell and one_image,
         f"a single local view of {train.local_size} pixels, one image at once: batch norm would see one value; use a "
         "larger --local-size, --device-batch or more --local-views"),
        (0 < runtime.knn_images < 4,
         f"knn_images must be 0 or at least 4 (two of each of two classes), found {runtime.knn_images}"),
        (runtime.archive_every % runtime.checkpoint_every,
         f"archive_every must be a multiple of checkpoint_every, found {runtime.archive_every} and "
         f"{runtime.checkpoint_every}"),
    )


def _is_range(shares: tuple[float, float]) -> bool:
    return 0 < shares[0] <= shares[1] <= 1
