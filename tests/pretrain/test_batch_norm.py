"""Synchronised batch norm against torch's plain batch norm on the joined batch, in float64.

In a group of one process (torch's fake backend) it must equal plain batch norm on its own batch; over gloo, which is
slow, that on the joined batch.
"""

import copy
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from pretrain import distributed
from pretrain.batch_norm import SynchronisedBatchNorm, channel_moments
from pretrain.distributed import Process
from pretrain.encoder import BatchNorm

SHAPE = (12, 5, 3, 4)  # the joined batch
# name: dtype of the input, how many standard deviations the mean lies from 0, largest error
NUMBERS: dict[str, tuple[torch.dtype, float, float]] = {
    "float64": (torch.float64, 1.0, 1e-12),
    "float32": (torch.float32, 1.0, 2e-6),
    "float32-far": (torch.float32, 100.0, 3e-5),  # 100 has an error of 4e-6 itself
    "bfloat16": (torch.bfloat16, 1.0, 2e-2),
    "float16": (torch.float16, 1.0, 3e-3),
}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.BatchNorm2d(5, momentum=0.3),
    "encoder": lambda: BatchNorm(5),
    "no-affine": lambda: nn.BatchNorm2d(5, affine=False, eps=1e-3),
    "one-dimension": lambda: nn.BatchNorm1d(5),
}


def layer(name: str) -> nn.Module:
    """A layer with weights and statistics that are not those of the start, the same in every process."""
    made = LAYERS[name]().double()
    generator = torch.Generator().manual_seed(1)
    for tensor in made.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return made


def inputs(name: str, dtype: torch.dtype, far: float) -> list[tuple[Tensor, Tensor]]:
    """Joined batches and the gradients of their outputs, rounded to `dtype`, as float64."""
    generator = torch.Generator().manual_seed(2)
    shape = SHAPE[:2] if name == "one-dimension" else SHAPE
    spread = torch.rand(5, generator=generator) + 0.5
    made = []
    for _ in range(2):
        x = torch.randn(shape, generator=generator).transpose(1, -1) * spread + far * spread
        made.append((x.transpose(1, -1).to(dtype).double(), torch.randn(shape, generator=generator).to(dtype).double()))
    return made


