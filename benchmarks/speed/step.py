"""One training step beside the plain reference: `clove speed step`.

Both start from the same weights and see the same batch; they alternate in one process with the
same threads. The peak memory of each is that of a process of its own.
"""

import argparse
import functools
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.options.checks import option_of
from benchmarks.speed.counting import count
from benchmarks.speed.reference_step import Networks, ReferenceStep
from pretrain import ROOT
from pretrain.common.architectures import ARCHITECTURES, SMALLEST, STANDARD
from pretrain.common.errors import UserError
from pretrain.config import Config, load_config
from pretrain.data.batches import Batch
from pretrain.distributed import Process
from pretrain.train import bf16_is_fast
from pretrain.trainer import Trainer
from transfer.records.provenance import hardware

# Of the processes whose memory is compared, all alike: large blocks go back to the system when
# they are freed, so that the peak is that of living tensors and not of the holes between them,
# which differ by 10 % from run to run.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2 ** 20), "MALLOC_TRIM_THRESHOLD_": str(2 ** 20)}
STEPS, PER_EPOCH = 100_000, 1000  # of the schedule that the measured steps are the first of
SIDES = ("reference", "fp32", "bf16")


def measured() -> tuple[str, ...]:
    """The sides that are worth their time on this machine."""
    return SIDES if bf16_is_fast() else SIDES[:2]


def settings(options: argparse.Namespace, precision: str = "fp32") -> Config:
    """The `released` variant at the asked size: the rule that the reference computes."""
    return load_config(None, {
        "variant": "released", "precision": precision, "architecture": options.architecture, "device": "cpu",
        "batch_size": options.batch, "device_batch": options.batch, "global_size": options.global_size,
        "local_size": options.local_size, "local_views": options.local_views, "projector_hidden": options.hidden,
        "log_every": STEPS,
    })


def made_batch(config: Config, seed: int = 0) -> Batch:
    """Views of random blocks (a picture has structure; noise has none), with boxes of the
    configured areas."""
    train, rng = config.train, torch.Generator().manual_seed(seed)
    sides = ((train.global_views, train.global_size, train.global_scale),
             (train.local_views, train.local_size, train.local_scale))
    views, boxes, images = [], [], train.batch_size
    for count_, side, scale in sides:
        cells = torch.rand(count_ * images, 3, 8, 8, generator=rng) * 255
        views.append(torch.nn.functional.interpolate(cells, size=side, mode="bilinear").round().to(torch.uint8)
                     .unflatten(0, (count_, images)))
        area = scale[0] + (scale[1] - scale[0]) * torch.rand(count_, images, 1, generator=rng)
        size = area.sqrt().expand(-1, -1, 2)
        corner = torch.rand(count_, images, 2, generator=rng) * (1 - size)
        mirrored = torch.rand(count_, images, 1, generator=rng) < 0.5
        box = torch.cat([corner, corner + size], -1)
        boxes.append(torch.where(mirrored, box[..., [2, 1, 0, 3]], box))
    names = [str(number) for number in range(images)]
    return Batch(views, boxes, torch.tensor([[500.0, 375.0]]).expand(images, 2).contiguous(), names, {})


def our_side(config: Config) -> tuple[Trainer, Callable[[int, Batch], float]]:
    """A fresh trainer, and its step as (number, batch) -> loss."""
    trainer = Trainer(config, Process(0, 1, torch.device(config.runtime.device)), STEPS, PER_EPOCH)
    return trainer, lambda number, batch: trainer.step(number, [batch])["loss"]


def reference_side(trainer: Trainer) -> tuple[ReferenceStep, Callable[[int, Batch], float]]:
    """The reference from the weights and schedules of `trainer`, and its step as (number, batch)
    -> loss. It does not keep `trainer` alive."""
    train, own = trainer.train, trainer.config.objective
    networks = Networks(train.architecture, own.projector_hidden, own.projector_dim, own.heads)
    networks.student.load_state_dict(trainer.student.state_dict())
    networks.teacher.load_state_dict(trainer.objective.follower.state_dict())
    reference = ReferenceStep(networks, train.weight_decay, train.sgd_momentum)
    rates = [(trainer.lr(number), trainer.objective.momentum(number)) for number in range(PER_EPOCH)]
    return reference, lambda number, batch: reference.step(batch.views, batch.boxes, *rates[number])


def build(side: str, options: argparse.Namespace) -> Callable[[int, Batch], float]:
    """The step of one side; of ours and of the reference the initial weights are the same."""
    if side != "reference":
        return our_side(settings(options, side))[1]
    return reference_side(our_side(settings(options))[0])[1]


