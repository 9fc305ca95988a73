"""`clove COMMAND ...`: everything that the suite does, as one command.

`python -m pretrain`, `python -m transfer`, `python -m benchmarks` and
`python benchmarks/make_tables.py` are the same commands by their packages.
"""

import difflib
import importlib
import sys
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.setup import MODULES
from pretrain import __version__
from pretrain.common.errors import UserError, refuse, run_cli
from transfer import __main__ as transfer


class Command(NamedTuple):
    """`module` has `main(arguments)` and `build_parser`; `first` goes before what the user gives."""

    module: str
    text: str
    first: tuple[str, ...] = ()


def _of_transfer(name: str) -> Command:
    return Command("transfer.__main__", transfer.COMMANDS[name][1], (name,))


SUITE = "benchmarks.__main__"
GROUPS = {
    "All at once": {
        "run": Command(SUITE, "pretrain, convert, fine-tune, evaluate, print the tables; the same again resumes"),
        "demo": Command(SUITE, "the same, small, on generated images; needs no GPU", ("--demo",)),
    },
    "Pretraining": {
        "pretrain": Command("pretrain.__main__", "images -> backbone.safetensors"),
        "shards": Command("pretrain.data.shards", "packs a folder of images into tar shards"),
        "show": Command("pretrain.figures.show", "figures: an image's views, their matched cells, training curves"),
        "drill": Command("pretrain.runs.drill", "kills a small run again and again: nothing may be lost"),
    },
    "Checkpoints": {
        "inspect": _of_transfer("inspect"),
        "fetch": _of_transfer("fetch"),
        "convert": _of_transfer("convert"),
        "probe": _of_transfer("probe"),
    },
    "Fine-tuning": {
        "dataset": _of_transfer("dataset"),
        "hold-out": _of_transfer("hold-out"),
        "preflight": _of_transfer("preflight"),
        "finetune": _of_transfer("finetune"),
        "evaluate": _of_transfer("evaluate"),
        "detections": _of_transfer("detections"),
        "diff": _of_transfer("diff"),
    },
    "Jobs on Slurm": {
        "status": Command("benchmarks.slurm.status", "the stages of a run: done, running, waiting, failed"),
        "logs": Command("benchmarks.slurm.logs", "what a stage has printed"),
        "cancel": Command("benchmarks.slurm.cancel", "ends a run's jobs"),
        "retry": Command("benchmarks.slurm.retry", "submits again what failed"),
    },
    "Results": {
        "tables": Command("benchmarks.formats.all_tables", "the papers' tables with your rows"),
        "why": Command("benchmarks.formats.all_tables", "where a cell of a table comes from", ("--why",)),
        "report": Command("benchmarks.report.command", "one HTML page of everything that was measured"),
        "compare": Command("benchmarks.statistics.bootstrap", "two detectors, paired over the images (bootstrap)"),
        "bundle": Command("benchmarks.sharing.bundle", "results in one archive, anonymous if asked"),
        "import": Command("benchmarks.sharing.import_results",
                          "such an archive, or metrics made elsewhere, into the results"),
    },
    "This machine": {
        "setup": Command("benchmarks.setup", "installs detectron2, which pip cannot: once"),
        "speed": Command("benchmarks.speed.__main__", "how fast this code is here, beside a plain reference"),
        "completion": Command("benchmarks.completion", "completes commands and options with the tab key"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def help_text() -> str:
    """All commands, in their groups."""
    lines = ["usage: clove COMMAND [options]", "",
             "CLoVE pretraining, proved transfer to detectron2, and the tables of dense "
             "self-supervised learning."]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:"]
        for name, command in commands.items():
            lines += textwrap.wrap(command.text, 79, initial_indent=f"  {name:<12}", subsequent_indent=" " * 14)
    lines += ["", "clove COMMAND --help explains one of them; clove --version says which this is."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Raises `UserError` for one that does not exist."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if name == "--version":
        print(f"clove {__version__}")
        return 0
    refuse((name.startswith("-"),
            f"{name}: expected a command before the options, such as `clove run {name}`; "
            "`clove --help` lists all"))
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"`clove {near[0]}`" if near else f"one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {name!r}: expected {meant}; `clove --help` explains all")
    command = COMMANDS[name]
    words = [*command.first, *rest]
    if rest in (["-h"], ["--help"]) and words[0].startswith("--"):
        words = rest  # of the command that takes --why and --demo as options
    try:
        return importlib.import_module(command.module).main(words)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in MODULES:
            raise
        raise UserError(f"clove {name} needs {package}, which is not installed: run `clove setup`, "
                        "once") from None


def start() -> None:
    """The console script."""
    run_cli(main)


if __name__ == "__main__":
    start()
