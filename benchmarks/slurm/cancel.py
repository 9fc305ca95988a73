"""clove cancel [STAGE ...] [--output DIR]: end a run's Slurm jobs; what they have
saved stays."""

import argparse
import subprocess
from pathlib import Path

from benchmarks.slurm import commands, jobs
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
        chosen = with_children(jobs.newest(output), names)
        records = [record for record in records if record.stage in chosen]
    alive = jobs.alive(records)
    if not alive:
        print("nothing waits or runs")
        return 0
    notes = [record.notes / jobs.CANCELLED for record in alive]
    for note in notes:  # first: a job that ends at once should find it
        write_text(note, f'{{"time": "{jobs.now()}"}}\n')
    problem = _scancel([record.job_id for record in alive])
    if problem:
        for note in notes:
            note.unlink(missing_ok=True)
        raise UserError(f"scancel: {problem}; try again in a minute")
    stages = dict.fromkeys(record.stage for record in alive)
    print(f"cancelled: {', '.join(stages)}; `clove retry --failed` resumes")
    return 0


def _scancel(job_ids: list[str]) -> str:
    """End the jobs; returns what went wrong."""
    try:
        done = commands.call("scancel", *job_ids)
    except (OSError, subprocess.TimeoutExpired) as error:
        return " ".join(str(error).split())
    return " ".join(done.stderr.split()) if done.returncode else ""


def with_children(records: dict[str, jobs.StageRecord], names: list[str]) -> dict[str, jobs.StageRecord]:
    """The named records and those that need them, without the tables; `UserError` for an unknown
    name."""
    for name in names:
        refuse((name not in records, f"{name}: no job of such a stage; there are {', '.join(records)}"))
    chosen: dict[str, jobs.StageRecord] = {}
    for name, record in records.items():  # parents come first
        depends = name != jobs.TABLES and not chosen.keys().isdisjoint(record.needs)
        if name in names or depends:
            chosen[name] = record
    return chosen
