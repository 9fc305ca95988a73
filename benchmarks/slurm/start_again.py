"""What was killed inside a job (SIGKILL, out of memory) is started again by the job's own script.

The job goes on, so that what waits for it still does; its work resumes from the newest checkpoint.
What failed by its own fault says so in a note and is not started again; what waited in vain (a
stalled collective, a disk that hangs) is started again once. Between two starts nothing hears
Slurm's signals, so Slurm is asked: a job whose time is nearly over is requeued instead, and one
that is preempted is left to Slurm.
"""

import json
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.slurm import commands
from benchmarks.slurm.job_signals import GRACE, REQUEUE_PAUSE, REQUEUE_TRIES
from benchmarks.slurm.jobs import AGAIN, CANCELLED, WAS_KILLED, Ending, endings, log_of
from benchmarks.stages.error_line import last_start
from pretrain.common.atomic import write_text
from pretrain.common.errors import KILLED
from pretrain.common.stalls import IN_VAIN

# Exit codes of srun for that. 125: out of memory, as a signal above 128 or without; but often it is 1 then.
AFTER_A_KILL = (KILLED, 125, 128 + 125)
OUT_OF_MEMORY = re.compile(r"(srun|slurmstepd\S*): error: .*(Out Of Memory|oom.kill)")
NCCL_TIMEOUT = "Watchdog caught collective operation timeout"  # then it aborts the process, which leaves no note
TERMINATED = 128 + 15  # srun ends the processes that are left, and gives the highest code
STALLS = 1  # a bad node may be the cause; more would use hours up
TOO_LATE = 120.0  # seconds: Slurm's warning may come one minute early, and a start hears signals after some time
SCRIPT = """stages=({stages})
notes={folder}/"${{stages[${{SLURM_ARRAY_TASK_ID:-0}}]}}"
rm -f "$notes"/ended_*.json # of a start before the job was requeued
trap warned=1 USR2
srun() {{
    local code again=0
    until command srun "$@"; do
        code=$?
        {python} -m benchmarks.slurm.start_again "$notes" {retries} {tasks} {delay} $code $((again++)) ${{warned:-0}} \\
            || return $code
    done
}}"""


def shell_lines(stages: Sequence[str], folder: Path, retries: int, tasks: int, delay: int) -> list[str]:
    """Lines of a job's script that let its srun start again. `stages`: of the array, in order;
    `folder`: of their notes; `tasks`: processes of the job; `delay`: seconds before its time limit
    at which Slurm warns it."""
    text = SCRIPT.format(stages=shlex.join(stages), python=shlex.quote(sys.executable),
                         folder=shlex.quote(str(folder)), retries=retries, tasks=tasks, delay=delay)
    return text.splitlines()


@dataclass(frozen=True)
class Failed:
    """An srun that failed with `code` after it was started again `again` times; `warned`: the script
    got SIGUSR2."""

    notes: Path
    retries: int
    tasks: int
    delay: int
    code: int
    again: int
    warned: bool

    def is_killed(self, found: list[Ending], out_of_memory: bool) -> bool:
        """Whether no process failed by its own fault, and one was killed. One that waits for a process
        that was killed ends at the SIGTERM of srun, which decides srun's code then."""
        own = [ending for ending in found if ending.exit_code != KILLED and not ending.is_ended_stall]
        if own:
            return False
        silent = len(found) < self.tasks
        told = any(ending.exit_code == KILLED for ending in found)
        stalled = any(ending.is_stall for ending in found)
        ended_by_srun = self.code == TERMINATED and bool(found) and (told or silent)
        return self.code in AFTER_A_KILL or out_of_memory or stalled or ended_by_srun

    def endings(self) -> list[Ending]:
        """How its processes ended, as far as they said so."""
        found = endings(self.notes)
        for rank in range(self.tasks):
            lines = last_start(log_of(self.notes.parent, _number(), rank))
            if any(NCCL_TIMEOUT in line for line in lines):
                message = f"process {rank} {IN_VAIN} (NCCL; --collective-timeout)"
                found.append(Ending(KILLED, message, rank))
        return found


def main(arguments: Sequence[str]) -> int:
    """After an srun that failed; NOTES, then the numbers of `Failed`. Returns 0 when it should be
    started again."""
    failed = Failed(Path(arguments[0]), *map(int, arguments[1:]))
    found = failed.endings()
    out_of_memory = any(OUT_OF_MEMORY.match(line) for line in last_start(log_of(failed.notes.parent, _number())))
    killed = failed.is_killed(found, out_of_memory)
    if (failed.notes / CANCELLED).exists() or not (killed or any(ending.is_ended_stall for ending in found)):
        return 1
    job = _shown()
    if job.get("PreemptTime", "None") != "None":  # Slurm requeues it, unless it ends before
        time.sleep(GRACE)
        return 1
    if not killed:
        return 1

    causes = [ending for ending in found if ending.exit_code == KILLED]
    stalls = [ending for ending in causes if ending.is_stall]
    unsaid = Ending(KILLED, "out of memory" if out_of_memory else WAS_KILLED)
    what = (stalls or causes or [unsaid])[0].message
    most = min(failed.retries, STALLS) if stalls else failed.retries
    requeued = _requeued(failed.notes)
    starts = failed.again + requeued + 1
    if starts > most:
        _give_up(failed.notes, what, starts, bool(stalls))
        return 1
    for path in failed.notes.glob("ended_*.json"):
        path.unlink()
    is_late = failed.warned or _seconds_left(job) < failed.delay + TOO_LATE
    line = f"{what}: {'requeued' if is_late else 'started again'}, {starts} of {most} times"
    write_text(failed.notes / AGAIN, json.dumps({"message": line, "requeued": requeued + is_late}) + "\n")
    print(line, flush=True)
    if is_late:
        _requeue(failed.notes, what)
    return int(is_late)


def _give_up(notes: Path, what: str, starts: int, stalled: bool) -> None:
    times = f", the last of {starts} starts" if starts > 1 else ""
    advice = "" if stalled else "give it more memory (--mem-gb), then "
    Ending(KILLED, f"{what}{times}: {advice}`clove retry --failed` resumes").write(notes)


def _requeued(notes: Path) -> int:
    """How often this job was requeued here: each time its script counts from 0 again."""
    try:
        return json.loads((notes / AGAIN).read_text(encoding="utf-8"))["requeued"]
    except (OSError, ValueError, KeyError):
        return 0


def _number() -> str:
    """This job's. SLURM_JOB_ID of one job of an array is the number of the whole array."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _shown() -> dict[str, str]:
    """What Slurm says of this job, by its names; {} when it does not answer."""
    shown = commands.call("scontrol", "--oneliner", "show", "job", _number())
    return dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)


def _seconds_left(job: dict[str, str]) -> float:
    """Until the time limit; infinite where that is not known, or there is none."""
    try:
        return (datetime.fromisoformat(job["EndTime"]) - datetime.now()).total_seconds()
    except (KeyError, ValueError):
        return math.inf


def _requeue(notes: Path, what: str) -> None:
    """Give the job back to Slurm, which ends it for that."""
    why = ""
    for _ in range(REQUEUE_TRIES):
        asked = commands.call("scontrol", "requeue", _number())
        if not asked.returncode:
            return
        why = asked.stderr
        time.sleep(REQUEUE_PAUSE)
    message = f"{what}, and the job could not be requeued ({' '.join(why.split())}): `clove retry --failed` resumes"
    Ending(KILLED, message).write(notes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
