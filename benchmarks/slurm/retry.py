"""clove retry (--failed | STAGE ...) [--output DIR]: submit again what failed,
from the saved plan.

With --failed: all that is neither done nor waiting nor running. The data are read again, and the
code is the present one; what is done stays.
"""

import argparse
import sys

from benchmarks.slurm import job_graph
from benchmarks.slurm.status import NO_LOG, add_output, snapshot
from benchmarks.stages.checked_inputs import find_inputs
from benchmarks.stages.saved_plan import Plan, plan_of
from benchmarks.stages.stage import by_name, locked
from pretrain.common.errors import refuse


def build_parser() -> argparse.ArgumentParser:
    """The options of `clove retry`."""
    parser = argparse.ArgumentParser(prog="clove retry", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="these, and what depends on them")
    parser.add_argument("--failed", action="store_true", help="all that is neither done nor under way")
    add_output(parser)
    return parser


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    args = build_parser().parse_args(arguments)
    refuse((bool(args.stages) == args.failed,
            "retry: expected --failed or the names of stages; `clove status` shows them"))
    saved = plan_of(args.output.absolute())
    options, names = saved.options, by_name(saved.stages())
    refuse((options.cluster.cluster != "slurm",
            f"{args.output} was a run on this machine: run the same ./run_all.sh command again to resume it"))
    for name in args.stages:
        refuse((name not in names, f"{name}: no such stage; there are {', '.join(names)}"))
    for row in snapshot(saved):
        if NO_LOG in row.detail:  # the next job may not write into the output folder either
            print(f"warning: {row.stage}: {row.detail}", file=sys.stderr)
            break
    plan = Plan(options, find_inputs(options))
    with locked(options.output):
        return job_graph.submit_and_say(plan, set(args.stages) or None)
