"""What a result must match to stand in its task's published table, and what its columns are of its metrics.

Standard library only. The tables themselves are the tasks' (`transfer.tasks`). Here is what all of
them share: a smaller batch with as many more iterations sees the same images and counts as the same
schedule, and the learning rate follows the linear rule, 0.02 per 16 images.
"""

import math

from pretrain.common.architectures import STANDARD
from pretrain.common.fields import is_number
from transfer.tasks import TASKS, VARIABLE, Task

LEARNING_RATE_PER_IMAGE = 0.02 / 16
LARGEST = 1e100  # batch and learning rate
# What transfer's evaluation of somebody's model file records.
EVALUATION, UNKNOWN_INIT = "evaluation", "not known"
# Configuration that differs between trials, machines and folders without changing what is measured. Data and starting
# weights are compared by their hashes instead of their places.
WITHOUT_EFFECT = {"SEED", "VERSION", "OUTPUT_DIR", "CUDNN_BENCHMARK", "VIS_PERIOD", "DATALOADER.NUM_WORKERS",
                  "DATASETS.TRAIN", "DATASETS.TEST", "MODEL.DEVICE", "MODEL.WEIGHTS", "SOLVER.CHECKPOINT_PERIOD",
                  "TEST.EVAL_PERIOD"}
# What a smaller batch must change; `departures` checks the outcome instead.
SCHEDULE = {"SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS"}


def by_table() -> dict[str, Task]:
    """The task of each table, by the table's name, in the order in which the tables are shown."""
    return {task.table.name: task for task in TASKS.values()}


def unknown_task(name: str) -> str:
    """Why what belongs to another task than those of this installation is left out, in one line."""
    return (f"its task {name} is not known here: expected one of {', '.join(TASKS)}; set {VARIABLE} to the file that "
            "defines it")


def unknown_table(name: str) -> str:
    """The same of a table."""
    return (f"table {name} is not known here: expected one of {', '.join(by_table())}; set {VARIABLE} to the file "
            "that defines its task")


def column_names(task: Task) -> tuple[str, ...]:
    """The columns of a task's table in their order."""
    return tuple(column.name for column in task.columns)


def main_columns(task: Task) -> tuple[str, ...]:
    """The column that each kind of metric (boxes, masks, keypoints) is judged by: the first of its
    group."""
    first: dict[str, str] = {}
    for column in task.columns:
        first.setdefault(column.group, column.name)
    return tuple(first.values())


def shown(result: dict) -> dict[str, float | None]:
    """The columns of a (valid) result's table, in percent: a view of its metrics. None for what it
    has no metric of."""
    metrics = result["metrics"]
    return {column.name: metrics.get(column.metric) for column in TASKS[result["task"]].columns}


def train_share(result: dict) -> float:
    """The share of the training images that a (valid) result was fine-tuned on."""
    share = result["dataset"].get("train_share")
    return 1.0 if share is None else share["share"]


def on_standard_data(result: dict) -> bool:
    """Whether a (valid) result was trained and evaluated on its table's standard dataset, judged by
    its counts."""
    table, data = TASKS[result["task"]].table, result["dataset"]
    return (len(data["classes"]) == table.classes and data["val"]["images"] == table.val_images
            and data["train"]["images"] >= table.train_images and train_share(result) == 1.0)


def departures(result: dict) -> list[str]:
    """What separates a (valid) result from its table's protocol, apart from the data; empty:
    nothing."""
    task, found = TASKS[result["task"]], []
    solver = result["config"].get("SOLVER")
    if not isinstance(solver, dict):
        solver = {}
    batch = solver.get("IMS_PER_BATCH", task.table.batch)
    rate = solver.get("BASE_LR", LEARNING_RATE_PER_IMAGE * task.table.batch)
    if not is_number(batch, -LARGEST, LARGEST) or not is_number(rate, -LARGEST, LARGEST):
        return ["batch or learning rate unknown"]
    if result["scale"] != "full":
        found.append(f"scale {result['scale']}")
    if result["iterations"] * batch != task.iterations * task.table.batch:
        found.append(f"{result['iterations']} iterations of {batch} images")
    if result.get("solver", "common") != "common":
        found.append(f"solver {result['solver']}")
    elif not math.isclose(rate, LEARNING_RATE_PER_IMAGE * batch, rel_tol=0.01):
        found.append(f"learning rate {rate:g}")
    if result["weights"]["architecture"] != STANDARD:
        found.append(f"{result['weights']['architecture']}, not the paper's network")
    if result.get("kind") == EVALUATION and result["weights"].get("init") == UNKNOWN_INIT:
        found.append("a model file whose training is not known")
    for override in result.get("overrides", []):
        if override.partition("=")[0].strip() not in WITHOUT_EFFECT | SCHEDULE:
            found.append(override)
    return found


def remarks(result: dict) -> list[str]:
    """What is the protocol's in the images seen but not in how they went through the network, for
    the row's footnote.

    Smaller batches by the linear rule, or gradients accumulated over pieces of the batch: both
    leave batch norm fewer images than the protocol's batch. A result of before these were recorded
    has none.
    """
    found, at_once = [], result.get("images_at_once")
    if result.get("fit") == "accumulate":
        found.append(f"gradients accumulated, {at_once} images at once")
    elif result.get("fit") == "linear":
        found.append(f"batches of {at_once} by the linear rule")
    seen = result.get("batch_norm_images")
    if result["scale"] == "full" and seen not in (None, TASKS[result["task"]].table.batch):
        found.append(f"batch norm of {seen} images")
    return found
