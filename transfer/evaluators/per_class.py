"""The official evaluators of Cityscapes, LVIS and Pascal VOC, with the metrics of each class, which they throw away.

VOC is detectron2's `voc_eval` on voc_2007_test: the metrics of 2007's test set take the 11-point
metric of that year, as those of MoCo, PixPro and DenseCL do. Classes without an object to find are
left out of the means instead of counting as 0; the real test set has all twenty.
"""

import math
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from unittest import mock

import numpy as np
from detectron2.evaluation import CityscapesInstanceEvaluator, LVISEvaluator, PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec, voc_eval
from detectron2.utils import comm

THRESHOLDS = range(50, 100, 5)  # percent of intersection over union


class CityscapesEvaluator(CityscapesInstanceEvaluator):
    """detectron2's Cityscapes evaluator that also keeps the metrics of each class, which it throws
    away."""

    def evaluate(self) -> dict | None:
        import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as official

        kept = {}
        evaluate_all = official.evaluateImgLists

        def evaluate_and_keep(*arguments: object) -> dict:
            kept.update(evaluate_all(*arguments))
            return kept

        with mock.patch.object(official, "evaluateImgLists", evaluate_and_keep):
            results = super().evaluate()
        if results is not None:
            for name, metrics in kept["averages"]["classes"].items():
                results["segm"][f"AP-{name}"] = 100 * metrics["ap"]
                results["segm"][f"AP50-{name}"] = 100 * metrics["ap50%"]
        return results


class LvisClassEvaluator(LVISEvaluator):
    """detectron2's LVIS evaluator that also gives the AP of each class, which lvis leaves in its
    arrays."""

    def evaluate(self) -> dict | None:
        import lvis

        kept = {}

        class Keeping(lvis.LVISEval):
            def __init__(self, truth: object, found: object, iou_type: str) -> None:
                super().__init__(truth, found, iou_type)
                kept[iou_type] = self

        with mock.patch.object(lvis, "LVISEval", Keeping):
            results = super().evaluate()
        for group, evaluation in kept.items():
            precision = evaluation.eval["precision"]  # (IoU, recall, class, size); -1: no such object
            for number, identity in enumerate(evaluation.params.cat_ids):
                of_class = precision[:, :, number, 0]
                of_class = of_class[of_class > -1]
                name = evaluation.lvis_gt.cats[identity]["name"]
                results[group][f"AP-{name}"] = 100 * float(of_class.mean()) if of_class.size else math.nan
        return results


class VocEvaluator(PascalVOCDetectionEvaluator):
    """detectron2's VOC evaluator that also returns AP-CLASS and AP50-CLASS, NaN for classes without
    objects."""

    def evaluate(self) -> dict | None:
        """{"bbox": metrics in percent} on the first process."""
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return None
        lines = defaultdict(list)
        for share in gathered:
            for number, found in share.items():
                lines[number] += found
        parse_rec.cache_clear()  # it knows files by name, for the whole life of the process
        aps = np.full((len(self._class_names), len(THRESHOLDS)), np.nan)
        present = set()  # classes with at least one object to find
        for name in Path(self._image_set_path).read_text(encoding="utf-8").split():
            for one in parse_rec(self._anno_file_template.format(name)):
                if not one["difficult"]:
                    present.add(one["name"])
        with tempfile.TemporaryDirectory(prefix="voc_") as folder, warnings.catch_warnings():
            # A loud empty mean of numpy where a class has no detection: its AP is 0.
            warnings.simplefilter("ignore", RuntimeWarning)
            for number, name in enumerate(self._class_names):
                if name not in present:
                    continue
                Path(folder, f"{name}.txt").write_text("\n".join(lines[number]), encoding="utf-8")
                for place, threshold in enumerate(THRESHOLDS):
                    *_, ap = voc_eval(f"{folder}/{{}}.txt", self._anno_file_template, self._image_set_path, name,
                                      ovthresh=threshold / 100, use_07_metric=self._is_2007)
                    aps[number, place] = 100 * ap
        metrics = {"AP": np.nanmean(aps), "AP50": np.nanmean(aps[:, 0]), "AP75": np.nanmean(aps[:, 5])}
        for kind, values in (("AP", aps.mean(1)), ("AP50", aps[:, 0])):
            for name, value in zip(self._class_names, values, strict=True):
                metrics[f"{kind}-{name}"] = value
        return {"bbox": {name: float(value) for name, value in metrics.items()}}
