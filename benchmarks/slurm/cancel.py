"""clove cancel [STAGE ...] [--output DIR]: end a run's Slurm jobs; what they have
saved stays."""

import argparse
import subprocess

from benchmarks.slurm import jobs
from benchmarks.slurm.status import add_output
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
    records = jobs.newest(output)
    refuse((not records, f"found no submitted jobs in {output}; a run on this machine ends with Ctrl-C"))
    if args.stages:
        records = with_children(records, args.stages)
    alive = jobs.alive(records)
    if not alive:
        print("nothing waits or runs")
        return 0
    command, notes = ["scancel"], []
    for record in alive.values():  # the note first: a job that ends at once should find it
        command.append(record.job_id)
        notes.append(record.notes / jobs.CANCELLED)
        write_text(notes[-1], f'{{"time": "{jobs.now()}"}}\n')
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        for note in notes:
            note.unlink(missing_ok=True)
        raise UserError(f"scancel: {' '.join(done.stderr.split())}")
    print(f"cancelled: {', '.join(alive)}; `clove retry --failed` resumes")
    return 0


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
