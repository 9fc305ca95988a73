"""What README and docs say is what the code does: their commands parse, their links and their map are true."""

import argparse
import ast
import importlib
import itertools
import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import clove
from benchmarks.speed.__main__ import MODULES as PARTS
from pretrain.config import load_config

PROGRAMS = rf"(?:\./run_all\.sh|(?<![\w/.-])clove (?:{'|'.join(clove.COMMANDS)})(?= )|torchrun(?= --))"
ROOT = Path(__file__).resolve().parent.parent
TEXTS = [ROOT / "README.md", ROOT / "results" / "README.md",
         *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "code.md"),
         *sorted((ROOT / "pretrain" / "recipes").glob("*.yaml")), ROOT / "run_all.sh", ROOT / ".ci" / "run"]
SOURCES = sorted(path for package in ("pretrain", "transfer", "benchmarks") for path in (ROOT / package).rglob("*.py"))


def commands() -> list[tuple[str, list[str]]]:
    found = []
    for path in TEXTS:
        text = re.sub(r" *\\\n *", " ", path.read_text(encoding="utf-8"))
        for line in re.findall(PROGRAMS + r"[^\n`)]*", text):
            words = shlex.split(line.split("  ")[0], comments=True)
            stand_in = {"OPTIONS", "[OPTIONS]", "ARGUMENTS", "COMMAND"} & set(words)
            if stand_in or re.search(r"-m (ruff|pip|pytest) ", line):
                continue
            found.append((f"{path.relative_to(ROOT) if path.parent.name == 'results' else path.name}: {line}", words))
    for path in SOURCES:  # what --help shows: the lines of a module's docstring that are commands
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        text = re.sub(r" *\\\n *", " ", text)
        for line in re.findall(rf"^ +({PROGRAMS}.*)", text, re.MULTILINE):
            line = line.split("  ")[0]
            if "[" not in line and "|" not in line:  # describes words instead of giving them
                found.append((f"{path.relative_to(ROOT)}: {line}", shlex.split(line)))
    return found


class Parsed(Exception):
    """A parser took the words."""


def parse_and_stop(main: Callable, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `words` to a program whose parser is made inside `main`, and stop when it has taken them."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *given: object) -> None:
        parse_args(self, *given)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(Parsed):
        main(words)


@pytest.mark.parametrize("words", [words for _, words in commands()], ids=[name for name, _ in commands()])
def test_command__is_understood_by_the_real_parser(words, monkeypatch):
    if "..." in words or words[-1].endswith("..."):
        assert words[0] == "./run_all.sh"
        return
    if words[0] == "./run_all.sh":
        if words[1] in ("test", "environment", "python"):
            return
        words = [*(["run"] if words[1].startswith("-") else []), *words[1:]]
    elif words[0] == "clove":
        words = words[1:]
    else:
        words = ["pretrain", *words[words.index("-m") + 2:]]
    if "--help" in words:
        return
    if words[0] == "speed":
        for part in words[1].split("|"):
            parse_and_stop(importlib.import_module(f"benchmarks.speed.{PARTS[part]}").main, words[2:], monkeypatch)
        return
    parse_and_stop(clove.main, words, monkeypatch)


def test_recipes_that_are_named__exist():
    for name, words in commands():
        for option, value in itertools.pairwise(words):
            if option == "--recipe" and value.islower():
                assert load_config(value), name


def test_commands__are_found():
    names = [name for name, _ in commands()]
    assert len(names) > 30
    for place in ("README.md", "pretraining.md", "tasks_and_data.md", "checkpoints.md", "cluster.md", "results.md",
                  "run_all.sh", "mini.yaml", "photos.yaml", "pretrain/__main__.py", "pretrain/figures/show.py"):
        assert any(name.startswith(place) for name in names), place


def test_command__a_wrong_option_is_not_understood(monkeypatch):
    main = importlib.import_module("benchmarks.speed.loader").main
    with pytest.raises(SystemExit):
        parse_and_stop(main, ["--photo-folder", "X"], monkeypatch)


@pytest.mark.parametrize("path", [path for path in TEXTS if path.suffix == ".md"], ids=lambda path: path.name)
def test_links__point_to_files(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_code_map__is_what_its_script_makes():
    made = runpy.run_path(str(ROOT / "docs" / "make_code_map.py"))["code_map"]()
    assert (ROOT / "docs" / "code.md").read_text(encoding="utf-8") == made, "run python docs/make_code_map.py"


def test_texts__hold_no_placeholder():
    for path in TEXTS:
        assert not re.search(r"DEMO_TABLE|DEMO_MINUTES|CODE_MAP|MEASURED_", path.read_text(encoding="utf-8")), path.name
