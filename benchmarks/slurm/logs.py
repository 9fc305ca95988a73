"""clove logs STAGE [-f] [--output DIR]: what a stage's job printed, over all its
starts.

A stage of a run on this machine printed to its terminal; of a fine-tuning, detectron2's log.txt
is shown.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.slurm import jobs
from benchmarks.slurm.jobs import NO_ANSWER
from benchmarks.slurm.status import add_output
from benchmarks.stages.saved_plan import UnreadablePlan, plan_of
from benchmarks.stages.stage import by_name, finished, glance, stage_folders
from pretrain.common.errors import UserError, refuse

EVERY = 1.0  # seconds
LOG = "log.txt"  # detectron2's


def build_parser() -> argparse.ArgumentParser:
    """The options of `clove logs`."""
    parser = argparse.ArgumentParser(prog="clove logs", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", metavar="STAGE", help="as `clove status` names it")
    parser.add_argument("-f", "--follow", action="store_true", help="print what is added until the job is over")
    add_output(parser)
    return parser


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    args = build_parser().parse_args(arguments)
    output = args.output.absolute()
    record = jobs.newest(output).get(args.stage)
    path = record.log() if record else local_log(output, args.stage)
    if args.follow and record:
        follow(path, lambda: jobs.ask([record.job_id])[record.job_id], time.sleep)
        return 0
    if record and not path.is_file():
        state = jobs.ask([record.job_id])[record.job_id]
        refuse((state.is_over, f"stage {args.stage} has printed nothing, and its job is over ({state.word}): `clove "
                               f"status` says why (found no {path})"))
    refuse((not path.is_file(), f"stage {args.stage} has printed nothing yet (found no {path})"))
    sys.stdout.write(path.read_text(encoding="utf-8", errors="replace"))
    return 0


def local_log(output: Path, name: str) -> Path:
    """log.txt of a stage of a local run; `UserError` when it has none."""
    try:
        stages = plan_of(output).stages()
    except UnreadablePlan as error:
        folders = stage_folders(output)
        if name in folders and (folders[name] / LOG).is_file():
            return folders[name] / LOG
        raise UserError(f"found no {LOG} of a stage {name} in {output}; {error}") from None
    known = by_name(stages)
    refuse((name not in known, f"{name}: no such stage; there are {', '.join(known)}"))
    stage = known[name]
    _, hashes = finished(stages, output, glance)
    refuse((not hashes.keys() >= set(stage.parents),
            f"stage {name} has not begun: it needs {', '.join(stage.parents)}"))
    path = stage.folder(output, stage.key(hashes)) / LOG
    refuse((not path.is_file(), f"stage {name} has no log: a run on this machine prints to its terminal"))
    return path


def follow(path: Path, ask: Callable[[], jobs.State], sleep: Callable[[float], None]) -> None:
    """Print `path` as it grows, until the job is over."""
    place = 0
    while True:
        state = ask()  # before reading: what is printed until then is printed here
        if path.is_file():
            with open(path, encoding="utf-8", errors="replace") as file:
                file.seek(place)
                sys.stdout.write(file.read())
                sys.stdout.flush()
                place = file.tell()
        if state.word == NO_ANSWER:
            print("Slurm does not answer: whether the job goes on is not known", file=sys.stderr)
        if state.is_over or state.word == NO_ANSWER:
            return
        sleep(EVERY)
