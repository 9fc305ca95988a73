"""Metrics of a model on a validation set, in percent: those of the task's own evaluator, all of
them.

The official code computes them; for COCO's tasks hotcoco does where it is asked for, see
`fast_coco`.
"""

import contextlib
import functools
import io
import logging
import math

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from torch import nn

from pretrain.common.errors import UserError
from pretrain.data.loader_processes import deadline
from transfer import tasks
from transfer.data.dataset import Dataset
from transfer.evaluators import fast_coco
from transfer.finetuning.mapper import UNUSABLE, Mapper


def mapped(mapper: Mapper, record: dict) -> dict:
    """The mapped record; `UserError` naming an image that cannot be read."""
    try:
        return mapper(record)
    except UNUSABLE as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{record['file_name']} cannot be read ({reason}): no image is left out here, "
                        "replace it and start again") from None


def evaluate(
    model: nn.Module, cfg: CfgNode, dataset: Dataset, evaluator_name: str = "pycocotools",
    before: DatasetEvaluator | None = None,
) -> dict[str, float | None]:
    """Run `model` over the validation set of `dataset`, which is registered; returns `all_metrics`.

    `evaluator_name`: one of `fast_coco.EVALUATORS`, for COCO's tasks. `before` sees the predictions
    before the evaluator does, and has no metrics of its own (`predictions.Keeper`).
    With several processes each takes its share; the metrics come back on the first one, the others
    get nothing. What the official code prints goes to the log.
    """
    name = dataset.name("val")
    evaluator = tasks.get(dataset.task).evaluator(dataset, cfg)
    evaluators = [before, evaluator] if before else [evaluator]
    mapper = functools.partial(mapped, Mapper(cfg, is_train=False))
    loader = build_detection_test_loader(cfg, name, mapper=mapper)
    loader.timeout = deadline(loader.num_workers)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), fast_coco.evaluator(evaluator_name):
        raw = inference_on_dataset(model, loader, evaluators)
    logging.getLogger("detectron2").info("evaluation of %s:\n%s", name, printed.getvalue())
    return all_metrics(raw)


def all_metrics(raw: dict[str, dict[str, float]]) -> dict[str, float | None]:
    """Everything that an evaluator gives, {"bbox/AP": percent or None, ...}, also by size and
    class.

    Undefined metrics (NaN, or -1: no ground truth of that kind) are None. A model without a
    single detection has an average precision of 0: detectron2 reports NaN for all metrics then,
    and datasets without ground truth were refused before.
    """
    metrics = {}
    for group, values in raw.items():
        if all(map(math.isnan, values.values())):  # nothing detected
            values = {**values, **dict.fromkeys(values.keys() & {"AP", "AP50", "AP75"}, 0.0)}
        for name, value in values.items():
            metrics[f"{group}/{name}"] = percent(value)
    return metrics


def columns(task: str, metrics: dict[str, float | None]) -> dict[str, float | None]:
    """The columns of the task's table, {"AP_bb": percent or None, ...}; None: not measured."""
    return {column.name: metrics.get(column.metric) for column in tasks.get(task).columns}


def in_words(task: str, metrics: dict[str, float | None]) -> str:
    """The task's columns in one line."""
    parts = []
    for name, value in columns(task, metrics).items():
        parts.append(f"{name} -" if value is None else f"{name} {value:.1f}")
    return ", ".join(parts)


def percent(value: float | None) -> float | None:
    """A metric in percent as it is recorded: None when undefined."""
    if value is None or math.isnan(value) or value < 0:
        return None
    return float(value)
