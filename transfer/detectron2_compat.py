"""Every work-around that detectron2 and its libraries need, in one place, each with a reason and a test.

Call `apply()` once before anything of detectron2 is used, and `import_lvis()` for lvis, which is
optional and slow to import; calling them again changes nothing. No work-around changes a result:
where the old code ran, it gives what it gave.

Two things need no work-around and are kept that way by a test. `detectron2.model_zoo` imports
pkg_resources, which setuptools 81 removed: this package has its own configs and never imports the
model zoo. The compiled extension `detectron2._C` may be missing: Mask R-CNN, Keypoint R-CNN, COCO
and Cityscapes run without it (`use_fast_impl` off).
"""

import contextlib
import importlib
import importlib.util
import json
import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np

INTERNAL = "deeplearning.projects.cityscapesApi.cityscapesscripts"
CITYSCAPES_EVAL = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
_LABELS = "cityscapesscripts.helpers.labels"


def apply() -> None:
    """Put every work-around in place. Without cityscapesscripts those of Cityscapes are left
    out."""
    # detectron2 asks torch whether it is being traced, and torch warns that the question is
    # ambiguous.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    if importlib.util.find_spec("cityscapesscripts") is None:
        return
    alias_internal_cityscapes()
    repair_cityscapes_evaluation()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, no program warns in the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def alias_internal_cityscapes() -> None:
    """Make `deeplearning.projects.cityscapesApi.cityscapesscripts...` name the public
    cityscapesscripts modules.

    Upstream commits of detectron2 from 2024-12-19 on import Cityscapes by that path, which exists
    inside Meta only (facebookresearch/detectron2 issue 5436), and only after the training.
    """
    if INTERNAL in sys.modules:
        return
    parts = INTERNAL.split(".")
    for depth in range(1, len(parts)):
        package = types.ModuleType(".".join(parts[:depth]))
        package.__path__ = []  # it may have submodules
        sys.modules.setdefault(package.__name__, package)
    for name in ("cityscapesscripts", "cityscapesscripts.helpers", _LABELS, "cityscapesscripts.evaluation",
                 CITYSCAPES_EVAL):
        sys.modules[INTERNAL + name.removeprefix("cityscapesscripts")] = importlib.import_module(name)


def _numpy_with(**old: object) -> types.SimpleNamespace:
    """numpy as one module sees it, with what newer ones removed; numpy itself is left alone."""
    return types.SimpleNamespace(**{**vars(np), **old})


def _in1d(values: np.ndarray, wanted: list[int]) -> np.ndarray:
    """Flat boolean array: which of `values` are in `wanted`."""
    return np.isin(np.ravel(values), wanted)


def _cumsum(values: np.ndarray) -> np.ndarray:
    """`numpy.cumsum`; (1,) zero for no values: no detection counts, so none is true."""
    return np.cumsum(values) if len(values) else np.zeros(1)


def _write_json(content: dict, path: str) -> None:
    """cityscapesscripts' `writeDict2JSON` that knows numpy numbers and leaves the working folder
    alone."""
    if not Path(path).is_absolute():
        return  # matches.json, a debugging aid that would be written into the current folder
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, default=lambda number: number.item(), sort_keys=True)


def repair_cityscapes_evaluation() -> None:
    """Let cityscapesscripts 2.3.0 evaluate instances on today's numpy, quietly.

    It calls `np.in1d`, which numpy 2.4 removed; it gives json the numpy integers that
    `np.count_nonzero` returns since numpy 2.4; it writes matches.json into the current folder and
    prints its progress. Where all detections of a class lie on regions that are ignored (groups,
    void) and none counts, it takes the last of no values, an IndexError; with a zero there the rest
    of its code gives the class the AP 0 that a class without a detection has.
    """
    module = importlib.import_module(CITYSCAPES_EVAL)
    module.args.quiet = True
    module.np = _numpy_with(in1d=_in1d, cumsum=_cumsum)
    module.writeDict2JSON = _write_json


def import_lvis() -> None:
    """Import lvis 0.5.3 so that it evaluates on today's numpy, quietly; ImportError without it.

    It calls `np.float`, which numpy 1.24 removed. On import it gives the whole program a log
    handler that writes to the screen, and its own classes warn at every use.
    """
    handlers = list(logging.root.handlers)
    module = importlib.import_module("lvis.eval")
    for handler in set(logging.root.handlers) - set(handlers):
        logging.root.removeHandler(handler)
    logging.getLogger(module.__package__).setLevel(logging.ERROR)
    if not hasattr(np, "float"):
        module.np = _numpy_with(float=float)
