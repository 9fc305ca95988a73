"""`clove completion SHELL`: a script that lets the shell complete commands, options and their values.

    eval "$(clove completion bash)"       # or its output into the file where your shell keeps completions
"""

import argparse
import importlib
import warnings
from collections.abc import Sequence

import shtab

from benchmarks import clove
from transfer.__main__ import COMMANDS as TRANSFER


def build_parser() -> argparse.ArgumentParser:
    """The options of `clove completion`."""
    parser = argparse.ArgumentParser(prog="clove completion", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    return parser


def main(given: Sequence[str] | None = None) -> int:
    """Print the script; returns the exit code."""
    shell = build_parser().parse_args(given).shell
    # detectron2, which some commands import, still uses torch.jit.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")
    print(shtab.complete(whole_parser(), shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """All commands with all their options, as one parser."""
    whole = argparse.ArgumentParser(prog="clove")
    whole.add_argument("--version", action="store_true")
    commands = whole.add_subparsers(dest="command")
    for name, command in clove.COMMANDS.items():
        if name in TRANSFER:
            own = commands.add_parser(name, help=command.text)
            importlib.import_module(f"transfer.{TRANSFER[name][0]}").add_arguments(own)
            continue
        module = importlib.import_module(command.module)
        commands.add_parser(name, help=command.text, parents=[module.build_parser()], add_help=False,
                            conflict_handler="resolve")
    return whole
