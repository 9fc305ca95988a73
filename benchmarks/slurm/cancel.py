"""python -m benchmarks cancel [STAGE ...] [--output DIR]: end a run's Slurm jobs; what they have saved stays."""

import argparse
import subprocess

from benchmarks.slurm import jobs
from benchmarks.slurm.jobs import NO_ANSWER
from benchmarks.slurm.status import add_output
from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cancel", description=__doc__, allow_abbrev=False)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="these, and what depends on them (default: all)")
    add_output(parser)
    args = parser.parse_args(words)
    output = args.output.absolute()
    records = jobs.newest(output)
    if not records:
        raise UserError(f"found no submitted jobs in {output}; a run on this machine ends with Ctrl-C")
    chosen = with_children(records, args.stages) if args.stages else records
    states = jobs.ask([record.job_id for record in chosen.values()])
    if any(state.word == NO_ANSWER for state in states.values()):
        raise UserError("Slurm does not answer (squeue); nothing was cancelled")
    alive = {name: record for name, record in chosen.items() if not states[record.job_id].is_over}
    if not alive:
        print("nothing waits or runs")
        return 0
    for record in alive.values():  # before: a job that ends at once should find it
        write_text(record.notes / jobs.CANCELLED, f'{{"time": "{jobs.now()}"}}\n')
    done = subprocess.run(["scancel", *(record.job_id for record in alive.values())], capture_output=True, text=True,
                          timeout=60, check=False)
    if done.returncode:
        for record in alive.values():
            (record.notes / jobs.CANCELLED).unlink(missing_ok=True)
        raise UserError(f"scancel: {' '.join(done.stderr.split())}")
    print(f"cancelled: {', '.join(alive)}; `python -m benchmarks retry --failed` goes on")
    return 0


def with_children(records: dict[str, jobs.StageRecord], names: list[str]) -> dict[str, jobs.StageRecord]:
    """The named records and those that need them, the tables left out. Raises `UserError` for an unknown name."""
    unknown = [name for name in names if name not in records]
    if unknown:
        raise UserError(f"{unknown[0]}: no job of such a stage; there are {', '.join(records)}")
    chosen = {name: records[name] for name in records if name in names}
    for name, record in records.items():  # parents come first
        if name != jobs.TABLES and any(parent in chosen for parent in record.needs):
            chosen[name] = record
    return chosen
