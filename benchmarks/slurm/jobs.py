"""Which job does which stage: the records of submissions, and what squeue says of them.

Each submission has a folder OUTPUT/jobs/TIME-XXXX with its scripts and logs (submitit's), plan.json, submitted.json,
and for each stage a folder of notes: started.json, cancelled.json, and ended_RANK.json of each process that ended
otherwise than well. Accounting, which many clusters lack, is not asked.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError

RECORD = "submitted.json"
STARTED, CANCELLED = "started.json", "cancelled.json"
OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT")
GONE = "GONE"  # Slurm forgets a job that is over after MinJobAge, 5 minutes by default
NO_ANSWER = "NO ANSWER"
TABLES, TABLES_DONE = "tables", "tables.json"  # the last job of a graph: no stage, for it is never done for good


@dataclass(frozen=True)
class Ending:
    """How a process of a job ended, with the exit codes of `python -m pretrain`."""

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
        """How its processes ended, if otherwise than well; the cause first."""
        found = []
        for path in sorted(self.notes.glob("ended_*.json")):
            try:
                found.append(Ending(**json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError):  # removed as we looked
                continue
        return sorted(found, key=lambda one: ((2, 3, 143, 75).index(one.exit_code)
                                              if one.exit_code in (2, 3, 143, 75) else 9, one.rank))


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
    """Those of a run, the oldest first."""
    found = []
    for path in sorted((output / "jobs").glob(f"*/{RECORD}")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            records = [StageRecord(**one | {"needs": tuple(one["needs"])}) for one in content.pop("records")]
            found.append(Submitted(**content, records=records))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): its jobs cannot be told; see "
                            "squeue, then move that folder away") from None
    return sorted(found, key=lambda one: one.submitted)


def newest(output: Path) -> dict[str, StageRecord]:
    """The last job of each stage."""
    return {record.stage: record for submission in submissions(output) for record in submission.records}


@dataclass(frozen=True)
class State:
    """Slurm's word, why a job waits, and seconds that it has run."""

    word: str
    reason: str = ""

    @property
    def is_over(self) -> bool:
        return self.word in (*OVER, GONE)


def ask(job_ids: list[str]) -> dict[str, State]:
    """squeue's answer for each job; `GONE` where it knows none, `NO_ANSWER` for all where it does not answer."""
    if not job_ids:
        return {}
    try:
        # --array: a line for each job of an array. A number that is not there is an error only if it stands alone.
        asked = subprocess.run(["squeue", "--noheader", "--states=all", "--array", f"--jobs={','.join(job_ids)}",
                                "--format=%i|%T|%r"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return dict.fromkeys(job_ids, State(NO_ANSWER))
    if asked.returncode and "Invalid job id" not in asked.stderr:
        return dict.fromkeys(job_ids, State(NO_ANSWER))
    lines = [line.strip().split("|") for line in asked.stdout.splitlines() if line.count("|") == 2]
    told = {job_id: State(word, reason) for job_id, word, reason in lines}
    return {job_id: told.get(job_id, State(GONE)) for job_id in job_ids}


def refuse_beside_jobs(output: Path) -> None:
    """A run on this machine does not begin while jobs work in the same folder."""
    records = newest(output)
    states = ask([record.job_id for record in records.values()])
    for name, record in records.items():
        state = states[record.job_id]
        if state.word == NO_ANSWER:
            print(f"warning: jobs were submitted from {output}, and Slurm does not answer: see that none goes on",
                  file=sys.stderr)
            return
        if not state.is_over:
            raise UserError(f"job {record.job_id} (stage {name}) works in {output}: `python -m benchmarks cancel` ends "
                            "the jobs, --cluster slurm goes on with them, another --output is apart from them")


def note_start(notes: Path, job_id: str, host: str) -> None:
    """The job of a stage begins, perhaps again."""
    write_text(notes / STARTED, json.dumps({"job_id": job_id, "host": host, "time": now()}) + "\n")


def now() -> str:
    """ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
