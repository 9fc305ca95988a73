"""The signals of a job's process, and who owns them.

`clove pretrain` owns its own (pretrain/common/signals.py). In a job `JobSignals` does, and
gives the loop a function that says when to stop; the loop's processes agree on it, so that all
stop and save after the same step:

  SIGUSR2  time limit or preemption, sent by Slurm as submitit asked: save, then submitit requeues the job.
  SIGTERM  a bare `scontrol requeue`, a failed node, `scancel`, the start of a preemption: save, then wait for
           SIGKILL, or a SIGUSR2 after all. Slurm decides whether the job is requeued.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

from pretrain.common.signals import COME_BACK

GRACE = 600.0  # seconds that a stopped job waits to be killed; Slurm's KillWait is 30, GraceTime what a site likes
# Until a process has its handlers, a signal must not end it: Slurm would take that for a failure and not requeue.
DEAF = """sh -c 'trap "" USR2 TERM; exec "$0" "$@"'"""
REQUEUE_TRIES, REQUEUE_PAUSE = 5, 10.0  # a controller that restarts is away for a while


class JobSignals:
    """Owns SIGUSR2 and SIGTERM of a job's process: both are remembered, and the loop asks for
    them by `stop`."""

    def __enter__(self) -> "JobSignals":
        self.received: set[int] = set()
        self.submitits = {number: signal.signal(number, self._remember) for number in (signal.SIGUSR2, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.submitits.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.received.add(number)
        # Not print: the signal may have interrupted one.
        os.write(sys.stderr.fileno(), f"{signal.Signals(number).name} received\n".encode())

    def stop(self) -> int:
        """`pretrain.common.signals.Stop`: 75 after SIGUSR2, 143 after SIGTERM, else 0."""
        if signal.SIGUSR2 in self.received:
            return COME_BACK
        return 128 + signal.SIGTERM if signal.SIGTERM in self.received else 0

    def wait_for_usr2(self, seconds: float) -> bool:
        """Whether SIGUSR2 is there, or comes within `seconds`."""
        until = time.monotonic() + seconds
        while signal.SIGUSR2 not in self.received and time.monotonic() < until:
            time.sleep(0.1)
        return signal.SIGUSR2 in self.received

    def requeue(self) -> None:
        """Let submitit do what it does at SIGUSR2: the first process calls checkpoint() and
        requeues the job, which ends this process; in the others it returns. Raises what submitit
        raises when the job cannot come back."""
        handler: Callable = self.submitits[signal.SIGUSR2]
        for left in reversed(range(REQUEUE_TRIES)):
            try:
                return handler(signal.SIGUSR2, None)
            except (subprocess.SubprocessError, OSError):
                if not left:
                    raise
                time.sleep(REQUEUE_PAUSE)
