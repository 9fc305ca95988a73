"""Where a submitted job stands, from its own files and `squeue`; accounting, which many clusters lack, is not asked.

Beside the run stands submission.json. In the job's folder each of its processes leaves ended_RANK.json when it ends
otherwise than well; pretrain's done.json says that all is well.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pretrain.atomic import write_text
from pretrain.signals import Stop, never

RECORD = "submission.json"
OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT")
GONE = "GONE"  # Slurm forgets a job that is over after MinJobAge, 5 minutes by default
NO_ANSWER = "NO ANSWER"
PATIENCE = 900.0  # seconds without an answer of Slurm's controller
ASK_EVERY = {"slurm": 15.0, "local": 0.5}  # seconds; a controller has many to answer


@dataclass(frozen=True)
class Submission:
    """A job that was handed over. `folder` holds its script, logs and notes; `code` the sources it runs."""

    job_id: str
    cluster: str
    output: str
    folder: str
    code: str
    submitted: str
    config_hash: str
    parameters: dict[str, Any]

    def log(self, rank: int = 0) -> Path:
        """What process `rank` prints, over all starts."""
        return Path(self.folder) / f"{self.job_id}_{rank}_log.out"

    def write(self) -> None:
        write_text(Path(self.output) / RECORD, json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True)
class Ending:
    """How a process of a job ended, with the exit codes of `python -m pretrain`."""

    exit_code: int
    message: str
    rank: int = 0

    def write(self, folder: Path) -> None:
        write_text(folder / f"ended_{self.rank}.json", json.dumps(asdict(self)) + "\n")


def read_submission(output: Path) -> Submission | None:
    """The last submission of a run, if there was one."""
    try:
        return Submission(**json.loads((output / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def state(submission: Submission) -> str:
    """Slurm's word for the job's state, `GONE`, or `NO_ANSWER`; RUNNING or GONE on this machine."""
    if submission.cluster == "local":
        return "RUNNING" if _is_controller(submission) else GONE
    try:
        asked = subprocess.run(["squeue", "--noheader", "--states=all", f"--jobs={submission.job_id}", "--format=%T"],
                               capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return NO_ANSWER
    if asked.returncode == 0:
        return asked.stdout.strip() or GONE
    return GONE if "Invalid job id" in asked.stderr else NO_ANSWER


def is_over(word: str) -> bool:
    """Whether a job in this state has ended for good."""
    return word in (*OVER, GONE)


def _is_controller(submission: Submission) -> bool:
    """Whether the process with the job's number is that job's: numbers are used again."""
    try:
        words = Path(f"/proc/{submission.job_id}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return os.fsencode(submission.folder) in words  # a dead child that nobody waited for has no words


def verdict(submission: Submission, word: str) -> Ending:
    """How a job that is over ended; `word` is its last state."""
    if (Path(submission.output) / "done.json").is_file():
        return Ending(0, str(Path(submission.output) / "backbone.safetensors"))
    endings = [Ending(**json.loads(path.read_text(encoding="utf-8")))
               for path in sorted(Path(submission.folder).glob("ended_*.json"))]
    if not endings:
        return Ending(1, f"it ended ({word}) without a word of its own: it was killed, or never started; its log is "
                         f"{submission.log()}; submitted again with the same words it goes on")
    # One process's mistake breaks the others' connections: their endings come after it in this order.
    return min(endings, key=lambda one: ((2, 3, 143, 75).index(one.exit_code) if one.exit_code != 1 else 9, one.rank))


def wait(
    submission: Submission, stop: Stop = never, on_stop: Callable[[], bool] = lambda: True, patience: float = PATIENCE
) -> Ending:
    """Follow a job until it is over, printing every change of its state.

    When `stop` answers an exit code, `on_stop` is called once; if that answers True the job is left to itself. Gives up
    after `patience` seconds without an answer of Slurm.
    """
    before, answered, told = "", time.monotonic(), False
    while True:
        word = state(submission)
        if word != before:
            print(f"job {submission.job_id}: {word}", flush=True)
            before = word
        if is_over(word):
            return verdict(submission, word)
        if word != NO_ANSWER:
            answered = time.monotonic()
        elif time.monotonic() - answered > patience:
            return Ending(1, f"no answer from Slurm for {patience:.0f} s; the job may go on, `squeue -j "
                             f"{submission.job_id}` tells")
        code = stop()
        if code and not told:
            told = True
            if on_stop():
                return Ending(code, f"no longer waited for; the job goes on, `scancel {submission.job_id}` ends it")
        _pause(ASK_EVERY[submission.cluster], stop, told)


def _pause(seconds: float, stop: Stop, told: bool) -> None:
    """Until it is time to ask again, or somebody asks to stop."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and (told or not stop()):
        time.sleep(0.2)
