"""python -m benchmarks status [--output DIR] [--watch]: a live table of a run's stages.

From the run's own files (stage.json, metrics, notes of jobs) and, where it answers, squeue: it needs neither accounting
nor Slurm. It shows runs on this machine too. Exit code 0: all is done; 3: something waits or runs; 1: nothing does, and
not all is done.
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
from benchmarks.slurm.jobs import GONE, NO_ANSWER, TABLES, Ending, StageRecord, State
from benchmarks.stages import progress
from benchmarks.stages.saved_plan import Plan, UnreadablePlan, plan_of
from benchmarks.stages.stage import FAILED, STAMP, finished, glance, stage_folders
from benchmarks.stages.standing_results import standing
from pretrain import ROOT
from pretrain.common.lock import is_locked
from pretrain.common.signals import COME_BACK

ALL_DONE, INCOMPLETE, GOING = 0, 1, 3
EVERY = 5.0  # seconds
ALIVE = ("running", "waiting", "running?", "waiting?")  # with a question mark: Slurm does not answer
SAVED = (COME_BACK, 143)


@dataclass(frozen=True)
class Row:
    """One stage: `state` is done, to do, one of ALIVE, failed, stopped, cancelled or lost; `detail` says why."""

    stage: str
    state: str
    job_id: str = ""
    steps: str = ""
    seconds_left: float | None = None
    metric: str = ""
    detail: str = ""


def look(plan: Plan, states: dict[str, State]) -> list[Row]:
    """A row for each stage; `states` has squeue's answers by job id, one that is absent was not given."""
    output, stages = plan.options.output, plan.stages()
    folders, hashes = finished(stages, output, glance)
    stands = standing(stages, plan.options)
    records = jobs.newest(output)
    rows: dict[str, Row] = {}
    local = is_locked(output)
    for stage in stages:
        record = records.get(stage.name)
        folder = folders.get(stage.name) or (
            stage.folder(output, stage.key(hashes)) if all(name in hashes for name in stage.parents) else None)
        bad_parents = [name for name in stage.needs if rows[name].state not in (*ALIVE, "done", "to do")]
        if stage.name in folders:
            state, detail = "done", ""
        elif stage.name in stands and not _is_alive(record, states):
            state, detail = "done", "its result stands"
        elif record is not None and not (local and states.get(record.job_id, State(NO_ANSWER)).is_over):
            state, detail = _of_job(record, states.get(record.job_id, State(NO_ANSWER)), bad_parents, folder)
        else:
            state, detail = _of_local(folder, local)
            local = local and state != "running"  # one at a time
        known = progress.read(stage, folder) if folder is not None else progress.Progress()
        rows[stage.name] = Row(
            stage.name, state, record.job_id if record else "",
            f"{known.done}/{known.total}" if known.total and known.done else "",
            known.seconds_left if state in ("running", "running?") else None, known.metric, detail)
    if TABLES in records:
        rows[TABLES] = _of_tables(records[TABLES], states)
    return list(rows.values())


def look_without_plan(output: Path, states: dict[str, State]) -> list[Row]:
    """As `look`, from the folders of stages and the records of jobs alone: of stages that have begun or have a job."""
    records, local = jobs.newest(output), is_locked(output)
    rows: dict[str, Row] = {}
    for name, folder in sorted(stage_folders(output).items()):
        state, detail = ("done", "") if (folder / STAMP).is_file() else _of_local(folder, local)
        rows[name] = Row(name, state, detail=detail)
    for name, record in records.items():
        if name == TABLES:
            rows[name] = _of_tables(record, states)
        elif name not in rows or rows[name].state != "done":
            state, detail = _of_job(record, states.get(record.job_id, State(NO_ANSWER)), [], None)
            rows[name] = Row(name, state, record.job_id, detail=detail)
    return list(rows.values())


def _is_alive(record: StageRecord | None, states: dict[str, State]) -> bool:
    """Whether a job may still work on it."""
    return record is not None and not states.get(record.job_id, State(NO_ANSWER)).is_over


def _of_job(record: StageRecord, state: State, bad_parents: list[str], folder: Path | None) -> tuple[str, str]:
    """State and detail of a stage that has no result yet, of its last job."""
    endings = record.endings()
    started, cancelled = (record.notes / jobs.STARTED).is_file(), (record.notes / jobs.CANCELLED).is_file()
    not_run = f"needs {', '.join(bad_parents)}" if bad_parents else ""
    if state.word == NO_ANSWER:
        if cancelled or (not_run and not started):
            return "cancelled", not_run
        if endings and endings[0].exit_code not in SAVED:
            return "failed", endings[0].message
        return ("running?" if started else "waiting?"), f"Slurm does not answer; {_last_sign(folder)}"
    if not state.is_over:
        if state.word != "PENDING":
            return "running", "" if state.word == "RUNNING" else state.word
        if "held" in state.reason.lower():
            return "waiting", f"held ({state.reason}): `scontrol release {record.job_id}` lets it go on"
        return "waiting", "comes back" if started else "" if state.reason == "None" else state.reason
    if endings:
        return _ended(endings[0], cancelled)
    if cancelled or (not started and (not_run or state.word == "CANCELLED")):
        return "cancelled", not_run
    if state.word == GONE:
        return "lost", "Slurm no longer knows the job, which left no word: it was killed, or never started"
    return "failed", f"it ended ({state.word}) without a word of its own: it was killed, or never started"


