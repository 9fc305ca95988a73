"""clove cancel [STAGE ...] [--output DIR]: end a run's Slurm jobs; what they have
saved stays."""

import argparse
from pathlib import Path

from benchmarks.slurm import jobs
from benchmarks.slurm.status import add_output
from benchmarks.stages.stage import locked
from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError, refuse


def build_parser() -> argparse.ArgumentParser:
    """The options of `clove cancel`."""
    parser = argparse.ArgumentParser(prog="clove cancel", description=__doc__, allow_abbrev=False)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="these, and what depends on them (default: all)")
    add_output(parser)
    return parser


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    args = build_parser().parse_args(arguments)
    output = args.output.absolute()
    refuse((not jobs.submissions(output),
            f"found no submitted jobs in {output}; a run on this machine ends with Ctrl-C"))
    with locked(output):  # not beside a submission, which would go on
        return cancel(output, args.stages)


def cancel(output: Path, names: list[str]) -> int:
    """End the jobs of these stages and of what depends on them, or all; returns the exit code."""
    jobs.find_lost(output)
    records = jobs.every_record(output)  # of earlier submissions too: their jobs may still run
    if names:
        newest, chosen = jobs.newest(output), set(names)
        for name in names:
            refuse((name not in newest, f"{name}: no job of such a stage; there are {', '.join(newest)}"))
        for name, record in newest.items():  # parents come first
            if name != jobs.TABLES and not chosen.isdisjoint(record.needs):
                chosen.add(name)
        records = [record for record in records if record.stage in chosen]
    alive = jobs.alive(records)
    if not alive:
        print("nothing waits or runs")
        return 0
    for record in alive:  # first: a job that ends at once should find it
        write_text(record.notes / jobs.CANCELLED, f'{{"time": "{jobs.now()}"}}\n')
    done = jobs.end(alive)
    if done.returncode:
        for record in alive:
            (record.notes / jobs.CANCELLED).unlink(missing_ok=True)
        raise UserError(f"scancel: {' '.join(done.stderr.split())}; try again in a minute")
    stages = dict.fromkeys(record.stage for record in alive)
    print(f"cancelled: {', '.join(stages)}; `clove retry --failed` resumes")
    return 0
