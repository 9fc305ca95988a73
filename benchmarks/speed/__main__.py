"""clove speed loader|step|loss|eval|finetune|gpu [options]: our speed beside a plain reference, and a GPU's."""

import argparse
import importlib
from collections.abc import Sequence

from pretrain.common.errors import fitting_the_gpu, run_cli

MODULES = {"loader": "loader", "step": "step", "loss": "loss", "eval": "evaluation", "finetune": "finetuning",
           "gpu": "gpu"}


def build_parser() -> argparse.ArgumentParser:
    """What is measured; each has options of its own."""
    parser = argparse.ArgumentParser(
        prog="clove speed", description="Our speed beside a plain reference, in one process.")
    parser.add_argument("part", choices=list(MODULES),
                        help="`clove speed PART --help` explains one")
    parser.add_argument("options", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def main(given: Sequence[str] | None = None) -> int:
    """Measure one part; returns the exit code."""
    arguments = build_parser().parse_args(given)
    # Only now: each needs libraries of its own, some of them optional.
    with fitting_the_gpu("measure fewer images at once (--batch, or --fit of the part finetune)"):
        return importlib.import_module(f"benchmarks.speed.{MODULES[arguments.part]}").main(arguments.options)


if __name__ == "__main__":
    run_cli(main)
