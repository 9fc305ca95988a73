"""Each work-around does what it says, and no more."""

import copy
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from transfer import detectron2_compat

EVAL = detectron2_compat.CITYSCAPES_EVAL


@pytest.fixture
def evaluation() -> ModuleType:
    """cityscapesscripts' evaluation of instances, with the work-arounds in place."""
    detectron2_compat.apply()
    return importlib.import_module(EVAL)


def test_apply__twice_is_as_once(evaluation: ModuleType) -> None:
    first = (evaluation.writeDict2JSON, sys.modules.get(detectron2_compat.INTERNAL), evaluation.args.quiet)
    detectron2_compat.apply()
    assert (evaluation.writeDict2JSON, sys.modules.get(detectron2_compat.INTERNAL), evaluation.args.quiet) == first
    assert evaluation.args.quiet


def test_apply__leaves_numpy_itself_alone() -> None:
    before = set(dir(np))
    detectron2_compat.apply()
    assert set(dir(np)) == before


def test_repair__in1d_is_numpys_old_one(evaluation: ModuleType) -> None:
    values = np.array([[1, 2], [3, 4]])
    assert evaluation.np.in1d(values, [2, 4]).tolist() == [False, True, False, True]  # flat, as numpy 2.3 gave it
    assert evaluation.np.arange is np.arange


def test_repair__numpy_integers_become_json(evaluation: ModuleType, tmp_path: Path) -> None:
    evaluation.writeDict2JSON({"pixels": np.int64(3), "share": np.float64(0.5)}, str(tmp_path / "gt.json"))
    assert json.loads((tmp_path / "gt.json").read_text()) == {"pixels": 3, "share": 0.5}


def test_repair__no_file_in_the_current_folder(evaluation: ModuleType, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evaluation.writeDict2JSON({"a": 1}, "matches.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("scores", "expected"), [((), 0.0), ((0.9,), 1.0)])
def test_repair__a_class_whose_detections_all_lie_on_ignored_regions_has_the_ap_0(
        evaluation: ModuleType, scores: tuple[float, ...], expected: float) -> None:
    # One car, one detection of a group of cars alone; in the second case one more, of the car.
    found = [{"matchedGt": [{"instID": 26, "intersection": 100, "pixelCount": 400, "medDist": -1, "distConf": 0.0}],
              "pixelCount": 100, "confidence": 0.8, "voidIntersection": 0}]
    car = {"instID": 26_000, "pixelCount": 100, "medDist": -1, "distConf": 0.0, "matchedPred": []}
    for score in scores:
        overlap = {"intersection": 100, "pixelCount": 100}
        car["matchedPred"].append({**overlap, "confidence": score})
        found.append({**overlap, "matchedGt": [{**car, **overlap}], "confidence": score, "voidIntersection": 0})
    matches = {"image": {"prediction": {"car": found}, "groundTruth": {"car": [car]}}}
    arguments = copy.copy(evaluation.args)
    arguments.instLabels, arguments.distanceAvailable = ["car"], False
    assert (evaluation.evaluateMatches(matches, arguments) == expected).all()


def test_alias__internal_path_is_the_public_module() -> None:
    # In a process of its own: the alias would stay in this one.
    code = (
        "from transfer import detectron2_compat as c; c.apply()\n"
        "import deeplearning.projects.cityscapesApi.cityscapesscripts.evaluation."
        "evalInstanceLevelSemanticLabeling as internal\n"
        "from deeplearning.projects.cityscapesApi.cityscapesscripts.helpers.labels import name2label\n"
        f"import {EVAL} as public\n"
        "print(internal is public, name2label['car'].id)"
    )
    root = Path(detectron2_compat.__file__).parent.parent
    shown = subprocess.run([sys.executable, "-P", "-c", code], env={"PYTHONPATH": str(root)}, capture_output=True,
                           text=True, check=True)
    assert shown.stdout.split() == ["True", "26"]


@pytest.mark.slow
def test_imports__need_no_model_zoo_and_no_pkg_resources() -> None:
    code = ("import sys; from transfer import detectron2_compat; from transfer.conversion import convert\n"
            "from transfer.finetuning import finetune; detectron2_compat.apply()\n"
            "print([name for name in ('detectron2.model_zoo', 'pkg_resources') if name in sys.modules])")
    root = Path(detectron2_compat.__file__).parent.parent
    shown = subprocess.run([sys.executable, "-P", "-c", code], env={"PYTHONPATH": str(root)}, capture_output=True,
                           text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_import_lvis__numpys_old_float_and_no_handler_for_the_whole_program() -> None:
    pytest.importorskip("lvis", reason="task lvis needs the package lvis: pip install --no-deps lvis")
    code = ("import logging, numpy; from transfer import detectron2_compat; detectron2_compat.import_lvis();"
            "import lvis.eval; print(logging.root.handlers, lvis.eval.np.float is float, hasattr(numpy, 'float'));"
            "logging.getLogger('lvis.results').warning('noise')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True False\n" and "noise" not in done.stderr
