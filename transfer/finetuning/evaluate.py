"""Metrics of a model on a validation set, in percent: those of the task's own evaluator, all of them.

The official code computes each time. hotcoco computes in the place of pycocotools where it is asked for: see
`fast_coco`.
"""

import contextlib
import io
import logging
import math

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from torch import nn

from pretrain.common.errors import UserError
from transfer import tasks
from transfer.data.dataset import Dataset
from transfer.evaluators import fast_coco
from transfer.finetuning.mapper import UNUSABLE, Mapper


class NamingMapper:
    """detectron2's mapper for evaluation that names an image it cannot read: none may be left out of a figure."""

    def __init__(self, cfg: CfgNode) -> None:
        self.mapper = Mapper(cfg, is_train=False)

    def __call__(self, record: dict) -> dict:
        """The mapped record, or `UserError`."""
        try:
            return self.mapper(record)
        except UNUSABLE as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{record['file_name']} cannot be read ({reason}): every validation image counts, replace "
                            "it and start again") from None


def evaluate(model: nn.Module, cfg: CfgNode, dataset: Dataset, evaluator_name: str = "pycocotools",
             before: DatasetEvaluator | None = None) -> dict[str, float | None]:
    """Run `model` over the validation set of `dataset`, which is registered; returns everything that the evaluator
    gives, see `all_metrics`.

    `evaluator_name`: one of `fast_coco.EVALUATORS`, for the COCO tasks. `before` sees the same predictions, before
    the evaluator does, and has no figures of its own (`predictions.Keeper`).

    With several processes each takes its share; the metrics come back on the first one, the others get nothing.
    What the official code prints goes to the log.
    """
    name = dataset.name("val")
    evaluator = tasks.get(dataset.task).evaluator(dataset, cfg)
    loader = build_detection_test_loader(cfg, name, mapper=NamingMapper(cfg))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), fast_coco.evaluator(evaluator_name):
        raw = inference_on_dataset(model, loader, [*([before] if before else []), evaluator])
    logging.getLogger("detectron2").info("evaluation of %s:\n%s", name, printed.getvalue())
    return all_metrics(raw)


def all_metrics(raw: dict[str, dict[str, float]]) -> dict[str, float | None]:
    """Everything that an evaluator gives, {"bbox/AP": percent or None, ...}: also sizes, classes, boxes of persons.

    Undefined metrics (NaN, or -1: no ground truth of that kind) are None. No detection at all is not undefined:
    detectron2 reports NaN for it, the average precision is 0.
    """
    metrics = {}
    for group, values in raw.items():
        for name, value in _zero_without_detections(values).items():
            metrics[f"{group}/{name}"] = percent(value)
    return metrics


def columns(task: str, metrics: dict[str, float | None]) -> dict[str, float | None]:
    """The columns of the task's table, {"AP_bb": percent or None, ...}; those that were not measured are None."""
    return {column.name: metrics.get(column.metric) for column in tasks.get(task).columns}


def _zero_without_detections(figures: dict[str, float]) -> dict[str, float]:
    """All NaN means that nothing was detected: datasets without ground truth are refused before they come here."""
    if all(math.isnan(value) for value in figures.values()):
        return {name: 0.0 if name in ("AP", "AP50", "AP75") else value for name, value in figures.items()}
    return figures


def in_words(task: str, metrics: dict[str, float | None]) -> str:
    """The task's columns in one line."""
    parts = []
    for name, value in columns(task, metrics).items():
        parts.append(f"{name} -" if value is None else f"{name} {value:.1f}")
    return ", ".join(parts)


def percent(value: float | None) -> float | None:
    """A figure in percent as it is recorded: None when undefined."""
    if value is None or math.isnan(value) or value < 0:
        return None
    return float(value)
