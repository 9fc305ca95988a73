"""The one door to torch.distributed: works with one process, with gloo on CPUs and with NCCL on GPUs.

`torchrun` sets RANK, WORLD_SIZE and LOCAL_RANK; without them there is one process and nothing here
communicates.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.batch_norm import SynchronisedBatchNorm
from pretrain.common.errors import Killed, UserError
from pretrain.common.stalls import IN_VAIN

T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """This process: its rank of `world`, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def present_device(wanted: str | None) -> str:
    """`wanted`, cpu or cuda; for auto and None cuda if there is one. Raises `UserError` when cuda
    is missing."""
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu, or look at `nvidia-smi` and the "
                        "CUDA version of torch")
    if wanted in (None, "auto"):
        return "cuda" if there else "cpu"
    return wanted


def start(device: str = "auto", timeout: float = 3600) -> Process:
    """Join the group that torchrun announces, if any. `device`: auto, cpu or cuda. timeout: seconds
    after which a process that waits for the others raises RuntimeError. Raises `UserError`."""
    world, rank, local_rank = _announced("WORLD_SIZE", 1), _announced("RANK", 0), _announced("LOCAL_RANK", 0)
    place, backend = torch.device("cpu"), "gloo"
    if present_device(device) == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UserError(f"{local_rank + 1} processes or more on this machine, found "
                            f"{torch.cuda.device_count()} GPUs that this one may use: start one process for each "
                            "GPU, and let each see all GPUs of the machine (srun --gpu-bind=none)")
        torch.cuda.set_device(local_rank)
        # The hosts talk by gloo, so that none waits for a GPU.
        place, backend = torch.device("cuda", local_rank), "cpu:gloo,cuda:nccl"
    if world > 1 and not dist.is_initialized():
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    return Process(rank, world, place)


def _announced(name: str, default: int) -> int:
    found = os.environ.get(name, str(default))
    if not found.isdecimal():
        raise UserError(f"environment variable {name}: expected a whole number as torchrun sets it, found {found!r}")
    return int(found)


def on_this_machine() -> int:
    """Processes of the group on this machine, as torchrun announces them."""
    return _announced("LOCAL_WORLD_SIZE", 1)


def problem(error: Exception) -> Killed | None:
    """What an error of a collective operation means for a user; None for another error."""
    text = str(error)
    # gloo: a connection was closed or reset by a peer; NCCL: a remote process exits
    if "onnection" in text or "remote process exit" in text:
        return Killed("another process of this run has ended: see its own message")
    if isinstance(error, RuntimeError) and "imed out" in text:
        reason = " ".join(text.split())
        return Killed(f"this process {IN_VAIN} ({reason:.150}; --collective-timeout): it hangs, "
                      "was stopped or was never started; end it, then run the same command again to resume")
    return None


def stop() -> None:
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Processes in the group; 1 without one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_over_processes(values: Tensor) -> Tensor:
    """Elementwise mean over all processes; the same tensor with one process."""
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return values


def gathered(values: Tensor) -> Tensor:
    """(n, ...) of each process, all of one shape -> (n * processes, ...) by rank, without
    gradient."""
    if world_size() == 1:
        return values.detach()
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)


def largest_over_processes(value: int) -> int:
    """The largest of all processes' values. Only the hosts communicate: the devices go on."""
    if world_size() == 1:
        return value
    largest = torch.tensor([value])
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest.item())


def gather(value: T) -> list[T]:
    """Every process's value, by rank; any picklable object."""
    values = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def synchronise_batch_norm(module: nn.Module, process: Process) -> nn.Module:
    """The same module, its batch norm layers of any kind over all processes; unchanged with one
    process."""
    if process.world == 1:
        return module
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, SynchronisedBatchNorm(child))
        else:
            synchronise_batch_norm(child, process)
    return module
