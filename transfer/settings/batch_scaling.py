"""How a batch fits on fewer or smaller GPUs than the protocol's eight: gradient accumulation, or the linear rule.

`accumulate=N`: a step keeps its batch, rate and schedule; N images at a time go through the network
and their gradients are averaged. Exact is what detectron2 normalises per image: the RPN's losses,
and the box losses where every image yields its full number of sampled regions. Not exact are the
mask and keypoint losses, means over the foreground regions of those N images and not of the whole
batch; data-parallel training over GPUs of N images averages in just the same way. Batch norm sees N
images where the synchronised one sees the batch: that does change the training.

`linear=N`: a batch of N, the learning rate times N/batch, and schedule, warm-up and checkpoints
longer by batch/N (the rule of "Accurate, large minibatch SGD", which detectron2 applies for
SOLVER.REFERENCE_WORLD_SIZE as well).

N counts the images of all processes together, like SOLVER.IMS_PER_BATCH. Preset names for one GPU
take a quarter of the batch: SCHEDULE_1gpu accumulates, SCHEDULE_1gpu_linear follows the linear
rule. For COCO 1x that is N = 4. On one GPU, at full scale, a fine-tuning that says nothing of it
accumulates in this way (`one_gpu`). Estimates, not measured: detectron2's model zoo gives 0.261 s
for 2 images a V100 (16 in all) and 5.5 GB with batch norm that is trained, so about 11 GB, and 8 x
0.261 s x 90,000 = 52 h on one V100; for keypoints 2x 5.0 GB and 0.315 s, so about 10 GB and 126 h.
"""

import re
from dataclasses import dataclass

from detectron2.config import CfgNode

from pretrain.common.errors import refuse
from transfer.settings.norms import SYNCHRONISED

KINDS = ("accumulate", "linear")
PRESETS = {"_1gpu": "accumulate", "_1gpu_linear": "linear"}
PRESET_PARTS = 4  # a preset takes this part of the batch at once


@dataclass(frozen=True)
class Fit:
    """`images` at once; None: a quarter of the batch."""

    kind: str
    images: int | None = None


def chosen(schedule: str | None, fit: str | None) -> tuple[str | None, Fit | None]:
    """(schedule, fit) of the arguments of --schedule and --fit: "1x_1gpu" is "1x" and
    Fit("accumulate").

    Raises `UserError` when both say how the batch fits, or --fit has another form.
    """
    said = None
    if fit is not None:
        match = re.fullmatch(r"(accumulate|linear)=([1-9]\d*)", fit)
        refuse((match is None, f"--fit {fit}: expected accumulate=N or linear=N, such as "
                               "accumulate=4: N images at once, over all processes"))
        said = Fit(match[1], int(match[2]))
    for ending, kind in PRESETS.items():
        if schedule is not None and schedule.endswith(ending):
            name = schedule.removesuffix(ending)
            refuse((said is not None, f"--schedule {schedule} and --fit {fit} both say how the "
                                      "batch fits the GPU: leave out one, such as --schedule "
                                      f"{name} --fit {fit}"))
            return name, Fit(kind)
    return schedule, said


def fitted(cfg: CfgNode, fit: Fit | None) -> Fit | None:
    """Apply the linear rule to `cfg` (before what a user sets by hand), and put the number of a
    preset in place."""
    if fit is None:
        return None
    solver = cfg.SOLVER
    batch = solver.IMS_PER_BATCH
    images = fit.images or batch // PRESET_PARTS
    refuse((images < 1 or batch % images, f"{fit.kind}={images} does not fit a batch of {batch}: "
                                          "expected a number that divides it; name one with --fit"))
    if fit.kind == "linear":
        times = batch // images
        solver.IMS_PER_BATCH, solver.BASE_LR = images, solver.BASE_LR / times
        solver.MAX_ITER, solver.STEPS = times * solver.MAX_ITER, tuple(times * step for step in solver.STEPS)
        solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD = times * solver.WARMUP_ITERS, times * solver.CHECKPOINT_PERIOD
        cfg.TEST.PRECISE_BN.NUM_ITER *= times  # as many images as before
    return Fit(fit.kind, images)


def settle(cfg: CfgNode, fit: Fit | None, processes: int) -> None:
    """Check batch, `fit` and processes against each other when all values of `cfg` are final, and
    note the images at once under SOLVER.IMAGES_AT_ONCE, a key of ours that only accumulating
    configs have."""
    batch = cfg.SOLVER.IMS_PER_BATCH
    images, what = batch, f"SOLVER.IMS_PER_BATCH {batch}"
    if fit is not None:
        images = fit.images
    if images != batch:
        what = f"accumulate={images}"
        cfg.SOLVER.IMAGES_AT_ONCE = images
    refuse(
        (images != batch and fit.kind == "linear",
         f"--fit linear={images} and a batch of {batch} set by hand contradict each other: leave "
         "out one of them"),
        (batch % images, f"{what} does not fit SOLVER.IMS_PER_BATCH {batch}: expected a number "
                         "that divides it"),
        (images % processes, f"{what} cannot be shared by {processes} processes: expected a "
                             "multiple"))


def images_at_once(cfg: CfgNode) -> int:
    """Images that go through the network together, over all processes."""
    return cfg.SOLVER.get("IMAGES_AT_ONCE", cfg.SOLVER.IMS_PER_BATCH)


def batch_norm_images(cfg: CfgNode, processes: int) -> int | None:
    """Images from which the backbone's batch norm takes its statistics in training; None where it
    takes none."""
    norm = cfg.MODEL.RESNETS.NORM
    if norm in SYNCHRONISED:
        return images_at_once(cfg)
    if norm == "BN":
        return images_at_once(cfg) // processes
    return None