def _ended(ending: Ending, cancelled: bool) -> tuple[str, str]:
    if cancelled:
        return "cancelled", ending.message
    return ("stopped" if ending.exit_code in SAVED else "failed"), ending.message


def _of_local(folder: Path | None, locked: bool) -> tuple[str, str]:
    """Of a stage of a run on this machine, which leaves a note when it fails."""
    if folder is None or not folder.is_dir():
        return "to do", ""
    try:
        return "failed", json.loads((folder / FAILED).read_text(encoding="utf-8"))["message"]
    except (FileNotFoundError, ValueError):
        return ("running", "") if locked else ("stopped", "the same words go on from here")


def _of_tables(record: StageRecord, states: dict[str, State]) -> Row:
    state = states.get(record.job_id, State(NO_ANSWER))
    if (record.notes / jobs.TABLES_DONE).is_file():
        return Row(TABLES, "done", record.job_id)
    word, detail = _of_job(record, state, [], None)
    return Row(TABLES, word, record.job_id, detail=detail)


def _last_sign(folder: Path | None) -> str:
    """When a file of a stage was last written."""
    times = [path.stat().st_mtime for path in folder.glob("*")] if folder is not None and folder.is_dir() else []
    return f"its last file is {_duration(max(time.time() - max(times), 0))} old" if times else "it has no files yet"


def verdict(rows: list[Row]) -> tuple[int, str]:
    """Exit code and one line."""
    named = {state: [row for row in rows if row.state == state] for state in {row.state for row in rows}}
    done = f"{len(named.get('done', []))} of {len(rows)} stages done"
    parts = [f"{state}: {', '.join(row.stage for row in named[state])}"
             for state in (*ALIVE, "failed", "lost", "stopped", "cancelled", "to do")
             if state in named]
    if any(state in named for state in ALIVE):
        return GOING, "; ".join([done, *parts])
    if not parts:
        return ALL_DONE, f"all {len(rows)} stages done"
    first = next((row for row in rows if row.state in ("failed", "lost")), None)
    why = f" ({first.stage}: {first.detail})" if first else ""
    again = "; `python -m benchmarks retry --failed` goes on" if any(row.job_id for row in rows) else ""
    return INCOMPLETE, f"error: {'; '.join([done, *parts])}{why}{again}"


def table(rows: list[Row]) -> str:
    """The rows for a terminal."""
    return tabulate([[row.stage, row.state, row.job_id, row.steps, "" if row.seconds_left is None else
                      _duration(row.seconds_left), row.metric, row.detail[:100]] for row in rows],
                    headers=["stage", "state", "job", "progress", "time left", "last figure", ""],
                    disable_numparse=True)


def snapshot(plan: Plan) -> list[Row]:
    """All rows now, with what squeue says."""
    return look(plan, _ask(plan.options.output))


def _ask(output: Path) -> dict[str, State]:
    return jobs.ask([record.job_id for record in jobs.newest(output).values()])


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks status", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output(parser)
    parser.add_argument("--watch", action="store_true", help="show it again every 5 s until nothing waits or runs")
    args = parser.parse_args(words)
    return watch(args.output.absolute(), args.watch, time.sleep)


def watch(output: Path, again: bool, sleep: Callable[[float], None]) -> int:
    """Print the table, `again` and again if asked for; returns the exit code."""
    while True:
        readable = True
        try:
            rows = snapshot(plan_of(output))
        except UnreadablePlan as error:
            print(f"warning: {error}; this is what the folder itself shows", file=sys.stderr)
            rows = look_without_plan(output, _ask(output))
            readable = False
        code, line = verdict(rows)
        if not readable and code == ALL_DONE:
            code, line = INCOMPLETE, f"{line} of those that have begun; whether there are others is in the plan"
        clear = "\x1b[H\x1b[2J" if again and sys.stdout.isatty() else ""
        print(f"{clear}{table(rows)}\n{line}", flush=True)
        if not again or code != GOING:
            return code
        sleep(EVERY)


def add_output(parser: argparse.ArgumentParser) -> None:
    """--output, as of ./run_all.sh."""
    parser.add_argument("--output", type=Path, default=ROOT / "output", metavar="DIR",
                        help="the --output of ./run_all.sh (default: its default)")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
