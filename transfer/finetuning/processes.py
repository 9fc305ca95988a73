"""The processes of a run on this machine: on which device, started together, stopped together."""

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from unittest import mock

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from pretrain.common.errors import Killed, UserError, refuse
from pretrain.common.signals import EXIT_CODES, FROM_OUTSIDE, handled
from pretrain.common.stalls import IN_VAIN, ended_when_stalled
from pretrain.distributed import present_device
from transfer.finetuning.trainer import TrainingFailed
from transfer.settings.request import COLLECTIVE_TIMEOUT

MOST_ON_CPU = 64


def choose_device(wanted: str | None, num_gpus: int) -> str:
    """`present_device`; `UserError` too when it cannot have so many processes."""
    device = present_device(wanted)
    most = torch.cuda.device_count() if device == "cuda" else MOST_ON_CPU
    refuse((not 1 <= num_gpus <= most,
            f"--num-gpus {num_gpus}: expected 1 to {most} with device {device} on this machine"))
    return device


def start(
    work: Callable[..., None], processes: int, *arguments: object, device: str, timeout: float = COLLECTIVE_TIMEOUT
) -> None:
    """Run `work(*arguments)` in so many processes (one: in this one) to its end, on `device`. timeout:
    seconds that one waits for the others.

    With several processes the errors that a user can fix keep their type, stop signals are passed
    on to all, and the exit code of their stop becomes that of this process.
    """
    if processes == 1:
        work(*arguments)
        return
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it warns that it ends the others
    # Processes that are started to work on CPUs see no GPU: on a machine with GPUs detectron2 would want one for each
    # and let them talk by NCCL, which CPU tensors cannot.
    hidden = {"cpu": {"CUDA_VISIBLE_DEVICES": ""}}.get(device, {})
    with _passing_on() as received, mock.patch.dict(os.environ, hidden):
        try:
            launch(member, processes, dist_url="auto", args=(work, *arguments), timeout=timedelta(seconds=timeout))
        except (ProcessExitedException, ProcessRaisedException) as error:
            if received:
                sys.exit(received[0])
            if isinstance(error, ProcessExitedException) and error.exit_code in EXIT_CODES.values():
                sys.exit(error.exit_code)  # only a child got the signal
            if isinstance(error, ProcessExitedException) and error.exit_code == -signal.SIGKILL:
                raise Killed(f"one of {processes} processes was killed: run the same command again to resume") from None
            if isinstance(error, ProcessExitedException) and error.exit_code == -signal.SIGABRT:
                raise Killed(f"one of {processes} processes was aborted, as NCCL does with one that {IN_VAIN} "
                             "(--collective-timeout): run the same command again to resume") from None
            raise _original(error) from None


def member(work: Callable[..., None], *arguments: object) -> None:
    """`work(*arguments)` in one process of a group, and the end of the group's threads when it is
    done or was stopped: a thread that outlives the interpreter sometimes aborts the process,
    which would look like a failure."""
    try:
        work(*arguments)
    except SystemExit:
        _leave_group()
        raise
    _leave_group()


def _leave_group() -> None:
    dist.destroy_process_group()
    comm._get_global_gloo_group.cache_clear()  # detectron2's reference to the group keeps its threads
    comm._LOCAL_PROCESS_GROUP = None


def _original(error: Exception) -> Exception:
    """The error of a child, which comes as the text of its traceback, in its own type."""
    name, _, message = str(error).strip().splitlines()[-1].partition(": ")
    for kind in (TrainingFailed, Killed, UserError, torch.cuda.OutOfMemoryError):
        if name.rpartition(".")[2] == kind.__name__:
            return kind(message)
    return error


@contextmanager
def leaving() -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR2 leave at once with their exit codes: there is nothing to save."""

    def leave(number: int, _: object) -> None:
        sys.exit(EXIT_CODES[signal.Signals(number)])

    with handled(FROM_OUTSIDE, leave), ended_when_stalled(FROM_OUTSIDE):
        yield


@contextmanager
def _passing_on() -> Iterator[list[int]]:
    """Inside, a stop signal goes to the children as SIGTERM, on which they save and leave: Ctrl-C
    in a terminal has reached them already, and a second SIGINT would interrupt them. Yields the
    exit codes of the signals received."""
    received: list[int] = []

    def pass_on(number: int, _: object) -> None:
        received.append(EXIT_CODES[signal.Signals(number)])
        children = multiprocessing.active_children()
        for child in children:
            os.kill(child.pid, signal.SIGTERM)
        if not children:
            sys.exit(received[0])

    with handled(EXIT_CODES, pass_on):
        yield received
