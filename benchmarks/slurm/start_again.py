"""What was killed inside a job (SIGKILL, out of memory) is started again by the job's own script.

The job goes on, so that what waits for it still does; its work resumes from the newest checkpoint.
What failed by its own fault says so in a note and is not started again.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.slurm.jobs import CANCELLED, WAS_KILLED, Ending, endings
from pretrain.common.errors import KILLED

# Exit codes of srun for that. 125: out of memory, as a signal above 128 or without.
AFTER_A_KILL = (KILLED, 125, 128 + 125)
TERMINATED = 128 + 15  # srun ends the processes that are left, and gives the highest code
SCRIPT = """stages=({stages})
srun() {{
    local code again=0
    until command srun "$@"; do
        code=$?
        {python} -m benchmarks.slurm.start_again {folder}/"${{stages[${{SLURM_ARRAY_TASK_ID:-0}}]}}" \\
            $code $((again++)) {retries} || return $code
    done
}}"""


def shell_lines(stages: Sequence[str], folder: Path, retries: int) -> list[str]:
    """Lines of a job's script that let its srun start again. `stages`: of the array, in order;
    `folder`: of their notes."""
    text = SCRIPT.format(stages=shlex.join(stages), python=shlex.quote(sys.executable),
                         folder=shlex.quote(str(folder)), retries=retries)
    return text.splitlines()


def main(arguments: Sequence[str]) -> int:
    """After an srun that failed. NOTES CODE AGAIN RETRIES: the stage's notes, srun's exit code, how
    often it was started again and how often it may be. Returns 0 when it should be."""
    notes, code, again, retries = Path(arguments[0]), *map(int, arguments[1:])
    found = endings(notes)
    own_fault = any(ending.exit_code != KILLED for ending in found)
    killed = code in AFTER_A_KILL or (code == TERMINATED and found)
    if not killed or own_fault or (notes / CANCELLED).exists():
        return 1
    what = found[0].message if found else WAS_KILLED
    if again >= retries:
        times = f", the last of {again + 1} starts" if again else ""
        message = f"{what}{times}: give it more memory (--mem-gb), then `clove retry --failed` resumes"
        Ending(KILLED, message).write(notes)
        return 1
    for path in notes.glob("ended_*.json"):
        path.unlink()
    print(f"{what}: started again, {again + 1} of {retries} times", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
