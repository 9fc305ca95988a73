"""Checks that several options share: numbers that are too small, names of rows and datasets, options at odds."""

import argparse
import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from pretrain.common import yaml_text
from pretrain.common.errors import refuse

Check = tuple[object, str]  # what is wrong when it is true, and the message


def at_least(args: argparse.Namespace, least: dict[str, int]) -> None:
    """Raise `UserError` for the first option whose number lies below its `least`; None is no number."""
    for name, bound in least.items():
        value = getattr(args, name)
        refuse((value is not None and value < bound, f"{option_of(name)} must be at least {bound}, "
                                                     f"found {value}"))


def option_of(name: str) -> str:
    """"--mem-gb" of mem_gb."""
    return f"--{name.replace('_', '-')}"


def nearest(word: str, known: Iterable[str]) -> str:
    """The one of `known` that looks most like `word`."""
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]


def all_text(values: Iterable[Any]) -> bool:
    """Whether each of the values of a file is one scalar."""
    return all(isinstance(value, str) for value in values)


def slug(name: str) -> str:
    """A name as a part of a stage's name."""
    return re.sub(r"[^\w.]", "_", name)


def check_name(form: str, name: str, taken: Iterable[str]) -> None:
    """Raise `UserError` for a name that cannot be printed, or whose stages would be called as those
    of one `taken`.

    `form` is the option that names it, such as "--coco LABEL=DIR".
    """
    option = form.partition(" ")[0]
    refuse((not name.isprintable() or name != name.strip(),
            f"{option} {name!r}: expected a name that can be printed, without spaces around it, as "
            f"in {form}"))
    for other in taken:
        refuse((slug(other).lower() == slug(name).lower(),
                f"{option} {name}: the name {other} is taken; choose another one, as in {form}"))


def read_option_file(path: Path, expected: str) -> dict[str, Any]:
    """{key: value} of a YAML file, every scalar as text: YAML would read 24:00:00 as a number of
    seconds.

    `expected` says in an error what the file should hold. Raises `UserError`; the caller checks
    that there is a file.
    """
    return yaml_text.read_mapping(path, expected, yaml.BaseLoader)
