"""SyncBN of the fine-tuning against plain batch norm on the joined batch, where processes hold other numbers of values.

In a group of one process (torch's fake backend) the layer must equal plain batch norm on its own batch; over gloo the
fine-tuning's own network must equal itself with plain batch norm, of which two passes meet at each layer.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.transfer.resolved import resolve
from transfer.data.dataset import Dataset, Split
from transfer.finetuning.batch_norm import CountedBatchNorm, joined
from transfer.finetuning.processes import start

SPLIT = Split(2, Path("annotations.json"), Path("images"), "0" * 64)
COCO = Dataset("coco", SPLIT, SPLIT, ("disc", "star"), ("boxes", "masks"))
SMALL = ("MODEL.FPN.OUT_CHANNELS=8", "MODEL.ROI_BOX_HEAD.CONV_DIM=8", "MODEL.ROI_BOX_HEAD.FC_DIM=8",
         "MODEL.ROI_MASK_HEAD.CONV_DIM=8")


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(("dtype", "far", "tolerance"), [
    (torch.float64, 1.0, 1e-12), (torch.float32, 100.0, 3e-5), (torch.bfloat16, 1.0, 2e-2)])
@pytest.mark.usefixtures("group_of_one")
def test_layer__equals_plain_batch_norm(dtype: torch.dtype, far: float, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(6, 5, 3, 4, generator=generator) + far).to(dtype)
    grad = torch.randn(6, 5, 3, 4, generator=generator).to(dtype)
    found = []
    for kind, wide in ((lambda norm: norm, torch.float64), (CountedBatchNorm, dtype)):
        norm = kind(nn.BatchNorm2d(5).to(torch.float32 if wide == torch.bfloat16 else wide))
        x = values.to(wide, copy=True).requires_grad_()
        y = norm(x)
        y.backward(grad.to(wide))
        found.append([y.detach(), x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    for plain, ours in zip(*found, strict=True):
        assert (ours.double() - plain).abs().max() <= tolerance * plain.abs().max()


@pytest.mark.usefixtures("group_of_one")
def test_layer__of_no_values_learns_nothing() -> None:
    norm = CountedBatchNorm(nn.BatchNorm2d(3))
    before = {name: value.clone() for name, value in norm.state_dict().items() if "running" in name}
    x = torch.zeros(0, 3, 7, 7, requires_grad=True)
    y = norm(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape and norm.weight.grad.tolist() == norm.bias.grad.tolist() == [0, 0, 0]
    assert all(torch.equal(norm.state_dict()[name], value) for name, value in before.items())


def test_joined__is_known_to_detectron2_by_the_same_names() -> None:
    """As its batch norm: with the weight decay of one, and in precise statistics."""
    cfg = config(num_gpus=2)
    plain = build_model(cfg)
    expected, groups = list(plain.state_dict()), build_optimizer(cfg, plain).param_groups
    model = joined(plain)
    assert list(model.state_dict()) == expected
    assert {type(norm) for norm in get_bn_modules(model.train())} == {CountedBatchNorm}
    found = build_optimizer(cfg, model).param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in found] == [
        (group["weight_decay"], len(group["params"])) for group in groups]


def config(**words: object) -> CfgNode:
    return resolve(COCO, "4conv1fc", "demo", SMALL, architecture="resnet18", **words)


# Over gloo.


def network(processes: int) -> nn.Module:
    """With the numbers of its weights and statistics drawn, the same in every process."""
    model = build_model(config(num_gpus=processes)).double().train()
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if ".norm." in name and value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.dim() > 1:  # in double precision, wide enough for gradients everywhere
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
    return model


def given(rank: int, step: int) -> list[Tensor]:
    """Images, regions for the box head and for the mask head: other sizes in each process, and once no foreground."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    shapes = [[(1, 3, 64, 96), (5, 8, 7, 7), (3, 8, 14, 14)], [(2, 3, 96, 64), (2, 8, 7, 7), (2 * step, 8, 14, 14)]]
    return [(rank + torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
            for shape in shapes[rank]]


def passed(model: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """What every layer with a norm has a share in."""
    images, boxes, masks = inputs
    return [*model.backbone(images).values(), model.roi_heads.box_head(boxes), model.roi_heads.mask_head.layers(masks)]


def loss(outputs: list[Tensor]) -> Tensor:
    return sum((out.pow(2) * out.sin()).sum() for out in outputs)


def learned(model: nn.Module) -> dict[str, Tensor]:
    state = {name: value for name, value in model.state_dict().items() if "running" in name or "tracked" in name}
    return state | {f"grad of {name}": value.grad for name, value in model.named_parameters() if value.grad is not None}


def _work(folder: str) -> None:
    torch.set_num_threads(1)
    rank = comm.get_rank()
    model = joined(network(2))
    found = {}
    for step in range(2):
        inputs = given(rank, step)
        outputs = passed(model, inputs)
        loss(outputs).backward()
        found[step] = [value.detach() for value in outputs] + [value.grad for value in inputs]
    torch.save({"seen": found, "learned": learned(model)}, Path(folder, f"{rank}.pt"))


class Meeting(nn.Module):
    """A plain batch norm layer, at which the passes of two threads meet: it sees the values of both as one batch."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm, self.given, self.made = norm, {}, {}
        self.barrier = threading.Barrier(2, self._together, timeout=60)

    def forward(self, x: Tensor) -> Tensor:
        name = threading.current_thread().name
        self.given[name] = x
        self.barrier.wait()
        return self.made[name]

    def _together(self) -> None:
        values = [x.transpose(0, 1).flatten(1) for x in self.given.values()]  # (C, N H W)
        joint = self.norm(torch.cat(values, dim=1).t()[..., None, None])
        parts = joint[..., 0, 0].t().split([value.shape[1] for value in values], dim=1)
        for (name, x), part in zip(self.given.items(), parts, strict=True):
            self.made[name] = part.reshape(x.transpose(0, 1).shape).transpose(0, 1).clone()


def meeting(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, Meeting(child))
        else:
            meeting(child)
    return module


def at_once(model: nn.Module, inputs: list[list[Tensor]]) -> dict[int, list[Tensor]]:
    """The outputs for the inputs of each rank, which one thread each computes."""
    outputs = {}

    def work(rank: int) -> None:
        outputs[rank] = passed(model, inputs[rank])

    threads = [threading.Thread(name=f"rank {rank}", target=work, args=(rank,)) for rank in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outputs


def close(found: Tensor, expected: Tensor) -> None:
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10 * largest)


@pytest.mark.slow
def test_processes__of_other_sizes_equal_plain_batch_norm_on_the_joined_batch(tmp_path: Path) -> None:
    start(_work, 2, str(tmp_path), device="cpu")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    plain = network(1)
    names = {id(value): name for name, value in [*plain.named_parameters(), *plain.named_buffers()]}
    model = meeting(plain)
    for step in range(2):
        inputs = [given(rank, step) for rank in range(2)]
        outputs = at_once(model, inputs)
        (loss(outputs[0]) + loss(outputs[1])).backward()
        for rank in range(2):
            expected = [value.detach() for value in outputs[rank]] + [value.grad for value in inputs[rank]]
            for found, value in zip(ranks[rank]["seen"][step], expected, strict=True):
                close(found, value)
    grads = {f"grad of {names[id(value)]}": value.grad for value in model.parameters() if value.grad is not None}
    state = {names[id(value)]: value for value in model.buffers() if id(value) in names}
    for name, value in {**grads, **state}.items():
        if name.startswith("grad"):
            found = ranks[0]["learned"][name] + ranks[1]["learned"][name]
            close(found, value)
        elif name in ranks[0]["learned"]:
            assert torch.equal(ranks[0]["learned"][name], ranks[1]["learned"][name])
            close(ranks[0]["learned"][name], value)
    assert len(grads) > 100 and sum("running_var" in name for name in state) == 36
