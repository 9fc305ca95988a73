"""hotcoco (optional) in the place of pycocotools: it computes, and is checked against pycocotools on every use.

pycocotools stays the default and the judge: on a sample of the images all summary metrics of both
must agree.
"""

import contextlib
import importlib
import io
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
from detectron2.evaluation import coco_evaluation
from pycocotools.cocoeval import COCOeval

from pretrain.common.errors import UserError, refuse

EVALUATORS = ("pycocotools", "hotcoco")
SAMPLE = 50  # images of the check, spread evenly; all when there are fewer
TOLERANCE = 1e-9  # of a metric 0..1
PAYLOAD = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
BOXES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KEYPOINTS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


def require() -> ModuleType:
    """The hotcoco module, or `UserError`."""
    try:
        return importlib.import_module("hotcoco")
    except ImportError:
        raise UserError('--evaluator hotcoco: the package hotcoco is not installed; run `pip install "hotcoco>=1.3"`, '
                        "or leave the option out") from None


def chosen(name: str, task: str, official: str) -> str:
    """Whose code computes the metrics of `task` with --evaluator `name`: the `official` one's, but
    for pycocotools.

    Raises `UserError` when `name` cannot stand in for the official one, or is not there.
    """
    if name == "hotcoco":
        refuse((official != "pycocotools",
                f"--evaluator hotcoco: the metrics of {task} come from {official} alone; leave it "
                "out"))
        require()
    return name if official == "pycocotools" else official


class CheckedCOCOeval(COCOeval):
    """pycocotools' class with hotcoco's matching and accumulation; `UserError` where the two differ
    on the sample."""

    def evaluate(self) -> None:
        """Nothing yet: hotcoco does both in `accumulate`."""

    def accumulate(self, p: Any = None) -> None:
        """Precision and recall over all images, after the check on the sample."""
        self.check()
        self.eval = self._fast(list(self.params.imgIds)) | {"params": self.params}

    def check(self) -> None:
        """Compare every summary metric on the sample of the images; `UserError` for the first that
        differs."""
        images = np.array(sorted(self.params.imgIds))
        places = np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int)
        sample = images[places].tolist()
        plain, fast = self._on(sample), self._on(sample)
        fast.eval = self._fast(sample) | {"params": fast.params}
        with contextlib.redirect_stdout(io.StringIO()):
            plain.evaluate()
            plain.accumulate()
            plain.summarize()
            fast.summarize()
        names = KEYPOINTS if self.params.iouType == "keypoints" else BOXES
        for name, expected, found in zip(names, plain.stats, fast.stats, strict=True):
            refuse((not abs(expected - found) <= TOLERANCE,
                    f"hotcoco differs from pycocotools on {len(sample)} images: "
                    f"{self.params.iouType} {name} is {float(found)!r}, expected "
                    f"{float(expected)!r}; evaluate with --evaluator pycocotools"))

    def _on(self, images: list[int]) -> COCOeval:
        """pycocotools' own evaluation on `images`."""
        plain = COCOeval(self.cocoGt, self.cocoDt, self.params.iouType)
        plain.params.imgIds, plain.params.maxDets = images, self.params.maxDets
        if self.params.iouType == "keypoints":
            plain.params.kpt_oks_sigmas = self.params.kpt_oks_sigmas
        return plain

    def _fast(self, images: list[int]) -> dict[str, Any]:
        """precision [T, R, K, A, M], recall [T, K, A, M] and scores of hotcoco on `images`."""
        hotcoco = require()
        keys, wanted = ("image_id", "category_id", "score", PAYLOAD[self.params.iouType]), set(images)
        results = []
        for row in self.cocoDt.dataset["annotations"]:
            if row["image_id"] in wanted:
                results.append({key: row[key] for key in keys})
        if not results:  # nothing for hotcoco to load
            empty = self._on(images)
            with contextlib.redirect_stdout(io.StringIO()):
                empty.evaluate()
                empty.accumulate()
            return empty.eval
        truth = hotcoco.COCO(self.cocoGt.dataset)
        fast = hotcoco.COCOeval(truth, truth.load_res(results), self.params.iouType)
        fast.params.imgIds, fast.params.maxDets = sorted(images), list(self.params.maxDets)
        if self.params.iouType == "keypoints":
            fast.params.kpt_oks_sigmas = np.array(self.params.kpt_oks_sigmas).tolist()
        fast.evaluate()
        fast.accumulate()
        return {name: np.asarray(fast.eval[name]) for name in ("precision", "recall", "scores")}


def evaluator(name: str) -> contextlib.AbstractContextManager:
    """Inside, detectron2's COCO evaluator computes with `name`, one of EVALUATORS."""
    if name == "pycocotools":
        return contextlib.nullcontext()
    require()
    return mock.patch.object(coco_evaluation, "COCOeval", CheckedCOCOeval)
