"""Batch norm over the images of all processes, which differ in size from process to process.

What SyncBN means in a config here. The mathematics is that of torch's SyncBatchNorm: every value of
the joined batch counts once, whatever each process has of them, also where it has none (a mask head
without foreground). The numbers of values travel in the all-reduce of the sums.

Legend: N images or regions, C channels.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.batch_norm import SynchronisedBatchNorm, channel_moments, mean_and_variance


def counted_moments(x: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each channel over the `x` (N, C, ...) of all processes, (C,) each
    in the dtype of `like` (C,), and the number of values a channel, () in float64 on the device of
    `x`.

    Mean and variance are 0 where no process has a value.
    """
    own = x.numel() // x.shape[1]
    moments = like.new_zeros(2, len(like))
    if own:
        moments = torch.stack(channel_moments(x, like))
    sums = moments.double()
    sums[1].addcmul_(sums[0], sums[0])  # the mean square
    totals = F.pad(sums.flatten() * own, (0, 1), value=own)
    dist.all_reduce(totals)
    count = totals[-1]
    sums = totals[:-1].view(2, -1)
    return *mean_and_variance(sums, count.clamp(min=1), like.dtype), count


class CountedBatchNorm(SynchronisedBatchNorm, nn.BatchNorm2d):
    """`SynchronisedBatchNorm` whose processes may hold other numbers of values, and none.

    A BatchNorm2d for what asks: detectron2's optimizer gives batch norm a weight decay of its own,
    and fvcore's precise statistics look for it.
    """

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return counted_moments(x, self.running_mean)

    def follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        momentum = (count > 0).to(mean.dtype) * self.momentum  # of no values nothing is learned
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), momentum)


def joined(module: nn.Module) -> nn.Module:
    """The same module, with `CountedBatchNorm` in the place of torch's SyncBatchNorm: the same
    tensors under the same names."""
    for name, child in module.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            setattr(module, name, CountedBatchNorm(child))
        else:
            joined(child)
    return module
