"""Batch norm over the batches of all processes joined: one all-reduce each way, and the host never waits for a device.

torch's SyncBatchNorm gathers every process's statistics and picks those with a count by a boolean
mask, which makes the host wait at every layer; it has no kernels for CPUs either. Here all
operators exist on both, so that the numbers that two gloo processes are tested for are those of
GPUs.

Legend: N views, C channels, H W feature grid.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


@torch.library.custom_op("clove::channel_moments", mutates_args=())
def channel_moments(x: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of (N, C, ...), (C,) each in the dtype of `like`
    (C,).

    An operator of our own because torch's has no rule for what torch.compile and fake tensors ask:
    shapes without data.
    """
    unused = like.new_zeros(2, len(like))  # without running statistics it would answer in the dtype of a bf16 `x`
    return torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)


@channel_moments.register_fake
def _(x: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(like), torch.empty_like(like)


def joined_moments(x: Tensor, like: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance of each channel over the `x` (N, C, ...) of all processes, which
    have one shape; (C,) each in the dtype of `like` (C,). And the number of values a channel.

    A process takes the variance about its own mean. What is added up over the processes is float64:
    with a mean far from 0 the difference of the mean square and the squared mean would have no
    digits left in fp32.
    """
    totals = torch.stack(channel_moments(x, like)).double()
    totals[1].addcmul_(totals[0], totals[0])  # the mean square
    dist.all_reduce(totals)
    world = dist.get_world_size()
    return *mean_and_variance(totals, world, like.dtype), x.numel() // x.shape[1] * world


def mean_and_variance(sums: Tensor, count: int | Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """From the sums (2, C) of `count` means and mean squares, float64: mean and biased variance,
    (C,) each in `dtype`."""
    mean, square = (sums / count).unbind()
    variance = torch.addcmul(square, mean, mean, value=-1).clamp_(min=0)
    return mean.to(dtype), variance.to(dtype)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, whose gradient knows that mean and
    variance come from the `x` of all processes. The gradients of weight and bias are this process's
    share, as those of every other layer."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor,
        variance: Tensor, count: int | Tensor, eps: float,
    ) -> Tensor:
        """count: values a channel in the `x` of all processes."""
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.count, ctx.eps = count, eps
        return torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With x^ the normalised x and s = weight / sqrt(variance + eps):
        s * (grad - mean(grad) - x^ * mean(grad * x^)), means over all processes."""
        x, weight, mean, variance = ctx.saved_tensors
        weight_grad, bias_grad = torch.zeros_like(weight), torch.zeros_like(weight)
        if x.numel():  # of nothing torch's operator divides by zero
            _, weight_grad, bias_grad = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True])
        sums = torch.stack([weight_grad, bias_grad])
        dist.all_reduce(sums)
        scale = weight * (variance + ctx.eps).rsqrt()
        of_normalised, constant = (sums * (scale * (-1 / ctx.count))).unbind()
        x_grad = torch.native_batch_norm(x, of_normalised, constant, mean, variance, False, 0.0, ctx.eps)[0]
        x_grad.addcmul_(grad, scale.view(-1, *[1] * (x.dim() - 2)))
        return x_grad, weight_grad, bias_grad, None, None, None, None


class SynchronisedBatchNorm(_BatchNorm):
    """A batch norm layer as `layer`, with its parameters and running statistics (not copies), that
    in training uses the statistics of all processes' batches joined; in evaluation nothing
    communicates.

    bf16 and fp16 inputs give fp32 statistics. Every process must hold the same number of values a
    channel: a run compares the options of its processes at its start (`pretrain.data.run_images`),
    and no layer asks again.
    """

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        for name, buffer in layer.named_buffers():
            setattr(self, name, buffer)
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape and dtype."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        with torch.no_grad():
            mean, variance, count = self.moments(x)
            self.num_batches_tracked += 1
            self.follow(mean, variance, count)
        weight, bias = self.weight, self.bias
        if weight is None:
            weight, bias = torch.ones_like(mean), torch.zeros_like(mean)
        return _Normalise.apply(x, weight, bias, mean, variance, count, self.eps)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, int | Tensor]:
        """Mean and biased variance (C,) of the joined batch, and its number of values a channel."""
        return joined_moments(x, self.running_mean)

    def follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards those of a batch of `count` values a channel."""
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
