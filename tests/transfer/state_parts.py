"""What checkpoints of the field are made of: a ResNet's state dict, heads, counters, an optimizer.

Tensors are one number stretched to their shape, so that files stay small, and every tensor of a network has a number of
its own, so that none can take another's place unseen.
"""

from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch

from transfer.reading.architecture import expected_shapes

State = dict[str, torch.Tensor]


def flat(*shape: int, value: float = 0.0) -> torch.Tensor:
    """A tensor of one stored number."""
    return torch.tensor([value]).expand(shape) if shape else torch.tensor(value)


@lru_cache
def resnet(architecture: str = "resnet50", start: int = 1) -> State:
    """A ResNet whose every tensor is a number of its own, from `start` / 1024 on; torchvision's names."""
    return {name: flat(*shape, value=(start + i) / 1024)
            for i, (name, shape) in enumerate(expected_shapes(architecture).items())}


def prefixed(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def with_counters(state: State) -> State:
    """Batch norm's counters after each variance, as in a state dict."""
    whole = {}
    for name, value in state.items():
        whole[name] = value
        if name.endswith("running_var"):
            whole[name.replace("running_var", "num_batches_tracked")] = torch.tensor(1000)
    return whole


def batch_norm(name: str, size: int, affine: bool = True) -> State:
    kinds = ("weight", "bias", "running_mean", "running_var") if affine else ("running_mean", "running_var")
    return {f"{name}.{kind}": flat(size, value=1) for kind in kinds} | {f"{name}.num_batches_tracked": torch.tensor(9)}


def layer(name: str, *shape: int, bias: bool = True) -> State:
    return {f"{name}.weight": flat(*shape)} | ({f"{name}.bias": flat(shape[0])} if bias else {})


def mlp(name: str, *sizes: int, last_bias: bool = True) -> State:
    """Linear, batch norm, ReLU, ... as nn.Sequential."""
    state: State = {}
    for i, (before, after) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        state |= layer(f"{name}.{3 * i}", after, before, bias=last_bias or not last)
        state |= {} if last else batch_norm(f"{name}.{3 * i + 1}", after)
    return state

OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}


def two(state_a: State, state_b: State, first: str, second: str) -> State:
    return prefixed(first, with_counters(state_a)) | prefixed(second, with_counters(state_b))


def linear_mlp(name: str, width: int) -> State:
    return layer(f"{name}.linear1", 4096, width) | batch_norm(f"{name}.bn1", 4096) | layer(f"{name}.linear2", 256, 4096)
