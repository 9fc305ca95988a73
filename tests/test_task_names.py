"""Names of tasks, architectures and random starts are written in one file: whatever else depends on them asks it."""

import ast
from collections.abc import Collection
from pathlib import Path

import pytest

from pretrain.common.architectures import ARCHITECTURES
from transfer.settings.random_starts import PROBED_ZERO_GAMMA, RANDOM_STARTS
from transfer.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent
# (file, name): why it may stand there. It is the same text for another thing.
KEY, PART, GROUP = "a key of COCO's files", "a part that a dataset has", "pycocotools' name of a group of metrics"
LAYOUT = "the folder of a layout that the demo's data has, which tasks name"
ALLOWED = {
    ("transfer/annotations/agreement.py", "keypoints"): KEY,
    ("transfer/annotations/coco_json.py", "keypoints"): KEY,
    ("transfer/annotations/keypoint_names.py", "keypoints"): "what pycocotools calls its evaluation of them",
    ("transfer/annotations/plain_coco.py", "keypoints"): KEY,
    ("transfer/data/train_share.py", "keypoints"): "a key of detectron2's records",
    ("transfer/data/coco_layout.py", "keypoints"): PART,
    ("transfer/finetuning/training_images.py", "keypoints"): "a key of detectron2's records",
    ("transfer/evaluators/fast_coco.py", "keypoints"): GROUP,
    ("transfer/records/old_result.py", "keypoints"): GROUP,
    ("benchmarks/records/coco_results.py", "keypoints"): KEY,
    ("benchmarks/demo/figures.py", "keypoints"): KEY,
    ("benchmarks/demo/layouts.py", "coco"): LAYOUT,
    ("benchmarks/demo/layouts.py", "keypoints"): LAYOUT,
    ("benchmarks/demo/layouts.py", "cityscapes"): LAYOUT,
    ("benchmarks/demo/layouts.py", "voc"): LAYOUT,
    ("benchmarks/demo/layouts.py", "lvis"): LAYOUT,
    ("benchmarks/environment.py", "lvis"): "a package of that name",
    ("benchmarks/setup.py", "lvis"): "a package of that name",
}


def _texts(tree: ast.AST) -> list[ast.Constant]:
    """All text constants but docstrings."""
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(first.value)
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node for node in constants if node not in docstrings]


def literals(names: Collection[str] = tuple(TASKS)) -> dict[tuple[str, str], int]:
    """{(file, name): line} of the sources outside transfer/tasks."""
    found = {}
    for package in ("pretrain", "transfer", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.parent.name == "tasks":
                continue
            for node in _texts(ast.parse(path.read_text(encoding="utf-8"))):
                if node.value in names:
                    found[path.relative_to(ROOT).as_posix(), node.value] = node.lineno
    return found


def test_no_task_is_named_outside_its_file():
    more = {f"{file}:{line}: {name!r}" for (file, name), line in literals().items() if (file, name) not in ALLOWED}
    assert not more, "ask transfer.tasks instead, or add the reason to ALLOWED"


def test_every_allowance_is_still_needed():
    assert not set(ALLOWED) - set(literals())


def test_the_file_of_a_task_names_no_other_task_but_to_share_with_it():
    for path in sorted((ROOT / "transfer" / "tasks").glob("*.py")):
        names = {node.value for node in _texts(ast.parse(path.read_text(encoding="utf-8"))) if node.value in TASKS}
        assert len(names) <= 2, path.name  # its own, and a folder or layout that it shares


RANDOM = {name for start in RANDOM_STARTS for name in (start.row, start.weights, start.method)} | {PROBED_ZERO_GAMMA}
NO_FILE = "how weights are shown that have no SHA-256"


@pytest.mark.parametrize(("names", "home", "allowed"), [
    (set(ARCHITECTURES), "pretrain/common/architectures.py", {}),
    (RANDOM, "transfer/settings/random_starts.py", {
        ("benchmarks/formats/provenance_text.py", "random"): NO_FILE,
        ("benchmarks/tables/trial_groups.py", "random"): NO_FILE}),
], ids=["architectures", "random starts"])
def test_names_that_have_one_file(names: set[str], home: str, allowed: dict[tuple[str, str], str]) -> None:
    found = literals(names)
    assert {key for key in found if key[0] != home} == set(allowed)
    assert {name for file, name in found if file == home} == names
