"""python -m benchmarks.speed loader|step|loss|eval [options]: our speed beside a plain reference."""

import importlib
import sys

from pretrain.common.errors import UserError, run_cli

MODULES = {"loader": "loader", "step": "step", "loss": "loss", "eval": "evaluation"}


def main() -> int:
    part, *arguments = sys.argv[1:] or ["nothing"]
    if part in ("-h", "--help"):
        print(__doc__)
        return 0
    if part not in MODULES:
        raise UserError(f"expected one of {', '.join(MODULES)} as the first argument, found {part}")
    # Only now: each needs libraries of its own, some of them optional.
    return importlib.import_module(f"benchmarks.speed.{MODULES[part]}").main(arguments)


if __name__ == "__main__":
    run_cli(main)
