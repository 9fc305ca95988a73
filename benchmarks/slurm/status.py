"""clove status [--output DIR] [--watch]: a live table of a run's stages.

From the run's own files (stage.json, metrics, notes of jobs) and, where it answers, squeue: it
needs neither accounting nor Slurm. It shows runs on this machine too. Exit code 0: all is done;
3: something waits or runs; 1: nothing does, and not all is done.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from benchmarks.slurm import jobs
from benchmarks.slurm.jobs import GONE, NO_ANSWER, TABLES, StageRecord, State
from benchmarks.stages import progress
from benchmarks.stages.error_line import error_line
from benchmarks.stages.saved_plan import Plan, UnreadablePlan, plan_of
from benchmarks.stages.stage import FAILED, STAMP, finished, glance, stage_folders
from benchmarks.stages.standing_results import standing
from pretrain import PLACE
from pretrain.common.lock import is_locked
from pretrain.common.signals import COME_BACK

ALL_DONE, INCOMPLETE, GOING = 0, 1, 3
EVERY = 5.0  # seconds
ALIVE = ("running", "waiting", "running?", "waiting?")  # with a question mark: Slurm does not answer
SAVED = (COME_BACK, 143)
SHOWN = 160  # letters of a detail in the table
NO_LOG = "it left no log"
MEANINGS = {
    "OUT_OF_MEMORY": "give it more memory (--mem-gb)",
    "TIMEOUT": "its time was over before it had saved: give it more (--time, --signal-delay)",
    "NODE_FAIL": "its node failed, and Slurm did not requeue it",
    "PREEMPTED": "Slurm did not requeue it",
    "CANCELLED": "somebody cancelled it, or what it waited for",
}  # of Slurm's states


@dataclass
class Row:
    """One stage: `state` is done, to do, one of ALIVE, failed, stopped, cancelled or lost;
    `detail` says why."""

    stage: str
    state: str
    detail: str = ""
    job_id: str = ""
    steps: str = ""
    seconds_left: float | None = None
    metric: str = ""


def look(plan: Plan, states: dict[str, State]) -> list[Row]:
    """A row for each stage; `states` has squeue's answers by job id, an absent one was not
    given."""
    output, stages = plan.options.output, plan.stages()
    folders, hashes = finished(stages, output, glance)
    stands = standing(stages, plan.options)
    records = jobs.newest(output)
    rows: dict[str, Row] = {}
    local = is_locked(output)
    for stage in stages:
        record, folder = records.get(stage.name), folders.get(stage.name)
        is_over = record is None or _answer(record, states).is_over
        if folder is None and hashes.keys() >= set(stage.parents):
            folder = stage.folder(output, stage.key(hashes))
        if stage.name in folders:
            row = Row(stage.name, "done")
        elif stage.name in stands and is_over:
            row = Row(stage.name, "done", "its result stands")
        elif record is not None and not (local and is_over):
            bad_parents = [name for name in stage.needs if rows[name].state not in (*ALIVE, "done", "to do")]
            row = Row(stage.name, *_of_job(record, states, bad_parents, folder))
        else:
            row = Row(stage.name, *_of_local(folder, local))
            local = local and row.state != "running"  # one at a time
        if record is not None:
            row.job_id = record.job_id
        known = progress.read(stage, folder)
        row.steps, row.metric = known.steps, known.metric
        if row.state in ("running", "running?"):
            row.seconds_left = known.seconds_left
        rows[stage.name] = row
    if TABLES in records:
        rows[TABLES] = Row(TABLES, *_of_job(records[TABLES], states, [], None), records[TABLES].job_id)
    return list(rows.values())


def look_without_plan(output: Path, states: dict[str, State]) -> list[Row]:
    """As `look`, from the folders of stages and the records of jobs alone: stages that have begun
    or have a job."""
    local = is_locked(output)
    rows: dict[str, Row] = {}
    for name, folder in sorted(stage_folders(output).items()):
        rows[name] = Row(name, "done")
        if not (folder / STAMP).is_file():
            rows[name] = Row(name, *_of_local(folder, local))
    for name, record in jobs.newest(output).items():
        if name not in rows or rows[name].state != "done":
            rows[name] = Row(name, *_of_job(record, states, [], None), record.job_id)
    return list(rows.values())


def _answer(record: StageRecord, states: dict[str, State]) -> State:
    """What squeue says of a stage's job."""
    return states.get(record.job_id, State(NO_ANSWER))


def _of_job(
    record: StageRecord, states: dict[str, State], bad_parents: list[str], folder: Path | None
) -> tuple[str, str]:
    """State and detail of a stage that has no result yet, from its last job."""
    if (record.notes / jobs.TABLES_DONE).is_file():
        return "done", ""
    state = _answer(record, states)
    started, cancelled = (record.notes / jobs.STARTED).is_file(), (record.notes / jobs.CANCELLED).is_file()
    if not state.is_over and state.word != NO_ANSWER:
        return _waiting_or_running(record, state, started)
    not_run = ""
    if bad_parents:
        not_run = f"needs {', '.join(bad_parents)}"
    never_ran = cancelled or (bool(bad_parents) and not started)
    endings = record.endings()
    failed = bool(endings) and endings[0].exit_code not in SAVED
    if state.word == NO_ANSWER:
        if never_ran:
            return "cancelled", not_run
        if failed:
            return "failed", record.why(endings[0])
        return ("running?" if started else "waiting?"), f"Slurm does not answer; {_last_sign(folder)}"
    if endings:
        word = "failed" if failed else "stopped"
        if cancelled:
            word = "cancelled"
        return word, record.why(endings[0])
    if never_ran or (state.word == "CANCELLED" and not started):
        return "cancelled", not_run
    return _without_message(record, state, started)


