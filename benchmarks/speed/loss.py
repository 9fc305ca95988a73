"""The joined loss beside a loop over view pairs, forward and backward: `clove speed loss`."""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.counting import count
from benchmarks.speed.reference_step import pair_loss
from benchmarks.speed.step import made_batch
from pretrain.common.errors import UserError
from pretrain.config import load_config
from pretrain.loss import clove_loss
from transfer.records.provenance import hardware

GLOBAL_VIEWS, GLOBAL_SIDE, LOCAL_SIDE = 2, 7, 3  # views; cells a side at 224 and 96 pixels

Side = Callable[[], tuple[float, list[Tensor]]]


def sides(images: int, local_views: int, channels: int, seed: int = 0) -> tuple[Side, Side]:
    """(the loop, ours): functions that return the loss and its gradients for the student's groups
    of maps."""
    rng = torch.Generator().manual_seed(seed)

    def maps(views: int, side: int) -> Tensor:
        """(V, B, C, H, W), the channels of a cell side by side in memory: so the networks give
        them."""
        cells = F.normalize(torch.randn(views, images, side, side, channels, generator=rng), dim=-1)
        return cells.permute(0, 1, 4, 2, 3)

    student = [maps(GLOBAL_VIEWS, GLOBAL_SIDE).requires_grad_(), maps(local_views, LOCAL_SIDE).requires_grad_()]
    teacher = maps(GLOBAL_VIEWS, GLOBAL_SIDE)
    config = load_config(None, {"variant": "released", "batch_size": images, "local_views": local_views})
    batch = made_batch(config, seed)

    def loop() -> Tensor:
        losses = []
        for i, (view, view_boxes) in enumerate(zip(chain(*student), chain(*batch.boxes), strict=True)):
            for j, other in enumerate(teacher):
                if i != j:
                    losses.append(pair_loss(view, other, view_boxes, batch.boxes[0][j])[0])
        return sum(losses) / len(losses)

    def joined() -> Tensor:
        return clove_loss(student, teacher, batch.boxes, batch.sizes, config.objective, False)[0]

    def with_gradient(loss: Callable[[], Tensor]) -> tuple[float, list[Tensor]]:
        value = loss()
        return value.item(), list(torch.autograd.grad(value, student))

    return lambda: with_gradient(loop), lambda: with_gradient(joined)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("clove speed loss", description=__doc__)
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--local-views", type=int, default=6)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20,
                        help="timed calls of each side, alternated")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(argv)
    if min(vars(options).values()) < 1:
        raise UserError("expected --batch, --local-views, --channels, --steps and --threads of at "
                        "least 1, found less")
    torch.set_num_threads(options.threads)
    loop, joined = sides(options.batch, options.local_views, options.channels)
    seconds: dict[str, list[float]] = {"loop": [], "joined": []}
    for number in range(options.steps + 1):
        for name, side in (("loop", loop), ("joined", joined)):
            started = time.perf_counter()
            side()
            if number:
                seconds[name].append(time.perf_counter() - started)
    machine = hardware()
    print(f"{machine['cpu']}, {options.threads} of {machine['cores']} cores, torch "
          f"{torch.__version__}; {options.batch} images, {GLOBAL_VIEWS} + {options.local_views} "
          "views, forward and backward")
    for name, side in (("loop", loop), ("joined", joined)):
        print(f"{name:8}{1000 * statistics.median(seconds[name]):9.2f} "
              f"ms{count(side).operations:7} operations")
    ratios = [plain / ours for plain, ours in zip(seconds["loop"], seconds["joined"], strict=True)]
    print(f"joined: {statistics.median(ratios):.2f} times the loop (median; {min(ratios):.2f} to "
          f"{max(ratios):.2f})")
    return 0

