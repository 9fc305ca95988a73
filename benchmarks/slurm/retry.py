"""python -m benchmarks retry (--failed | STAGE ...) [--output DIR]: submit again what failed, from the saved plan.

With --failed: all that is neither done nor waiting nor running. The data are looked at again, and the code is what is
here now; what is done stays.
"""

import argparse

from benchmarks.slurm import job_graph
from benchmarks.slurm.status import add_output
from benchmarks.stages.checked_inputs import find_inputs
from benchmarks.stages.saved_plan import Plan, plan_of
from benchmarks.stages.stage import locked
from pretrain.common.errors import UserError


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks retry", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="these, and what depends on them")
    parser.add_argument("--failed", action="store_true", help="all that is neither done nor under way")
    add_output(parser)
    args = parser.parse_args(words)
    if bool(args.stages) == args.failed:
        raise UserError("retry: expected --failed or the names of stages; `python -m benchmarks status` shows them")
    options = plan_of(args.output.absolute()).options
    if options.cluster.cluster != "slurm":
        raise UserError(f"{args.output} was a run on this machine: the same words of ./run_all.sh go on with it")
    names = [stage.name for stage in plan_of(args.output.absolute()).stages()]
    unknown = [name for name in args.stages if name not in names]
    if unknown:
        raise UserError(f"{unknown[0]}: no such stage; there are {', '.join(names)}")
    plan = Plan(options, find_inputs(options))
    with locked(options.output):
        return job_graph.submit_and_say(plan, set(args.stages) or None)
