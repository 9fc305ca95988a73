"""A GPU that is not there: code runs on cuda:0 with tensors that have a shape, a type and a device but no data.

What a GPU run would do is seen, not how fast it is or what comes out: a tensor on the wrong device is an error, as on a
GPU, and whatever makes the host wait for the device is counted. Tensors on the CPU stay real. Two things are stand-ins:
the backward pass is a walk over autograd's graph, whose own engine wants the driver, and DistributedDataParallel is
its module alone.
"""

import contextlib
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torchvision  # noqa: F401 - its operators
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
SHAPED_BY_VALUES = (aten.repeat_interleave, torch.ops.torchvision.nms)


class Watch(TorchDispatchMode):
    """Answers what has no answer without data, and counts it.

    counts: "read" (the host reads values), "blocking copy" (to or from the device, of memory that is not pinned or
    without non_blocking), "boolean index", "unknown shape" (of a result, which the host must learn), "all_reduce",
    "other collective".
    where: for each of the first four, the operators and shapes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.where: list[str] = []
        self.pinned: set[int] = set()

    def pin(self, tensors: list[Tensor]) -> None:
        """Take the memory of these tensors on the CPU for pinned."""
        self.pinned |= {tensor.untyped_storage().data_ptr() for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors) and on_cpu(kwargs.get("device")):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        packet = func.overloadpacket
        if packet is aten.nonzero:
            self.saw("boolean index", func, tensors)
            return args[0].new_zeros((args[0].numel(), args[0].dim()), dtype=torch.int64)  # as if all were true
        if packet in (aten.index, aten.index_put, aten.index_put_) and any(map(is_boolean, args[1])):
            self.saw("boolean index", func, tensors)
            args = (args[0], [place for index in args[1] for place in places(index)], *args[2:])
        if packet in SHAPED_BY_VALUES:
            return self.shaped(func, args[0])
        if packet is aten._local_scalar_dense:
            self.saw("read", func, tensors)
            return True if tensors[0].dtype == torch.bool else 1.0 if tensors[0].is_floating_point() else 1
        if packet in (aten._to_copy, aten.copy_):
            self.copied(func, args, kwargs)
        if packet is aten._to_copy:
            return self.moved(func, args, kwargs)
        if func.namespace == "c10d":
            self.counts["all_reduce" if "allreduce" in func.name() else "other collective"] += 1
        return func(*args, **kwargs)

    def moved(self, func: Any, args: tuple, kwargs: dict) -> Tensor:
        """A copy of `args[0]` to the GPU, which knows what was sent, or from it: then a true tensor."""
        source, target = args[0], kwargs.get("device") or args[0].device
        if isinstance(source, FakeTensor) and on_cpu(target):
            return arrived(source, kwargs.get("dtype") or source.dtype)
        made = func(*args, **kwargs)
        if not isinstance(source, FakeTensor):
            made.sent = source
        return made

    def shaped(self, func: Any, given: Tensor) -> Tensor:
        """Places, as many as the values say: of boxes that suppress each other none goes, and `given` repeats are known
        from the CPU."""
        self.saw("unknown shape", func, [given])
        length = len(given)
        if func.overloadpacket is aten.repeat_interleave:
            with unset_fake_temporarily():
                length = int(given.sent.sum())
        return given.new_zeros(length, dtype=torch.int64)

    def saw(self, what: str, func: Any, tensors: list[Tensor]) -> None:
        if what != "blocking copy" and all(on_cpu(tensor.device) for tensor in tensors):
            return  # what came from the GPU has no data on the CPU either, but nobody waits for it again
        self.counts[what] += 1
        self.where.append(f"{what}: {func.name()} of {[tuple(tensor.shape) for tensor in tensors]}")

    def tolist(self, tensor: Tensor) -> Any:
        """One read of all values, which the dispatcher would see as one of each."""
        self.counts["read"] += 1
        self.where.append(f"read: tolist of {tuple(tensor.shape)}")
        return torch.ones(tensor.shape, dtype=tensor.dtype, device="cpu").tolist()

    def copied(self, func: Any, args: tuple, kwargs: dict) -> None:
        if func.overloadpacket is aten.copy_:
            source, target = args[1], args[0].device
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        else:
            source, target = args[0], torch.device(kwargs.get("device") or args[0].device)
            waits = not kwargs.get("non_blocking", False)
        if source.device.type == target.type:
            return
        if target.type == "cuda" and source.untyped_storage().data_ptr() not in self.pinned:
            waits = True
        if waits:
            self.saw("blocking copy", func, [source])


def on_cpu(device: torch.device | str | None) -> bool:
    return torch.device(device or "cpu").type == "cpu"


def arrived(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """What came from the GPU, as a true tensor: True, 1.0, or the place 0, which every list has."""
    with unset_fake_temporarily():
        return torch.full(tensor.shape, dtype.is_floating_point or dtype == torch.bool, dtype=dtype)


def is_boolean(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def places(index: Tensor | None) -> list[Tensor | None]:
    """A boolean index as whole numbers for each of its dimensions, as if all were true."""
    if not is_boolean(index):
        return [index]
    return [index.new_zeros(index.numel(), dtype=torch.int64) for _ in range(index.dim())]


class WithoutDriver(FakeTensorMode):
    """Makes no true tensor on the GPU, though torch.cuda.is_available() says that it could."""

    avoid_device_init = True


FAKE = WithoutDriver(allow_non_fake_inputs=True)  # one for all: what is kept from one call to the next must fit


class Alone(nn.Module):
    """The place of DistributedDataParallel."""

    def __init__(self, module: nn.Module, **_: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any) -> Any:
        return self.module(*args)

    def no_sync(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()


@contextlib.contextmanager
def fake_gpu(processes: int = 1) -> Iterator[Watch]:
    """Inside, "cuda:0" is a GPU; with several `processes` this one is the first of a group that hallucinates the rest.
    """
    watch = Watch()
    patches = [
        mock.patch("torch.cuda.is_available", lambda: True),
        mock.patch("torch.cuda.is_bf16_supported", lambda *_, **__: True),
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        mock.patch.object(nn.Module, "_apply", _apply),
        mock.patch.object(Tensor, "backward", _backward),
        mock.patch.object(FakeTensor, "tolist", lambda tensor: watch.tolist(tensor)),
    ]
    if processes > 1:
        dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    try:
        with contextlib.ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch)
            stack.enter_context(FAKE)
            stack.enter_context(watch)
            yield watch
    finally:
        if processes > 1:
            dist.destroy_process_group()


def _apply(module: nn.Module, change: Any, recurse: bool = True) -> nn.Module:
    """Module._apply, which else would put the data of a fake tensor into a real parameter."""
    for child in module.children():
        child._apply(change)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                changed = change(parameter)
            module._parameters[name] = nn.Parameter(changed, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


@torch.no_grad()
def _backward(loss: Tensor, gradient: Tensor | None = None, *_: Any, **__: Any) -> None:
    """What autograd's engine does: every node once, after all that feed it; gradients end in the leaves."""
    waiting: Counter[Any] = Counter()
    nodes, seen = deque([loss.grad_fn]), {loss.grad_fn}
    while nodes:
        for following, _ in nodes.popleft().next_functions:
            if following is None:
                continue
            waiting[following] += 1
            if following not in seen:
                seen.add(following)
                nodes.append(following)
    arrived: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss) if gradient is None else gradient}}
    ready = deque([loss.grad_fn])
    while ready:
        node = ready.popleft()
        given = arrived.pop(node, {})
        if hasattr(node, "variable"):
            leaf, grad = node.variable, given.get(0)
            if grad is not None:
                assert (grad.shape, grad.device) == (leaf.shape, leaf.device)
                leaf.grad = grad.detach() if leaf.grad is None else leaf.grad + grad
            continue
        outputs = [given.get(place) for place in range(len(node._input_metadata))]
        run = node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node
        grads = run(*outputs)
        grads = grads if isinstance(grads, tuple) else (grads,)
        for (following, place), grad in zip(node.next_functions, grads, strict=False):
            if following is None:
                continue
            if grad is not None:
                wanted = following._input_metadata[place]
                grad = grad.sum_to_size(wanted.shape).to(wanted.dtype)
                assert grad.device == wanted.device, f"{node.name()}: {grad.device} for {wanted.device}"
                known = arrived.setdefault(following, {})
                known[place] = known[place] + grad if place in known else grad
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)