def passes(norm: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Two training passes and one evaluating: outputs, gradients of the inputs and the weights, state."""
    found = {}
    for number, (x, grad) in enumerate([*batches, batches[0]]):
        x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        y = norm.train(number < 2)(x)
        assert y.dtype == x.dtype and y.stride() == x.stride()
        y.backward(grad)
        found |= {f"output {number}": y.detach(), f"grad {number}": x.grad}
    found |= {f"grad of {name}": weight.grad for name, weight in norm.named_parameters()}
    return found | {name: value for name, value in norm.state_dict().items() if name.startswith("running")}


def compare(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Largest error beside the largest value of the expected tensor, statistics beside themselves."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name].double() - value).abs()
        scale = value.abs() if name.startswith("running") else value.abs().max()
        assert (error <= tolerance * scale).all(), f"{name}: {error.max()} beside {value.abs().max()}"


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.usefixtures("group_of_one")
def test_own_share__equals_plain_batch_norm(kind: str, name: str) -> None:
    dtype, far, tolerance = NUMBERS[name]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    batches = inputs(kind, dtype, far)
    expected = passes(layer(kind), batches)
    found = passes(SynchronisedBatchNorm(layer(kind).to(wide)), [(x.to(dtype), grad.to(dtype)) for x, grad in batches])
    compare(found, expected, tolerance)
    statistics = {key: found[key] for key in ("running_mean", "running_var")}
    assert all(value.dtype == wide for value in statistics.values())
    compare(statistics, {key: expected[key] for key in statistics}, min(tolerance, 3e-6))  # from the rounded input


@pytest.mark.usefixtures("group_of_one")
def test_channels_last__stays_and_has_the_same_numbers() -> None:
    batches = inputs("plain", torch.float64, 1.0)
    turned = [tuple(one.contiguous(memory_format=torch.channels_last) for one in pair) for pair in batches]
    found = passes(SynchronisedBatchNorm(layer("plain")), turned)
    compare(found, passes(layer("plain"), batches), 1e-12)
    assert found["output 0"].is_contiguous(memory_format=torch.channels_last)
    assert found["grad 0"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("group_of_one")
def test_a_constant_channel__is_its_bias_and_has_no_variance_below_zero() -> None:
    norm = SynchronisedBatchNorm(nn.BatchNorm2d(3))
    y = norm(torch.full((4, 3, 2, 2), 1e4 / 3))
    assert y.abs().max() < 0.2  # 2**-12, a last digit of the mean, over sqrt(eps)
    assert torch.allclose(norm.running_var, torch.tensor(0.9)) and norm.num_batches_tracked == 1


@pytest.mark.usefixtures("group_of_one")
def test_gradient__is_the_numerical_one() -> None:
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    norm = SynchronisedBatchNorm(nn.BatchNorm2d(3).double())
    assert torch.autograd.gradcheck(lambda x, w, b: torch.func.functional_call(norm, {"weight": w, "bias": b}, (x,)),
                                    (x, norm.weight.detach().clone().requires_grad_(),
                                     norm.bias.detach().clone().requires_grad_()))


def test_operator__fits_its_rule_for_fake_tensors() -> None:
    torch.library.opcheck(channel_moments, (torch.randn(4, 5, 2, 2).bfloat16(), torch.empty(5)))


def test_layer__shares_the_tensors_and_keeps_the_mode() -> None:
    plain = nn.BatchNorm2d(4, momentum=0.2, eps=1e-3).eval()
    synced = SynchronisedBatchNorm(plain)
    assert synced.weight is plain.weight and synced.running_mean is plain.running_mean
    assert synced.state_dict().keys() == plain.state_dict().keys()
    assert (synced.momentum, synced.eps, synced.training) == (0.2, 1e-3, False)
    x = torch.randn(3, 4, 2, 2)
    assert torch.equal(synced(x), plain(x))


# Compiled.


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), BatchNorm(8), nn.ReLU(inplace=True),
                                  nn.Conv2d(8, 4, 1, bias=False), BatchNorm(4, affine=False))

    def forward(self, groups: list[Tensor]) -> list[Tensor]:
        return [self.body(group) for group in groups]


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize(("low", "tolerance"), [
    (None, 1e-5), pytest.param(torch.bfloat16, 2e-2, marks=pytest.mark.slow)], ids=["fp32", "bf16"])
def test_compile__is_one_graph_forward_and_backward(low: torch.dtype | None, tolerance: float) -> None:
    """With the numbers of the one that is not compiled; the compiler's own kernels are left out, they need a C++
    compiler and minutes."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    eager = distributed.synchronise_batch_norm(Small(), Process(0, 8, torch.device("cpu")))
    compiled = copy.deepcopy(eager)
    compiled.compile(fullgraph=True, backend="aot_eager")
    groups = [torch.randn(4, 3, side, side) for side in (8, 6)]
    found = []
    for network in (eager, compiled):
        with torch.autocast("cpu", dtype=low, enabled=low is not None):
            maps = network(groups)
        sum(one.float().pow(4).mean() for one in maps).backward()
        state = {name: value for name, value in network.state_dict().items() if "running" in name}
        found.append(state | {name: weight.grad for name, weight in network.named_parameters()})
    compare(found[1], {name: value.double() for name, value in found[0].items()}, tolerance)
    assert compiled.body[1].num_batches_tracked == 2


# Over gloo.

WORLDS = (2, 3)


def _work(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    share = slice(rank * SHAPE[0] // world, (rank + 1) * SHAPE[0] // world)
    found = {}
    for kind in LAYERS:
        for name, (dtype, far, _) in NUMBERS.items():
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            mine = [(x[share].to(dtype), grad[share].to(dtype)) for x, grad in inputs(kind, dtype, far)]
            found[f"{kind} {name}"] = passes(SynchronisedBatchNorm(layer(kind).to(wide)), mine)
    found["wrapped"] = _wrapped(slice(rank * 2, rank * 2 + 2))
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def _wrapped(share: slice, world: int = 2) -> dict[str, Tensor]:
    """Gradients through DistributedDataParallel, and the state afterwards."""
    torch.manual_seed(0)
    network = Small().double()
    batch = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    if dist.is_initialized():
        distributed.synchronise_batch_norm(network, Process(0, dist.get_world_size(), torch.device("cpu")))
        outer = DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)
    else:
        outer = network
    first, second = outer([batch[share], batch[share, :, :6, :6]])
    (first.pow(4).mean() + second.pow(3).mean()).backward()
    grads = {f"grad of {name}": weight.grad for name, weight in network.named_parameters()}
    return grads | {name: value.clone() for name, value in network.state_dict().items() if "tracked" not in name}


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_processes__equal_plain_batch_norm_on_the_joined_batch(world: int, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_work, args=(world, port, str(tmp_path)), nprocs=world)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    for kind in LAYERS:
        for name, (dtype, far, tolerance) in NUMBERS.items():
            expected = passes(layer(kind), inputs(kind, dtype, far))
            own = [rank[f"{kind} {name}"] for rank in ranks]
            joined = {}
            for key in expected:
                if key.startswith("grad of"):
                    joined[key] = sum(one[key] for one in own)
                elif key.startswith(("output", "grad")):
                    joined[key] = torch.cat([one[key] for one in own])
                else:
                    joined[key] = own[0][key]
                    assert all(torch.equal(one[key], own[0][key]) for one in own), key
            compare(joined, expected, tolerance)
    expected = _wrapped(slice(0, 2 * world))
    for rank in ranks:
        compare(rank["wrapped"], expected, 1e-12)
