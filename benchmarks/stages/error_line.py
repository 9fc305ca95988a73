"""The line of a log that says why a program failed."""

import re
from pathlib import Path

TAIL = 65536  # bytes at a log's end that are read
START = "Starting with JobEnvironment("  # submitit's line at each start of a process
KINDS = (
    re.compile(r"error: (?!stage \S+ (failed|was killed))"),  # ours; that of the job only says which stage failed
    re.compile(r"[\w.]*(Error|Exception|Interrupt)\b"),  # the end of Python's tracebacks
    re.compile(r"(?!srun: |slurmstepd|submitit |error: ).*\b(error|not found|no such|denied|killed|fault)\b", re.I),
    re.compile(r"(srun|slurmstepd\S*): error: "),
)


def error_line(log: Path) -> str:
    """The last error of a program's last start; "" where there is none."""
    lines = last_start(log)
    for kind in KINDS:
        found = [line for line in lines if kind.match(line)]
        if found:
            return found[-1].strip().removeprefix("error: ")
    return ""


def last_start(log: Path) -> list[str]:
    """The lines of a program's last start; none where there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, 2) - TAIL, 0))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    _, start, last = text.rpartition(START)
    return last.splitlines()[1:] if start else last.splitlines()
