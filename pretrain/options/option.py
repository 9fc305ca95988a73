"""Options: frozen dataclasses whose fields carry a help text, and how a value is read from text or YAML.

The help texts of the fields are the help texts of the command line.
"""

import argparse
import math
import typing
from collections.abc import Iterable
from dataclasses import field, fields
from typing import Any, Literal

LARGEST = 2 ** 31  # of whole numbers: more is a slip of the keyboard, and would overflow a size somewhere


def option(default: Any, help_text: str) -> Any:
    """A field of an options dataclass. Types: int, float, bool, Literal, and tuples of them."""
    return field(default=default, metadata={"help": help_text})


def add_options(group: argparse._ActionsContainer, cls: type, taken: Iterable[str] = ()) -> None:
    """One command-line option for each field of `cls`, but for the names that are `taken`."""
    for one in fields(cls):
        if one.name in taken:
            continue
        default = one.default
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        group.add_argument(f"--{one.name.replace('_', '-')}", dest=one.name, default=None, metavar="X",
                           nargs=2 if isinstance(default, tuple) else None,
                           help=f"{one.metadata['help'].replace('%', '%%')} (default {shown})")


def convert(value: Any, wanted: Any) -> Any:
    """`value`, which may be text, as the type `wanted`; raises TypeError, ValueError or OverflowError."""
    origin = typing.get_origin(wanted)
    if origin is Literal:
        for choice in typing.get_args(wanted):
            same = value == choice and type(value) is type(choice)
            if same or (isinstance(value, str) and value == str(choice)):
                return choice
        raise ValueError
    if origin is tuple:
        parts = value.replace(",", " ").split() if isinstance(value, str) else list(value)
        if len(parts) != len(typing.get_args(wanted)):
            raise ValueError
        return tuple(convert(part, one) for part, one in zip(parts, typing.get_args(wanted), strict=True))
    if wanted is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() not in ("true", "false"):
            raise ValueError
        return str(value).lower() == "true"
    if isinstance(value, bool):
        raise ValueError
    if wanted is float:
        if not math.isfinite(float(value)):
            raise ValueError
        return float(value)
    if wanted is int:
        if (isinstance(value, float) and not value.is_integer()) or abs(int(value)) >= LARGEST:
            raise ValueError
        return int(value)
    raise TypeError


def describe(wanted: Any) -> str:
    """What values of a field's type look like, for an error message."""
    if typing.get_origin(wanted) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(wanted))
    if typing.get_origin(wanted) is tuple:
        return f"{len(typing.get_args(wanted))} numbers"
    return {"int": f"a whole number below {LARGEST}", "float": "a number", "bool": "true or false"}[wanted.__name__]
