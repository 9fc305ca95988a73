"""What is asked for: how a task is fine-tuned (`Protocol`), and with it from what, on which data and where (`Request`).

Standard library only. A new option of the protocol is a field and a shared argument here, and what
it does to detectron2's config in `resolved_config.py`; preflight, result and suite pass it on
without knowing it.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from pretrain.common.architectures import STANDARD
from transfer.settings import where
from transfer.tasks import TASKS, Task, Where

C4 = "c4"  # the one head of a C4 backbone
COMMON = "common"  # the solver that all methods share
LOADER_TIMEOUT, COLLECTIVE_TIMEOUT = 1800, 3600  # seconds: generous, as those of a pretraining
SCALES = ("full", "mini", "demo", "tiny")
# Families of heads on an FPN, those of the first task first.
HEADS = tuple(dict.fromkeys(name for task in TASKS.values() for name in task.heads if name != C4))
SOLVERS = tuple(dict.fromkeys([COMMON, *(name for task in TASKS.values() for name in task.solvers)]))


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a task is fine-tuned, in the options of the command line: all of them change a result."""

    task: str
    scale: str = "full"
    heads: str | None = None  # None: the task's own
    schedule: str | None = None  # None: the task's published one, or the scale's own length
    solver: str | None = None  # None: the one that all methods share
    fit: str | None = None  # accumulate=N or linear=N; None: the whole batch at once
    overrides: tuple[str, ...] = ()  # KEY=VALUE of detectron2's config

    @classmethod
    def of(cls, args: argparse.Namespace, **more: object) -> Self:
        """The options of the command line, and `more`."""
        names = {one.name for one in fields(cls)}
        said = {name: value for name, value in vars(args).items() if name in names}
        return cls(**{**said, "overrides": tuple(args.overrides), **more})

    def arguments(self) -> list[str]:
        """The options of the command line that say it: those that are not the default."""
        words = []
        for one in fields(Protocol):
            value = getattr(self, one.name)
            if one.name == "overrides":
                for override in value:
                    words += ["--set", override]
            elif value != one.default:
                words.append(f"--{one.name.replace('_', '-')}")
                if value is not True:  # a flag has no value
                    words.append(str(value))
        return words


def add_protocol_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `Protocol.of` reads."""
    parser.add_argument("--task", required=True, choices=tuple(TASKS))
    parser.add_argument("--scale", default="full", choices=SCALES,
                        help="full is the published protocol (default); the others are small and "
                             "prove nothing")
    heads = takers(lambda task: [task.default_heads])
    parser.add_argument("--heads", choices=HEADS, help=f"head family (default: {heads}; {C4} is "
                                                       "the backbone's last stage and no choice)")
    schedules = takers(lambda task: [task.default_schedule])
    parser.add_argument("--schedule", metavar="NAME",
                        help=f"length (default: {schedules}); NAME_1gpu adds --fit accumulate=N "
                             "and NAME_1gpu_linear --fit linear=N, for one GPU, with a quarter of "
                             "the batch as N")
    parser.add_argument("--solver", choices=SOLVERS,
                        help=f"{COMMON} to all methods (default), or a method's own, noted in the "
                             f"result; {takers(lambda task: task.solvers)}")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE",
                        help="a value of detectron2's config, last word; may be repeated")
    parser.add_argument("--sixteen-bit", action="append", dest="overrides", type="INPUT.SIXTEEN_BIT={}".format,
                        metavar="shift|range",
                        help="how 16-bit images become 8-bit ones: by their high byte (shift, the "
                             "default; refused where no value is above 4095), or each image's own "
                             "range becomes 0 to 255; the same as --set INPUT.SIXTEEN_BIT=range")
    parser.add_argument("--precision", action="append", dest="overrides", type="SOLVER.AMP.PRECISION={}".format,
                        metavar="bf16", help="forward passes of the training in bfloat16 where "
                                             "torch's autocast allows it, about half the memory "
                                             "of a GPU; not the published protocol; the same as "
                                             "--set SOLVER.AMP.PRECISION=bf16 (default: fp32)")
    add_shared_arguments(parser)


def add_shared_arguments(parser: argparse._ActionsContainer) -> None:
    """The options that one fine-tuning and the whole suite take alike, for all tasks."""
    parser.add_argument("--fit", metavar="KIND=N",
                        help="N images at once in the fine-tuning, over all processes. "
                             "accumulate=N: gradients of the whole batch, batch norm of N images. "
                             "linear=N: batches of N, the rate smaller and the schedule longer by "
                             "the linear rule (default: the whole batch at once; on one GPU at "
                             "full scale accumulate=N with a quarter of it)")


def shared_values(args: argparse.Namespace) -> dict[str, object]:
    """What `args` say of these options, for the fields of `Protocol`."""
    parser = argparse.ArgumentParser()
    add_shared_arguments(parser)
    return {name: getattr(args, name) for name in vars(parser.parse_args([]))}


@dataclass(frozen=True, kw_only=True)
class Request(Protocol):
    """One fine-tuning.

    `weights` is a folder that `clove convert` wrote, or a name of `RANDOM_STARTS`.
    """

    weights: str
    data: str | Path | Where
    output: str | Path
    trial: int = 0  # varies head initialisation and data order, the same way for every method
    device: str | None = None  # None: cuda where there is one
    num_gpus: int = 1  # processes on this machine; with device cpu they share its cores
    architecture: str = STANDARD  # of random weights; others say themselves what they are
    evaluator: str = "pycocotools"  # or hotcoco, checked against it
    keep_predictions: bool = False
    eval_every: int = 0  # iterations between early evaluations; 0: only one, at the end
    loader_timeout: int = LOADER_TIMEOUT  # seconds that a step waits for its images
    collective_timeout: int = COLLECTIVE_TIMEOUT  # seconds that a process waits for the others

    @classmethod
    def of(cls, args: argparse.Namespace, **more: object) -> Self:
        return super().of(args, **{"data": where.of(args), **more})


def takers(names: Callable[[Task], Iterable[str]]) -> str:
    """What tasks take, with the tasks that take it: "1x for coco, lvis; 2x for keypoints"."""
    found: dict[str, list[str]] = {}
    for task in TASKS.values():
        for name in names(task):
            found.setdefault(name, []).append(task.name)
    return "; ".join(f"{name} for {', '.join(tasks)}" for name, tasks in found.items())
