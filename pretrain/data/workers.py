"""How many loader processes each process of a run starts, where that is left to the machine.

One loads about 370 images a second, an old CPU 80; a step on a CPU takes longer than the loading of
its images by far.
"""

import os
import socket
from dataclasses import replace

from pretrain import distributed
from pretrain.config import Config
from pretrain.distributed import Process

MOST = 12  # more than any GPU is expected to need; each holds 150 MB and two micro-batches
CPU_CORES = 8  # that train, for each loader process


def with_workers(config: Config, process: Process) -> Config:
    """`config` with a number of loader processes; all processes of the run ask together.

    Of the cores that this process may use it takes its part: those that may use the same ones are
    on the same machine and not bound to cores of their own.
    """
    if config.runtime.workers != "auto":
        return config
    own = socket.gethostname(), sorted(os.sched_getaffinity(0))
    sharing = distributed.gather(own).count(own)
    workers = automatic(len(own[1]) // sharing, process.device.type)
    return replace(config, runtime=replace(config.runtime, workers=workers))


def automatic(cores: int, device: str) -> int:
    """Loader processes of a process that trains on `device`, cpu or cuda, with so many cores."""
    wanted = cores - 1  # beside the training process
    if device == "cpu":
        wanted = cores // CPU_CORES
    return min(max(wanted, 1), MOST)
