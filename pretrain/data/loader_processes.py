"""The processes that load images, of a pretraining and of a fine-tuning: their start, the shared memory that they need,
and what their end means in one line."""

import multiprocessing
import os
import signal
from multiprocessing.util import Finalize
from pathlib import Path

import torch

from pretrain.common.errors import Killed, refuse
from pretrain.common.stalls import NO_IMAGES, end_children

SHARED_MEMORY = Path("/dev/shm")
PREFETCHED = 2  # batches that each process has ready or in the making: torch's default
TERM_GRACE = 600  # seconds, a slow step's worth, that a loader process goes on for after SIGTERM


class _Deadline:
    seconds = 1800.0


def set_deadline(seconds: float) -> None:
    """For the loaders that this process makes from now on."""
    _Deadline.seconds = seconds


def deadline(workers: int) -> float:
    """Seconds that a batch is waited for, as torch's DataLoader takes it; 0 without loader processes."""
    return _Deadline.seconds if workers else 0


def start_worker(_: int) -> None:
    torch.set_num_threads(1)  # the processes are the parallelism
    # Ctrl-C and Slurm signal the whole group: the training process decides, and its loaders finish
    # its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(TERM_GRACE))


def free_shared_memory() -> int | None:
    """In bytes; None where there is no such disk."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def check_shared_memory(batch: int, workers: int, held: int, processes: int, option: str) -> None:
    """Raise `UserError` when the loaders could not hand over all that they may have ready: they would
    wait for ever.

    batch: bytes. held: batches in the hands of the training. processes: trainings on this machine.
    option: which asks for no loader processes.
    """
    free = free_shared_memory()
    needed = processes * batch * (PREFETCHED * workers + held)
    refuse((workers and free is not None and free < needed,
            f"shared memory is too small: expected {needed / 1e6:.1f} MB free in {SHARED_MEMORY} for "
            f"{processes * workers} loader processes with batches of {batch / 1e6:.1f} MB, found "
            f"{(free or 0) / 1e6:.1f} MB; use {option}, or give the container more (docker run --shm-size=4g)"))


def problem(error: RuntimeError, workers: int, option: str) -> Killed | None:
    """What the end or the silence of loader processes means for a user, which torch says by a
    RuntimeError wherever the process is just then; None for another error. Ends those that are
    left: the exit would wait for them."""
    text = " ".join(str(error).split())
    if "DataLoader timed out" in text:
        _end_loaders()
        free = free_shared_memory()
        memory = "" if free is None else f", {SHARED_MEMORY} has {free / 1e6:.0f} MB free"
        return Killed(f"the loader processes {NO_IMAGES} ({text}, --loader-timeout{memory}): the disk of "
                      f"the images hangs, or shared memory is full; look at both or use {option}, then run the same "
                      "command again to resume")
    if "DataLoader worker" not in text:
        return None
    _end_loaders()
    name = option.removesuffix("0").rstrip(" =")
    return Killed(f"a loader process died ({text}): the memory may be too small for {workers} ({name}); run the same "
                  "command again to resume")


def _end_loaders() -> None:
    of_torch = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # it would raise for each one that is killed
    end_children()
    for child in multiprocessing.active_children():
        if child.daemon:
            child.join()
    signal.signal(signal.SIGCHLD, of_torch or signal.SIG_DFL)


# Whatever ends a process, a traceback too, its loaders go first: multiprocessing would wait TERM_GRACE for them.
Finalize(None, _end_loaders, exitpriority=10)
