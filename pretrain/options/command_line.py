"""Options of the configuration on a command line: flat, grouped in the help by the section that they belong to."""

import argparse
from dataclasses import fields
from typing import Any

from pretrain import objectives
from pretrain.options.option import add_options
from pretrain.options.shared_options import Runtime, Train


def add_identity_options(parser: argparse.ArgumentParser) -> None:
    """--objective, one option for each shared value that changes the numbers, and for each one of
    an objective."""
    known = ", ".join(objectives.names())
    parser.add_argument("--objective", metavar="NAME",
                        help=f"what is learned: {known} (default: the recipe's, or clove)")
    add_options(parser.add_argument_group("train: what changes the numbers, whatever the objective"), Train)
    taken: set[str] = set()  # two objectives may have an option of the same name
    for name in objectives.names():
        group = parser.add_argument_group(f"{name}: options of --objective {name} alone")
        add_options(group, objectives.get(name).Options, taken)
        taken |= set(objectives.options_of(name))


def add_all_options(parser: argparse.ArgumentParser) -> None:
    """As `add_identity_options`, and one option for each value that does not change the numbers."""
    add_identity_options(parser)
    add_options(parser.add_argument_group("runtime: what does not change the numbers"), Runtime)


def given_values(args: argparse.Namespace) -> dict[str, Any]:
    """The values that were given, by key, as `load_config` takes them."""
    keys = {"objective"}
    for name in objectives.names():
        keys |= set(objectives.options_of(name))
    for cls in (Train, Runtime):
        keys |= {one.name for one in fields(cls)}
    return {key: value for key, value in vars(args).items() if key in keys and value is not None}
