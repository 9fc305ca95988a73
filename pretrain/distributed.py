"""The one door to torch.distributed: works with one process, with gloo on CPUs and with NCCL on GPUs.

`torchrun` sets RANK, WORLD_SIZE and LOCAL_RANK; without them there is one process and nothing here communicates.
"""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.errors import UserError


@dataclass(frozen=True)
class Process:
    """This process: its rank of `world`, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start(device: str = "auto") -> Process:
    """Join the group that torchrun announces, if any. `device`: auto, cpu or cuda."""
    world, rank, local_rank = _announced("WORLD_SIZE", 1), _announced("RANK", 0), _announced("LOCAL_RANK", 0)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if not torch.cuda.is_available():
            raise UserError("device cuda was asked for, found no GPU: use --device cpu")
        if local_rank >= torch.cuda.device_count():
            raise UserError(f"{local_rank + 1} processes or more on this machine, found "
                            f"{torch.cuda.device_count()} GPUs: start one process for each GPU")
        torch.cuda.set_device(local_rank)
    if world > 1 and not dist.is_initialized():
        # Words between the hosts go by gloo, so that no one waits for a GPU because of them.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    return Process(rank, world, torch.device(device, local_rank) if device == "cuda" else torch.device("cpu"))


def _announced(name: str, default: int) -> int:
    found = os.environ.get(name, str(default))
    if not found.isdecimal():
        raise UserError(f"the environment's {name} is {found!r}: expected a whole number as torchrun sets it, or none")
    return int(found)


def stop() -> None:
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_over_processes(values: Tensor) -> Tensor:
    """Elementwise mean over all processes; the same tensor with one process."""
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return values


def largest_over_processes(value: int) -> int:
    """The largest of all processes' values; the hosts talk to each other, the devices go on."""
    if world_size() == 1:
        return value
    largest = torch.tensor([value])
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest.item())


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce whose gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics are those of the batches of all processes joined; torch's own refuses CPU tensors.

    Every process must hold the same number of values a channel. Two passes (mean, then squared distance from it), so
    that it equals batch norm on the joined batch to rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        values = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        count = values.numel() // values.shape[1] * world_size()
        mean = _SumOverProcesses.apply(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum)
        out = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            out = out * self.weight[:, None, None] + self.bias[:, None, None]
        return out.to(x.dtype)


def synchronise_batch_norm(module: nn.Module, process: Process) -> nn.Module:
    """Batch norm layers over all processes: torch's on GPUs, ours on CPUs, unchanged with one process."""
    if process.world == 1:
        return module
    if process.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            synced = CPUSyncBatchNorm2d(child.num_features, child.eps, child.momentum, child.affine)
            synced.load_state_dict(child.state_dict())
            setattr(module, name, synced)
        else:
            synchronise_batch_norm(child, process)
    return module