def measure(options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Seconds on the clock and of processor time of each step, {side: [(clock, processor), ...]},
    alternated; one step of each before is not counted."""
    batch = made_batch(settings(options))
    sides = {side: build(side, options) for side in measured()}
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for number in range(options.steps + 1):
        for side, step in sides.items():
            started, processor = time.perf_counter(), time.process_time()
            step(number, batch)
            if number:
                taken = time.perf_counter() - started, time.process_time() - processor
                seconds[side].append(taken)
    return seconds


def peak_memory(options: argparse.Namespace, side: str) -> float:
    """Resident-set peak in GB of a process that does two steps of one side and nothing else."""
    command = [sys.executable, "-P", "-m", "benchmarks.speed", "step", "--peak-of", side]
    for name in ("architecture", "batch", "local_views", "global_size", "local_size", "hidden", "threads"):
        command.append(f"{option_of(name)}={getattr(options, name)}")
    environment = os.environ | ALLOCATOR | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the process that measures the memory of {side} failed: "
                        f"{' '.join(done.stderr.split())[-300:] or 'it was killed, the memory may be too small'}; "
                        "try a smaller --batch or --small")
    return float(done.stdout.split()[-1])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("clove speed step", description=__doc__)
    made.add_argument("--architecture", choices=tuple(ARCHITECTURES), default=STANDARD)
    made.add_argument("--batch", type=int, default=8, help="images")
    made.add_argument("--local-views", "--views", type=int, default=6,
                      help="beside two global ones")
    made.add_argument("--global-size", type=int, default=224)
    made.add_argument("--local-size", type=int, default=96)
    made.add_argument("--hidden", type=int, default=4096,
                      help="channels of the projector's hidden layer")
    made.add_argument("--steps", type=int, default=3, help="timed steps of each side")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--small", action="store_true",
                      help="ResNet-18, 4 images, 128 and 64 pixels: half a minute")
    made.add_argument("--peak-of", choices=SIDES, help=argparse.SUPPRESS)
    return made


def main(argv: list[str] | None = None) -> int:
    """Measure and print; with --peak-of only the peak of one side."""
    options = parser().parse_args(argv)
    if options.small:
        options.architecture, options.batch, options.global_size, options.local_size = SMALLEST, 4, 128, 64
    if options.batch < 2 or not 0 < options.steps < PER_EPOCH or options.global_size < 128:
        raise UserError(f"expected at least --batch 2, --steps 1 to {PER_EPOCH - 1} and at least "
                        "--global-size 128 (the loss wants ten teacher cells), found "
                        f"{options.batch}, {options.steps} and {options.global_size}")
    torch.set_num_threads(options.threads)
    if not options.peak_of:
        report(options)
        return 0
    step, batch = build(options.peak_of, options), made_batch(settings(options))
    for number in range(2):
        step(number, batch)
    # Not from getrusage: there a child starts with its parent's peak.
    [peak] = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    print(int(peak) / 2 ** 20)
    return 0


def report(options: argparse.Namespace) -> None:
    """Print the table and the ratios."""
    machine = hardware()
    print(f"{machine['cpu']}, {options.threads} of {machine['cores']} cores, torch "
          f"{torch.__version__}; {options.architecture}, {options.batch} images, 2 x "
          f"{options.global_size} + {options.local_views} x {options.local_size}, "
          f"{options.steps} steps alternated", flush=True)
    seconds = measure(options)
    few = argparse.Namespace(**vars(options) | {"batch": 2, "global_size": 128, "local_size": 32, "hidden": 64})
    batch = made_batch(settings(few))
    print(f"{'':12}{'s a step':>10}{'images/s':>10}{'peak GB':>9}{'operations':>12}{'host waits':>12}")
    for side in seconds:
        step = build(side, few)
        step(0, batch)
        found = count(functools.partial(step, 1, batch))
        took = statistics.median(clock for clock, _ in seconds[side])
        print(f"{side:12}{took:10.3f}{options.batch / took:10.2f}{peak_memory(options, side):9.2f}"
              f"{found.operations:12}{found.waits:12}", flush=True)
    for side in list(seconds)[1:]:
        clock, processor = [], []
        for plain, ours in zip(seconds["reference"], seconds[side], strict=True):
            clock.append(plain[0] / ours[0])
            processor.append(plain[1] / ours[1])
        print(f"{side}: {statistics.median(clock):.2f} times the reference (median; {min(clock):.2f} to "
              f"{max(clock):.2f}); by processor time {statistics.median(processor):.2f}, which other "
              "programs on the machine disturb less")
    if "bf16" not in seconds:
        print("bf16: not measured, this CPU emulates it (no AVX-512): a step takes many times as "
              "long as in fp32")

