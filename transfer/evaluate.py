"""Metrics of a model on a validation set, under the names that the tables use, in percent.

COCO boxes, masks and keypoints by pycocotools, Cityscapes instances by cityscapesscripts, LVIS by lvis: the official
code each time, never detectron2's faster re-implementation. VOC by detectron2's own code, as in the literature.
hotcoco computes where it is asked for: see `fast_coco`.
"""

import contextlib
import io
import itertools
import logging
import math

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    COCOEvaluator,
    DatasetEvaluator,
    LVISEvaluator,
    inference_on_dataset,
)
from torch import nn

from pretrain.errors import UserError
from transfer import fast_coco
from transfer.voc_evaluation import VocEvaluator

TABLES = {
    "coco": "coco_detection_segmentation",
    "coco-c4": "coco_detection_segmentation_c4",
    "keypoints": "coco_keypoints",
    "cityscapes": "cityscapes_instance_segmentation",
    "voc": "voc_detection",
    "lvis": "lvis_detection_segmentation",
}
# Whose code computes the figures; hotcoco may stand in for pycocotools alone.
OFFICIAL = {"coco": "pycocotools", "coco-c4": "pycocotools", "keypoints": "pycocotools",
            "cityscapes": "cityscapesscripts", "voc": "detectron2", "lvis": "lvis"}
# {name in the tables: (evaluator's group, evaluator's name)}
BOX_AND_MASK = {f"{metric}_{short}": (group, metric) for (group, short), metric
                in itertools.product((("bbox", "bb"), ("segm", "mb")), ("AP", "AP50", "AP75"))}
METRICS = {
    "coco": BOX_AND_MASK,
    "coco-c4": BOX_AND_MASK,
    "keypoints": {f"{metric}_kp": ("keypoints", metric) for metric in ("AP", "AP50", "AP75")},
    "cityscapes": {"AP": ("segm", "AP"), "AP50": ("segm", "AP50")},
    "voc": {metric: ("bbox", metric) for metric in ("AP", "AP50", "AP75")},
    "lvis": BOX_AND_MASK,
}
GROUPS = {"coco": ("bbox", "segm"), "coco-c4": ("bbox", "segm"), "keypoints": ("bbox", "keypoints")}


class CityscapesEvaluator(CityscapesInstanceEvaluator):
    """detectron2's Cityscapes evaluator that also keeps the figures of each class, which it throws away."""

    def evaluate(self) -> dict | None:
        import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as official

        kept = {}
        evaluate_all = official.evaluateImgLists

        def evaluate_and_keep(*arguments: object) -> dict:
            kept.update(evaluate_all(*arguments))
            return kept

        official.evaluateImgLists = evaluate_and_keep
        try:
            results = super().evaluate()
        finally:
            official.evaluateImgLists = evaluate_all
        if results is not None:
            for name, figures in kept["averages"]["classes"].items():
                results["segm"][f"AP-{name}"] = 100 * figures["ap"]
                results["segm"][f"AP50-{name}"] = 100 * figures["ap50%"]
        return results


class LvisClassEvaluator(LVISEvaluator):
    """detectron2's LVIS evaluator that also gives the AP of each class, which lvis leaves in its arrays."""

    def evaluate(self) -> dict | None:
        import lvis

        kept = {}
        official = lvis.LVISEval

        class Keeping(official):
            def __init__(self, truth: object, found: object, iou_type: str) -> None:
                super().__init__(truth, found, iou_type)
                kept[iou_type] = self

        lvis.LVISEval = Keeping
        try:
            results = super().evaluate()
        finally:
            lvis.LVISEval = official
        for group, evaluation in kept.items():
            precision = evaluation.eval["precision"]  # (IoU, recall, class, size); -1: no such object
            for number, identity in enumerate(evaluation.params.cat_ids):
                of_class = precision[:, :, number, 0]
                of_class = of_class[of_class > -1]
                name = evaluation.lvis_gt.cats[identity]["name"]
                results[group][f"AP-{name}"] = 100 * float(of_class.mean()) if of_class.size else math.nan
        return results


def build_evaluator(task: str, dataset_name: str, oks_sigmas: tuple[float, ...] = ()) -> DatasetEvaluator:
    """The evaluator of `task` on a registered dataset."""
    if task == "cityscapes":
        return CityscapesEvaluator(dataset_name)
    if task == "voc":
        return VocEvaluator(dataset_name)
    if task == "lvis":
        return LvisClassEvaluator(dataset_name, tasks=("bbox", "segm"))
    return COCOEvaluator(dataset_name, tasks=GROUPS[task], use_fast_impl=False, kpt_oks_sigmas=oks_sigmas)


class NamingMapper:
    """detectron2's mapper for evaluation that names an image it cannot read: none may be left out of a figure."""

    def __init__(self, cfg: CfgNode) -> None:
        self.mapper = DatasetMapper(cfg, is_train=False)

    def __call__(self, record: dict) -> dict:
        """The mapped record, or `UserError`."""
        try:
            return self.mapper(record)
        except (OSError, SyntaxError, SizeMismatchError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{record['file_name']} cannot be read ({reason}): every validation image counts, replace "
                            "it and start again") from None


def evaluate(model: nn.Module, cfg: CfgNode, task: str, evaluator_name: str = "pycocotools",
             before: DatasetEvaluator | None = None) -> dict[str, float | None]:
    """Run `model` over the validation set of `cfg`; returns everything that the evaluator gives, see `all_metrics`.

    `evaluator_name`: one of `fast_coco.EVALUATORS`, for the COCO tasks. `before` sees the same predictions, before
    the evaluator does, and has no figures of its own (`predictions.Keeper`).

    With several processes each takes its share; the metrics come back on the first one, the others get nothing.
    What the official code prints goes to the log.
    """
    name = cfg.DATASETS.TEST[0]
    evaluator = build_evaluator(task, name, tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS))
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
    return {column: metrics.get(f"{group}/{name}") for column, (group, name) in METRICS[task].items()}


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
