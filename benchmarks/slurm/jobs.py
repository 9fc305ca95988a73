"""Which job does which stage: the records of submissions, and what squeue says of them.

Each submission has a folder OUTPUT/jobs/TIME-XXXX with its scripts and logs (submitit's),
plan.json, submitted.json, and for each stage a folder of notes: started.json, cancelled.json, and
ended_RANK.json of each process that failed or was stopped. Accounting, which many clusters lack,
is not used.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError, refuse

RECORD = "submitted.json"
STARTED, CANCELLED = "started.json", "cancelled.json"
OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT")
GONE = "GONE"  # Slurm forgets a job that is over after MinJobAge, 5 minutes by default
NO_ANSWER = "NO ANSWER"
TABLES, TABLES_DONE = "tables", "tables.json"  # the last job of a graph; it runs at each submission
CAUSES = {2: 0, 3: 1, 143: 2, 75: 3}  # exit codes, the likeliest cause of the others first


@dataclass(frozen=True)
class Ending:
    """How a process of a job ended, with the exit codes of `clove pretrain`."""

    exit_code: int
    message: str
    rank: int = 0

    def write(self, folder: Path) -> None:
        write_text(folder / f"ended_{self.rank}.json", json.dumps(asdict(self)) + "\n")


@dataclass(frozen=True)
class StageRecord:
    """One stage of a submission. `identity`: `Stage.planned`. `needs`: the parents' names."""

    stage: str
    job_id: str
    identity: str
    needs: tuple[str, ...]
    folder: str  # of the submission

    @property
    def notes(self) -> Path:
        """Where its job leaves notes."""
        return Path(self.folder) / self.stage

    def log(self, rank: int = 0) -> Path:
        """What process `rank` printed, over all starts."""
        return Path(self.folder) / f"{self.job_id}_{rank}_log.out"

    def endings(self) -> list[Ending]:
        """How its processes failed or were stopped; the cause first."""
        found = []
        for path in sorted(self.notes.glob("ended_*.json")):
            try:
                found.append(Ending(**json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError):  # removed meanwhile
                continue
        return sorted(found, key=lambda one: (CAUSES.get(one.exit_code, 9), one.rank))


@dataclass
class Submitted:
    """All jobs of one submission."""

    folder: str
    code: str
    submitted: str
    records: list[StageRecord] = field(default_factory=list)

    def write(self) -> None:
        """Whole, after every job: a submission that is killed leaves no job without a record."""
        write_text(Path(self.folder) / RECORD, json.dumps(asdict(self), indent=1) + "\n")


def submissions(output: Path) -> list[Submitted]:
    """The submissions of a run, the oldest first."""
    found = []
    for path in sorted((output / "jobs").glob(f"*/{RECORD}")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            records = [StageRecord(**one | {"needs": tuple(one["needs"])}) for one in content.pop("records")]
            found.append(Submitted(**content, records=records))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}: {error}), so its jobs are not known: see "
                            "squeue, then move that folder away") from None
    return sorted(found, key=lambda one: one.submitted)


def newest(output: Path) -> dict[str, StageRecord]:
    """The last job of each stage."""
    return {record.stage: record for submission in submissions(output) for record in submission.records}


@dataclass(frozen=True)
class State:
    """Slurm's word for the state of a job, and why it waits."""

    word: str
    reason: str = ""

    @property
    def is_over(self) -> bool:
        return self.word in (*OVER, GONE)


def ask(job_ids: list[str]) -> dict[str, State]:
    """squeue's answer for each job; `GONE` where it knows none, `NO_ANSWER` for all where it does
    not answer."""
    if not job_ids:
        return {}
    # --array: a line for each job of an array. An unknown id is an error only if it stands alone.
    command = ["squeue", "--noheader", "--states=all", "--array", f"--jobs={','.join(job_ids)}",
               "--format=%i|%T|%r"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return dict.fromkeys(job_ids, State(NO_ANSWER))
    if asked.returncode and "Invalid job id" not in asked.stderr:
        return dict.fromkeys(job_ids, State(NO_ANSWER))
    states = dict.fromkeys(job_ids, State(GONE))
    for line in asked.stdout.splitlines():
        job_id, *about = line.strip().split("|")
        if job_id in states and len(about) == 2:
            states[job_id] = State(*about)
    return states


def ask_all(records: dict[str, StageRecord]) -> dict[str, State]:
    """squeue's answers for the jobs of these stages, by job id."""
    return ask([record.job_id for record in records.values()])


def alive(records: dict[str, StageRecord]) -> dict[str, StageRecord]:
    """Those whose jobs are not over; `UserError` when Slurm does not answer."""
    states = ask_all(records)
    refuse((State(NO_ANSWER) in states.values(),
            "Slurm does not answer (squeue), so it is not known which jobs still run: nothing was changed, try "
            "again in a minute"))
    return {name: record for name, record in records.items() if not states[record.job_id].is_over}


def refuse_beside_jobs(output: Path) -> None:
    """A run on this machine does not begin while jobs work in the same folder."""
    records = newest(output)
    states = ask_all(records)
    for name, record in records.items():
        state = states[record.job_id]
        if state.word == NO_ANSWER:
            print(f"warning: jobs were submitted from {output}, and Slurm does not answer: check that none runs",
                  file=sys.stderr)
            return
        refuse((not state.is_over,
                f"job {record.job_id} (stage {name}) works in {output}: end the jobs with `clove "
                "cancel`, continue with them by --cluster slurm, or choose another --output"))


def note_start(notes: Path, job_id: str, host: str) -> None:
    """Note that the job of a stage starts, perhaps again."""
    write_text(notes / STARTED, json.dumps({"job_id": job_id, "host": host, "time": now()}) + "\n")


def now() -> str:
    """ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
