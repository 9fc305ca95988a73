"""Options: frozen dataclasses whose fields carry a help text and bounds, and how a value is read from text or YAML.

The help texts of the fields are the help texts of the command line.
"""

import argparse
import contextlib
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import field, fields
from typing import Any, Literal

from pretrain.common.errors import UserError

LARGEST = 2 ** 31  # of whole numbers: more is a slip of the keyboard, and would overflow a size somewhere


def option(
    default: Any, help_text: str, above: float | None = None, at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A field of an options dataclass. Types: int, float, bool, Literal, tuples of them, and a
    number or a Literal. Bounds are of numbers; `at_most` needs `at_least`."""
    return field(default=default, metadata={
        "help": help_text, "above": above, "at_least": at_least, "at_most": at_most})


def check_bounds(options: Any) -> None:
    """Raise `UserError` for the first value of an options dataclass that lies outside the bounds of
    its option."""
    for one in fields(options):
        value, least, most = getattr(options, one.name), one.metadata["at_least"], one.metadata["at_most"]
        above = one.metadata["above"]
        if isinstance(value, str):
            continue
        if above is not None and value <= above:
            bounds = f"be above {above}"
        elif most is not None and not least <= value <= most:
            bounds = f"lie between {least} and {most}"
        elif least is not None and value < least:
            bounds = f"be at least {least}"
        else:
            continue
        raise UserError(f"{one.name} must {bounds}, found {value} ({one.metadata['help']})")


def add_options(group: argparse._ActionsContainer, cls: type, taken: Iterable[str] = ()) -> None:
    """One command-line option for each field of `cls`, except for the names that are `taken`."""
    types = typing.get_type_hints(cls)
    for one in fields(cls):
        if one.name in taken:
            continue
        shown, count = one.default, None
        if isinstance(one.default, tuple):
            shown, count = " ".join(map(str, one.default)), len(one.default)
        help_text = one.metadata["help"].replace("%", "%%")
        group.add_argument(f"--{one.name.replace('_', '-')}", dest=one.name, default=None, nargs=count,
                           metavar=_shown(types[one.name]), help=f"{help_text} (default {shown})")


def _shown(wanted: Any) -> str:
    """What a help text shows for a value of this type: "{a,b}", "N" for whole numbers, "X" for others."""
    choices = typing.get_args(wanted)
    if typing.get_origin(wanted) is Literal:
        return f"{{{','.join(map(str, choices))}}}"
    if is_union(wanted):
        return "|".join(map(_shown, choices))
    if wanted is bool:
        return "{true,false}"
    if wanted is int or (choices and choices[0] is int):
        return "N"
    return "X"


def convert(value: Any, wanted: Any) -> Any:
    """`value`, which may be text, as the type `wanted`; raises TypeError, ValueError or
    OverflowError."""
    origin, parts = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Literal:
        for choice in parts:
            if type(value) in (str, type(choice)) and str(value) == str(choice):
                return choice
    elif origin is tuple:
        given = value.replace(",", " ").split() if isinstance(value, str) else list(value)
        if len(given) == len(parts):
            return tuple(convert(one, part) for one, part in zip(given, parts, strict=True))
    elif is_union(wanted):
        for part in parts:
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                return convert(value, part)
    elif wanted is bool:
        text = str(value).lower()
        if text in ("true", "false"):
            return text == "true"
    elif wanted is float and not isinstance(value, bool):
        if math.isfinite(float(value)):
            return float(value)
    elif wanted is int and not isinstance(value, bool):
        has_fraction = isinstance(value, float) and not value.is_integer()
        if not has_fraction and abs(int(value)) < LARGEST:
            return int(value)
    raise ValueError(value)


def is_union(wanted: Any) -> bool:
    """Whether it is a choice of types, `A | B`."""
    return typing.get_origin(wanted) in (typing.Union, types.UnionType)


def describe(wanted: Any) -> str:
    """What values of a field's type look like, for an error message."""
    parts = typing.get_args(wanted)
    if typing.get_origin(wanted) is Literal:
        return "one of " + ", ".join(map(str, parts))
    if typing.get_origin(wanted) is tuple:
        return f"{len(parts)} numbers"
    if is_union(wanted):
        return " or ".join(map(describe, parts))
    return {int: f"a whole number below {LARGEST}", float: "a number", bool: "true or false"}[wanted]
