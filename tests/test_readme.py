"""What README and docs say is what the code does: their commands parse, their links and their map are true."""

import argparse
import ast
import importlib
import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.__main__ import COMMANDS
from benchmarks.options.arguments import build_parser
from benchmarks.speed.__main__ import MODULES
from pretrain.__main__ import build_parser as pretrain_parser
from pretrain.config import load_config
from pretrain.data import shards
from pretrain.figures import show
from pretrain.options.recipe_file import recipe_names
from pretrain.runs import drill
from transfer.__main__ import _parser as transfer_parser

MODULES_SAID = r"(?:pretrain(?:\.shards)?|transfer|benchmarks(?:\.speed)?)"
PROGRAMS = rf"(?:\./run_all\.sh|python -m {MODULES_SAID}(?= )|torchrun(?= --))"
OTHERS = {"show": show.build_parser, "drill": drill.build_parser, "shards": shards.build_parser}
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
            if {"OPTIONS", "[OPTIONS]", "ARGUMENTS"} & set(words) or re.search(r"-m (ruff|pip|pytest) ", line):
                continue  # stands for other words; another program
            if words[:2] == ["python", "-m"] and len(words) == 4:
                continue  # the name of a command, not a call of it
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
        if words[1] == "python":
            words = words[1:]
        elif words[1] in ("test", "environment"):
            return
        elif words[1] in COMMANDS:
            parse_and_stop(importlib.import_module(f"benchmarks.{COMMANDS[words[1]]}").main, words[2:], monkeypatch)
            return
        else:
            assert build_parser().parse_args(words[1:])
            return
    module = words[words.index("-m") + 1]
    rest = words[words.index("-m") + 2:]
    if module == "benchmarks.speed":
        for name in rest[0].split("|"):
            main = importlib.import_module(f"benchmarks.speed.{MODULES[name]}").main
            parse_and_stop(main, rest[1:], monkeypatch)
        return
    if "--help" in rest:
        return
    if module == "benchmarks":
        main = importlib.import_module(f"benchmarks.{COMMANDS[rest[0]]}").main
        parse_and_stop(main, rest[1:], monkeypatch)
    elif module == "pretrain" and rest[0] in OTHERS:
        args = OTHERS[rest[0]]().parse_args(rest[1:])
        assert load_config(getattr(args, "recipe", None))
    elif module == "pretrain":
        args = pretrain_parser().parse_args(rest)
        if args.recipe in recipe_names():
            assert load_config(args.recipe)
    else:
        assert transfer_parser(rest[0]).parse_args(rest)


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
