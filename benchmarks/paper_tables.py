"""The paper's tables: their columns, and what a measured row must match to stand in one of them.

Standard library only. The protocols are those of the fine-tuning configs: iterations and batch of the full schedule
(a smaller batch with as many more iterations sees the same images and counts as the same schedule), and the linear
learning-rate rule 0.02 per 16 images that all of them share.
"""

import math
from dataclasses import dataclass

LEARNING_RATE_PER_IMAGE = 0.02 / 16
EVALUATION, UNKNOWN_INIT = "evaluation", "not known"  # what transfer's evaluation of somebody's model file records
# Configuration that differs between trials, machines and folders without changing what is measured. Data and starting
# weights are compared by their hashes instead of their places.
WITHOUT_EFFECT = {"SEED", "VERSION", "OUTPUT_DIR", "CUDNN_BENCHMARK", "VIS_PERIOD", "DATALOADER.NUM_WORKERS",
                  "DATASETS.TRAIN", "DATASETS.TEST", "MODEL.DEVICE", "MODEL.WEIGHTS", "SOLVER.CHECKPOINT_PERIOD",
                  "TEST.EVAL_PERIOD"}
# What a smaller batch must change; `departures` checks the outcome instead.
SCHEDULE = {"SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS"}


@dataclass(frozen=True)
class Table:
    """One table: `metrics` are its columns in order (percent); the rest is its standard data and full schedule."""

    title: str
    metrics: tuple[str, ...]
    data: str
    classes: int
    train_images: int  # at least: counts differ with whether images without annotations are dropped
    val_images: int
    iterations: int
    batch: int
    task: str
    in_poster: bool = True
    note: str = ""


BOX_AND_MASK = ("AP_bb", "AP50_bb", "AP75_bb", "AP_mb", "AP50_mb", "AP75_mb")
COCO = {"data": "COCO train2017 / val2017", "classes": 80, "train_images": 117_000, "val_images": 5000}

TABLES: dict[str, Table] = {
    "coco_detection_segmentation": Table(
        "Object detection and segmentation on COCO (R50-FPN)", BOX_AND_MASK, **COCO, iterations=90_000, batch=16,
        task="coco",
        note="Two head families are in use. The paper's Supervised row equals the published figures of 2fc heads; in "
             "its Rand init row the box figure is that of 4conv1fc heads and the mask figure that of 2fc heads. "
             "Every measured row names its heads."),
    "cityscapes_instance_segmentation": Table(
        "Instance segmentation on Cityscapes (R50-FPN)", ("AP", "AP50"), data="Cityscapes fine train / val", classes=8,
        train_images=2975, val_images=500, iterations=24_000, batch=8, task="cityscapes"),
    "coco_keypoints": Table(
        "Keypoint detection on COCO (R50-FPN)", ("AP_kp", "AP50_kp", "AP75_kp"), data=COCO["data"], classes=1,
        train_images=50_000, val_images=5000, iterations=180_000, batch=16, task="keypoints"),
    "coco_detection_segmentation_c4": Table(
        "Object detection and segmentation on COCO (R50-C4)", BOX_AND_MASK, **COCO, iterations=90_000, batch=16,
        task="coco-c4", in_poster=False),
    "lvis_detection_segmentation": Table(
        "Object detection and segmentation on LVIS (R50-FPN)", BOX_AND_MASK, data="LVIS v1 train / val", classes=1203,
        train_images=99_000, val_images=19_809, iterations=90_000, batch=16, task="lvis", in_poster=False),
    "voc_detection": Table(
        "Object detection on Pascal VOC (R50-C4)", ("AP", "AP50", "AP75"), data="VOC 2007+2012 trainval / 2007 test",
        classes=20, train_images=16_551, val_images=4952, iterations=24_000, batch=16, task="voc", in_poster=False,
        note="The literature prints the mean of five trials; average precision by the 11 points of VOC 2007."),
}


def on_standard_data(result: dict) -> bool:
    """Whether a (valid) result was trained and evaluated on its table's standard dataset, judged by its counts."""
    table, data = TABLES[result["table"]], result["dataset"]
    return (len(data["classes"]) == table.classes and data["val"]["images"] == table.val_images
            and data["train"]["images"] >= table.train_images)


def departures(result: dict) -> list[str]:
    """What separates a (valid) result from its table's protocol, apart from the data; empty: nothing."""
    table, found = TABLES[result["table"]], []
    solver = result["config"].get("SOLVER")
    solver = solver if isinstance(solver, dict) else {}
    batch = solver.get("IMS_PER_BATCH", table.batch)
    rate = solver.get("BASE_LR", LEARNING_RATE_PER_IMAGE * table.batch)
    if not all(isinstance(value, int | float) for value in (batch, rate)):
        return ["batch or learning rate unknown"]
    if result["scale"] != "full":
        found.append(f"scale {result['scale']}")
    if result["iterations"] * batch != table.iterations * table.batch:
        found.append(f"{result['iterations']} iterations of {batch} images")
    if result.get("solver", "common") != "common":
        found.append(f"solver {result['solver']}")
    elif not math.isclose(rate, LEARNING_RATE_PER_IMAGE * batch, rel_tol=0.01):
        found.append(f"learning rate {rate:g}")
    if result["weights"]["architecture"] != "resnet50":
        found.append(f"{result['weights']['architecture']}, not the paper's network")
    if result.get("kind") == EVALUATION and result["weights"].get("init") == UNKNOWN_INIT:
        found.append("a model file whose training is not known")
    for override in result.get("overrides", []):
        if override.partition("=")[0].strip() not in WITHOUT_EFFECT | SCHEDULE:
            found.append(override)
    return found


def remarks(result: dict) -> list[str]:
    """What is the protocol's in the images seen but not in how they went through the network, for the row's footnote.

    Smaller batches by the linear rule, or gradients accumulated over pieces of the batch: both leave batch norm fewer
    images than the protocol's batch. A result of before these were recorded has none.
    """
    found, at_once = [], result.get("images_at_once")
    if result.get("fit") == "accumulate":
        found.append(f"gradients accumulated, {at_once} images at once")
    elif result.get("fit") == "linear":
        found.append(f"batches of {at_once} by the linear rule")
    seen = result.get("batch_norm_images")
    if result["scale"] == "full" and seen not in (None, TABLES[result["table"]].batch):
        found.append(f"batch norm of {seen} images")
    return found
