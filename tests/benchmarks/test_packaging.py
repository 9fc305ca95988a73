"""What pyproject.toml, the pins and environment.py say of the same packages and Pythons agrees."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks import environment, install

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pinned() -> dict[str, str]:
    """Distribution -> version, from constraints.txt."""
    lines = [line.split("#")[0].split(";")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return dict(line.split("==") for line in lines if line)


def test_lists__pyproject_says_what_environment_checks():
    assert PROJECT["dependencies"] == [name + ranges for name, (_, ranges) in environment.REQUIRED.items()]
    assert PROJECT["optional-dependencies"]["test"] == [name + ranges for name, (_, ranges) in environment.TEST.items()]


def test_constraints__pin_every_dependency_inside_its_range():
    pins = pinned()
    wanted = {**environment.REQUIRED, **environment.TEST, "cityscapesscripts": environment.APART["cityscapesscripts"]}
    assert {name for name in wanted if name not in pins} == set()
    assert [name for name, (_, ranges) in wanted.items() if not environment.accepted(pins[name], ranges)] == []


def test_constraints__pin_setuptools_that_still_has_pkg_resources():
    assert environment.accepted(pinned()["setuptools"], ">=77,<81")  # torch needs 77; 81 dropped pkg_resources


def test_detectron2__is_pinned_with_its_hash():
    lines = [line for line in (ROOT / "detectron2-requirements.txt").read_text().splitlines() if line[:1] != "#"]
    assert len(lines) == 1 and re.fullmatch(r"sal-detectron2==0\.7\.2 --hash=sha256:[0-9a-f]{64}", lines[0])


def test_python_versions__are_the_same_everywhere():
    minors = range(install.OLDEST[1], install.NEWEST[1] + 1)
    assert PROJECT["requires-python"] == f">=3.{minors[0]},<3.{minors[-1] + 1}"
    named = [line for line in PROJECT["classifiers"] if re.search(r"3\.\d+$", line)]
    assert [line.rsplit(".", 1)[1] for line in named] == [str(minor) for minor in minors]


@pytest.mark.parametrize("name", ["environment.py", "install.py"])
def test_sources__old_python_can_read_them_and_the_standard_library_is_enough(name: str):
    tree = ast.parse((ROOT / "benchmarks" / name).read_text(encoding="utf-8"), feature_version=(3, 8))
    assert isinstance(tree.body[1], ast.ImportFrom) and tree.body[1].module == "__future__"
    imported = {alias.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module.split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) <= {"benchmarks"}
