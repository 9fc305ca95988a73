"""LVIS by the package lvis, with the average precision of each class."""

import math

from detectron2.evaluation import LVISEvaluator


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
