"""Which job does which stage: the records of submissions, and what squeue says of them.

Each submission has a folder OUTPUT/jobs/TIME-XXXX with its scripts and logs (submitit's),
plan.json, submitted.json, and for each stage a folder of notes: started.json, cancelled.json, and
ended_RANK.json of each process that failed or was stopped. Accounting, which many clusters lack,
is not used.

A record is written before sbatch is called, with a key that the job carries, and again with the
job's number. Who was stopped in between leaves a record without a number; the key finds the job.
"""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.slurm import commands
from benchmarks.stages.error_line import error_line
from pretrain.common.atomic import write_text
from pretrain.common.errors import KILLED, UserError, refuse
from pretrain.common.signals import COME_BACK
from pretrain.common.stalls import IN_VAIN, NO_IMAGES, NOT_WITHIN

RECORD = "submitted.json"
STARTED, CANCELLED, AGAIN = "started.json", "cancelled.json", "again.json"
OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT")
GONE = "GONE"  # Slurm forgets a job that is over after MinJobAge, 5 minutes by default
NO_ANSWER = "NO ANSWER"
NOTHING_CHANGED = ("Slurm does not answer (squeue), so it is not known which jobs still run: nothing was changed, try "
                   "again in a minute")
SBATCH_LIMIT = 50.0  # seconds after which an sbatch is ended, though its caller is gone
SBATCH_SECONDS = 60.0  # after which Slurm has the job, or never will
TABLES, TABLES_DONE = "tables", "tables.json"  # the last job of a graph; it runs at each submission
WAS_KILLED = "killed (SIGKILL or out of memory)"
CAUSES = {2: 0, 3: 1, 143: 2, 75: 3, KILLED: 10}  # exit codes, the likeliest cause of the others first


@dataclass(frozen=True)
class Ending:
    """How a process of a job ended, with the exit codes of `clove pretrain`."""

    exit_code: int
    message: str
    rank: int = 0

    @property
    def is_stall(self) -> bool:
        """Whether a deadline ended it, for another process or for images."""
        return self.exit_code == KILLED and (NO_IMAGES in self.message or IN_VAIN in self.message)

    @property
    def is_ended_stall(self) -> bool:
        """Whether it waited in vain when SIGTERM came."""
        return self.exit_code == 143 and NOT_WITHIN in self.message

    def write(self, folder: Path) -> None:
        write_text(folder / f"ended_{self.rank}.json", json.dumps(asdict(self)) + "\n")


@dataclass
class StageRecord:
    """One stage of a submission. `job_id`: "" until sbatch has answered. `identity`:
    `Stage.planned`. `needs`: the parents' names. `key`: the job's own mark, one for an array."""

    stage: str
    job_id: str
    identity: str
    needs: tuple[str, ...]
    folder: str  # of the submission
    key: str = ""

    @property
    def notes(self) -> Path:
        """Where its job leaves notes."""
        return Path(self.folder) / self.stage

    def log(self, rank: int = 0) -> Path:
        """What process `rank` printed, over all starts."""
        return log_of(Path(self.folder), self.job_id, rank)

    def endings(self) -> list[Ending]:
        """How its processes failed or were stopped; the cause first."""
        return endings(self.notes)

    def again(self) -> str:
        """Why its script started it again or requeued it; "" where it did not."""
        try:
            return json.loads((self.notes / AGAIN).read_text(encoding="utf-8"))["message"]
        except (OSError, ValueError, KeyError):
            return ""

    def why(self, ending: Ending) -> str:
        """Its message; of a program that failed, with its last error."""
        if ending.exit_code in (COME_BACK, 143, KILLED):
            return ending.message
        error = error_line(self.log(ending.rank))
        if not error or error in ending.message:
            return ending.message
        return f"{ending.message.partition('; its files are in ')[0]}: {error}"


def log_of(folder: Path, job_id: str, rank: int = 0) -> Path:
    """What process `rank` of a job prints, as submitit names it. `folder`: of the submission."""
    return folder / f"{job_id}_{rank}_log.out"


def endings(notes: Path) -> list[Ending]:
    """How the processes of a job failed or were stopped, from its notes; the cause first."""
    found = []
    for path in sorted(notes.glob("ended_*.json")):
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
        """Whole, before and after every sbatch: a submission that is killed leaves no job without a
        record."""
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


def every_record(output: Path) -> list[StageRecord]:
    """The records of all submissions, the oldest first; without those whose job Slurm does not know."""
    records: list[StageRecord] = []
    for submission in submissions(output):
        records += submission.records
    if not is_complete(records):
        numbers = numbers_by_key()
        if numbers is not None:
            return numbered(records, numbers)
    return records


def newest(output: Path) -> dict[str, StageRecord]:
    """The last job of each stage."""
    return {record.stage: record for record in every_record(output)}


