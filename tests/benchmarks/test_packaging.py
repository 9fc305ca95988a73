"""What pyproject.toml, the pins, docs/install.md and environment.py say of the same packages and Pythons agrees."""

import ast
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from benchmarks import environment

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pinned() -> dict[str, str]:
    """Distribution -> version, from constraints.txt."""
    lines = [line.split("#")[0].split(";")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return dict(line.split("==") for line in lines if line)


def test_constraints__pin_every_dependency_inside_its_range():
    pins = pinned()
    wanted = {one.name: one.specifier for one in map(Requirement, environment.wanted(with_tests=True))}
    del wanted["detectron2"]
    assert {name for name in wanted if name not in pins} == set()
    assert [name for name, ranges in wanted.items() if not ranges.contains(pins[name])] == []


def test_install_page__has_the_commands_that_environment_runs():
    page = " ".join((ROOT / "docs" / "install.md").read_text(encoding="utf-8").replace("\\\n", " ").split())
    for words in ("-c constraints.txt torch torchvision setuptools wheel", "--no-build-isolation -e '.[test]'",
                  "--no-deps cityscapesscripts lvis", "--require-hashes --no-deps --only-binary=:all: "
                  "--python-version 3.10 --implementation cp --abi none", "-r detectron2-requirements.txt"):
        assert words in page, words


def test_constraints__pin_setuptools_that_still_has_pkg_resources():
    assert SpecifierSet(">=77,<81").contains(pinned()["setuptools"])  # torch needs 77; 81 dropped pkg_resources


def test_detectron2__is_pinned_with_its_hash():
    lines = [line for line in (ROOT / "detectron2-requirements.txt").read_text().splitlines() if line[:1] != "#"]
    assert len(lines) == 1 and re.fullmatch(r"sal-detectron2==0\.7\.2 --hash=sha256:[0-9a-f]{64}", lines[0])


def test_python_versions__are_the_same_everywhere():
    minors = range(environment.OLDEST[1], environment.NEWEST[1] + 1)
    assert PROJECT["requires-python"] == f">=3.{minors[0]},<3.{minors[-1] + 1}"
    named = [line for line in PROJECT["classifiers"] if re.search(r"3\.\d+$", line)]
    assert [line.rsplit(".", 1)[1] for line in named] == [str(minor) for minor in minors]


def test_sources__old_python_can_read_them_and_the_standard_library_is_enough():
    tree = ast.parse((ROOT / "benchmarks" / "environment.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    assert isinstance(tree.body[1], ast.ImportFrom) and tree.body[1].module == "__future__"
    imported = {alias.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module.split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert imported <= set(sys.stdlib_module_names)