def _without_message(record: StageRecord, state: State, started: bool) -> tuple[str, str]:
    """Of a job that ended as a whole, or never began."""
    error = error_line(record.log())
    if state.word in ("FAILED", GONE) and not started and not record.log().is_file():
        sees = "its node may not"
        if state.reason == "JobLaunchFailure":
            sees = "its node does not"
        elif state.word == GONE:
            sees = "it was ended before it began, or its node does not"
        why = f"{NO_LOG}: {sees} see {record.folder}; choose an --output that all nodes see"
    elif state.word in MEANINGS:
        why = MEANINGS[state.word]
    else:
        why = "it left no message: it was killed, or never started"
    if error:
        why += f"; its log says: {error}"
    if state.word == GONE:
        return "lost", f"Slurm no longer knows the job; {why}"
    reason = "" if state.reason in ("", "None") else f", {state.reason}"
    return "failed", f"it ended ({state.word}{reason}); {why}"


def _waiting_or_running(record: StageRecord, state: State, started: bool) -> tuple[str, str]:
    if state.word != "PENDING":
        return "running", state.word.replace("RUNNING", "") or record.again()
    if "held" in state.reason.lower():
        return "waiting", f"held ({state.reason}): `scontrol release {record.job_id}` lets it start"
    if started:
        return "waiting", record.again() or "requeued"
    return "waiting", state.reason.replace("None", "")


def _of_local(folder: Path | None, locked: bool) -> tuple[str, str]:
    """Of a stage of a run on this machine, which leaves a note when it fails."""
    if folder is None or not folder.is_dir():
        return "to do", ""
    try:
        return "failed", json.loads((folder / FAILED).read_text(encoding="utf-8"))["message"]
    except (FileNotFoundError, ValueError):
        if locked:
            return "running", ""
        return "stopped", "run the same command again to resume"


def _last_sign(folder: Path | None) -> str:
    """When a file of a stage was last written."""
    newest = 0.0
    if folder is not None:
        for path in folder.glob("*"):
            newest = max(newest, path.stat().st_mtime)
    if not newest:
        return "it has no files yet"
    return f"its last file is {_duration(max(time.time() - newest, 0))} old"


def verdict(rows: list[Row]) -> tuple[int, str]:
    """Exit code and one line."""
    named: dict[str, list[str]] = {}
    for row in rows:
        named.setdefault(row.state, []).append(row.stage)
    parts = [f"{len(named.get('done', []))} of {len(rows)} stages done"]
    for state in (*ALIVE, "failed", "lost", "stopped", "cancelled", "to do"):
        if state in named:
            parts.append(f"{state}: {', '.join(named[state])}")
    line = "; ".join(parts)
    if not named.keys().isdisjoint(ALIVE):
        return GOING, line
    if len(parts) == 1:
        return ALL_DONE, f"all {len(rows)} stages done"
    for row in rows:
        if row.state in ("failed", "lost"):
            line += f" ({row.stage}: {row.detail})"
            break
    if any(row.job_id for row in rows):
        line += "; `clove retry --failed` resumes"
    return INCOMPLETE, f"error: {line}"


def table(rows: list[Row]) -> str:
    """The rows for a terminal."""
    lines = []
    for row in rows:
        left = _duration(row.seconds_left)
        lines.append([row.stage, row.state, row.job_id, row.steps, left, row.metric, row.detail[:SHOWN]])
    return tabulate(lines, headers=["stage", "state", "job", "progress", "time left", "last metric", ""],
                    disable_numparse=True)


def snapshot(plan: Plan) -> list[Row]:
    """All rows now, with what squeue says."""
    return look(plan, jobs.ask_all(jobs.newest(plan.options.output).values()))


def build_parser() -> argparse.ArgumentParser:
    """The options of `clove status`."""
    parser = argparse.ArgumentParser(prog="clove status", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output(parser)
    parser.add_argument("--watch", action="store_true", help="show it again every 5 s until nothing waits or runs")
    return parser


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    args = build_parser().parse_args(arguments)
    return watch(args.output.absolute(), args.watch, time.sleep)


def watch(output: Path, again: bool, sleep: Callable[[float], None]) -> int:
    """Print the table, `again` and again if asked for; returns the exit code."""
    while True:
        try:
            rows = snapshot(plan_of(output))
            code, line = verdict(rows)
        except UnreadablePlan as error:
            print(f"warning: {error}; this is what the folder itself shows", file=sys.stderr)
            rows = look_without_plan(output, jobs.ask_all(jobs.newest(output).values()))
            code, line = verdict(rows)
            if code == ALL_DONE:
                code, line = INCOMPLETE, f"{line} of those that have begun; whether there are others is in the plan"
        if again and sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")
        print(f"{table(rows)}\n{line}", flush=True)
        if not again or code != GOING:
            return code
        sleep(EVERY)


def add_output(parser: argparse.ArgumentParser) -> None:
    """--output, as of ./run_all.sh."""
    parser.add_argument("--output", type=Path, default=PLACE / "output", metavar="DIR",
                        help="the --output of ./run_all.sh (default: its default)")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes:02d} min"