def is_complete(records: list[StageRecord]) -> bool:
    """Whether the job of each is known."""
    return all(record.job_id for record in records)


def numbered(records: list[StageRecord], numbers: dict[str, str]) -> list[StageRecord]:
    """The records whose job is known; one without a job gets the job that carries its key, if there is one."""
    arrays = defaultdict(list)
    for record in records:
        arrays[record.key].append(record)
    for key in arrays.keys() & numbers.keys():
        for place, record in enumerate(arrays[key]):
            index = f"_{place}" if len(arrays[key]) > 1 else ""
            record.job_id = record.job_id or numbers[key] + index
    return [record for record in records if record.job_id]


def find_lost(output: Path) -> list[StageRecord]:
    """Number the records that have no job and write them down; those that Slurm knows nothing of
    are removed. Returns the records whose jobs were found. The caller holds the run's lock.

    `UserError` when Slurm does not answer.
    """
    found = []
    for submission in submissions(output):
        if is_complete(submission.records):
            continue
        lost = [record for record in submission.records if not record.job_id]
        names = ", ".join(record.stage for record in lost)
        written = (Path(submission.folder) / RECORD).stat().st_mtime
        until = min(written, time.time()) + SBATCH_SECONDS  # another machine's clock may be ahead
        print(f"a submission was stopped while it handed over {names}: looking for its job", file=sys.stderr)
        while True:
            numbers = numbers_by_key()
            refuse((numbers is None, NOTHING_CHANGED))
            records = numbered(submission.records, numbers)
            if is_complete(submission.records) or time.time() > until:
                break
            time.sleep(2)
        submission.records = records
        submission.write()
        new = numbered(lost, {})
        found += new
        print(f"found job {new[0].job_id}" if new else "Slurm knows no such job", file=sys.stderr)
    return found


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
    states = dict.fromkeys(job_ids, State(NO_ANSWER))  # of a record without a number it stays so
    numbers = [job_id for job_id in job_ids if job_id]
    if not numbers:
        return states
    # --array: a line for each job of an array. An unknown id is an error only if it stands alone.
    lines = _squeue("--array", f"--jobs={','.join(numbers)}", "--format=%i|%T|%r")
    if lines is None:
        return states
    states.update(dict.fromkeys(numbers, State(GONE)))
    for job_id, *about in lines:
        if job_id in states and len(about) == 2:
            states[job_id] = State(*about)
    return states


def numbers_by_key() -> dict[str, str] | None:
    """The numbers of the user's jobs by their names and comments, of which one is a job's key; an
    array has one number. None when Slurm does not answer."""
    lines = _squeue("--me", "--format=%F|%j|%k")
    if lines is None:
        return None
    numbers = {}
    for number, *texts in lines:
        numbers.update(dict.fromkeys(texts, number))
    return numbers


def _squeue(*options: str) -> list[list[str]] | None:
    """Lines of its answer, split at |; None when it gives none."""
    asked = commands.call("squeue", "--noheader", "--states=all", *options)
    if asked.returncode and "Invalid job id" not in asked.stderr:
        return None
    return [line.strip().split("|") for line in asked.stdout.splitlines()]


def ask_all(records: Iterable[StageRecord]) -> dict[str, State]:
    """squeue's answers for the jobs of these records, by job id."""
    return ask([record.job_id for record in records])


def end(records: list[StageRecord]) -> subprocess.CompletedProcess[str]:
    """Ask Slurm to end the jobs of these records."""
    return commands.call("scancel", *[record.job_id for record in records])


def alive(records: list[StageRecord]) -> list[StageRecord]:
    """Those whose jobs are not over; `UserError` when Slurm does not answer."""
    states = ask_all(records)
    refuse((State(NO_ANSWER) in states.values(), NOTHING_CHANGED))
    return [record for record in records if not states[record.job_id].is_over]


def refuse_beside_jobs(output: Path) -> None:
    """A run on this machine does not begin while jobs work in the same folder."""
    records = every_record(output)
    states = ask_all(records)
    for record in records:
        state = states[record.job_id]
        if state.word == NO_ANSWER:
            print(f"warning: jobs were submitted from {output}, and Slurm does not answer: check that none runs",
                  file=sys.stderr)
            return
        refuse((not state.is_over,
                f"job {record.job_id} (stage {record.stage}) works in {output}: end the jobs with `clove "
                "cancel`, continue with them by --cluster slurm, or choose another --output"))


def note_start(notes: Path, job_id: str, host: str) -> None:
    """Note that the job of a stage starts, perhaps again."""
    write_text(notes / STARTED, json.dumps({"job_id": job_id, "host": host, "time": now()}) + "\n")


def note_tables(notes: Path, exit_code: int, message: str) -> None:
    """Note that the tables were made, and how the graph stood then."""
    write_text(notes / TABLES_DONE, json.dumps({"exit_code": exit_code, "message": message}) + "\n")


def now() -> str:
    """ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
