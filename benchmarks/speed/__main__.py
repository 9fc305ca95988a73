"""python -m benchmarks.speed loader|step|loss|eval [options]: our speed beside a plain reference's."""

import importlib
import sys

from pretrain.common.errors import UserError, run_cli

MODULES = {"loader": "loader", "step": "step", "loss": "loss", "eval": "evaluation"}


def main() -> int:
    words = sys.argv[1:]
    if words[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if not words or words[0] not in MODULES:
        raise UserError(f"expected one of {', '.join(MODULES)} as the first word, "
                        f"found {repr(words[0]) if words else 'nothing'}")
    # Only now: each needs libraries of its own, some of them optional.
    return importlib.import_module(f"benchmarks.speed.{MODULES[words[0]]}").main(words[1:])


if __name__ == "__main__":
    run_cli(main)
