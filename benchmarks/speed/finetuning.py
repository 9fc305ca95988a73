"""One fine-tuning beside detectron2's plain loop on the same config: `clove speed finetune`.

Both sides start from the same random weights and take the same batches with the same random
choices; they alternate in one process, so that what other programs do to the machine meets both.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import SimpleTrainer, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage

from pretrain import kernels
from pretrain.common.architectures import ARCHITECTURES, STANDARD
from pretrain.common.errors import refuse
from pretrain.distributed import present_device
from transfer import detectron2_compat
from transfer.finetuning.mapper import Mapper
from transfer.finetuning.trainer import SeededSteps, trainer_of
from transfer.finetuning.training_images import train_loader
from transfer.records.provenance import hardware
from transfer.settings import datasets, resolved_config, where
from transfer.settings.random_starts import RAND
from transfer.settings.request import Request, add_protocol_arguments
from transfer.settings.start_weights import read_weights

PLAIN, OURS = "detectron2", "ours"
EVALUATIONS = 4  # passes of each side
# Of a step, each timed alone: a change that gains in one may lose in another. Writing the losses is in backward.
PARTS = ("forward", "backward", "optimizer")
Seconds = dict[str, list[float]]  # of each side, in turn


def clock() -> float:
    """Seconds: of one thread's processor time, which other programs disturb less, or else of the wall's clock."""
    if torch.get_num_threads() == 1 and not torch.cuda.is_available():
        return time.process_time()
    return time.perf_counter()


@dataclass
class Side:
    """One trainer, taken step by step. `seconds[part]`: one value for each step."""

    trainer: SimpleTrainer
    seconds: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in (*PARTS, "step")})

    def __post_init__(self) -> None:
        self.marks: list[float] = []  # start, end of forward, start of the optimizer, end
        self.trainer.model.register_forward_hook(lambda *_: self._mark())
        self.trainer.optimizer.register_step_pre_hook(lambda *_: self._mark())

    def _mark(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append(clock())

    def step(self, number: int, batch: list[dict], timed: bool) -> float:
        """Take one step with `batch`; returns its loss."""
        trainer = self.trainer
        trainer.iter = number
        trainer._data_loader_iter_obj = iter([batch])
        with EventStorage(number) as trainer.storage:
            self.marks.clear()
            self._mark()
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
            self._mark()
            loss = trainer.storage.latest()["total_loss"][0]
        if timed:
            start, forward, optimizer, end = (self.marks[0], self.marks[-3], self.marks[-2], self.marks[-1])
            for part, value in zip(PARTS, (forward - start, optimizer - forward, end - optimizer), strict=True):
                self.seconds[part].append(value)
            self.seconds["step"].append(end - start)
        return loss


def prepared(request: Request, architecture: str, device: str) -> tuple[CfgNode, str]:
    """The config of a fine-tuning as a run has it, and the name of its validation set, both sets registered."""
    detectron2_compat.apply()
    dataset = datasets.find(request.data, request.task)
    cfg = resolved_config.resolve(dataset, request, read_weights(request.weights, architecture), device)
    kernels.choose(torch.device(device), search=False)  # as a run does; what was measured before may have searched
    return cfg, datasets.register(dataset)[1]


def sides(cfg: CfgNode) -> dict[str, Side]:
    """Both trainers, with equal weights and the hooks that belong to a step."""
    model, same = build_model(cfg), build_model(cfg)
    same.load_state_dict(model.state_dict())
    plain = SimpleTrainer(model.train(), None, build_optimizer(cfg, model))
    ours = trainer_of(cfg, same.train())
    for trainer in (plain, ours):
        schedule = build_lr_scheduler(cfg, trainer.optimizer)
        trainer.register_hooks([SeededSteps(cfg.SEED), hooks.LRScheduler(trainer.optimizer, schedule)])
        trainer.before_train()
    return {PLAIN: Side(plain), OURS: Side(ours)}


def loaders(cfg: CfgNode) -> dict[str, Iterator[list[dict]]]:
    """Endless batches of both, made in this process."""
    return {PLAIN: iter(build_detection_train_loader(cfg, num_workers=0)),
            OURS: iter(train_loader(cfg, 0, cfg.SEED))}


def in_turn(number: int) -> tuple[str, str]:
    """Both sides, each the first one every other time: what the first leaves in the caches helps the second."""
    return (PLAIN, OURS) if number % 2 else (OURS, PLAIN)


def timed(work: Callable[[], object], seconds: list[float]) -> object:
    """What `work` returns; the time that it takes goes into `seconds`."""
    started = clock()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds.append(clock() - started)
    return result


def measure(cfg: CfgNode, name: str, iterations: int, evaluated: int) -> dict[str, Seconds]:
    """{part: {side: seconds of each time}}; the first time of each is not counted.

    `name` is the registered validation set, of which `evaluated` images go through the models.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = max(cfg.SOLVER.MAX_ITER, iterations + 1)  # the schedule of a scale can be shorter
    both, batches = sides(cfg), loaders(cfg)
    loading, evaluating = defaultdict(list), defaultdict(list)
    for number in range(iterations + 1):
        for side, loader in batches.items():
            batch = timed(partial(next, loader), loading[side])  # ours at last: both sides take it
        for side in in_turn(number):
            both[side].step(number, batch, timed=number > 0)
    records = list(islice(DatasetCatalog.get(name), evaluated))
    mappers = {PLAIN: DatasetMapper(cfg, is_train=False), OURS: Mapper(cfg, is_train=False)}
    for number in range(EVALUATIONS + 1):
        for side in in_turn(number):
            loader = build_detection_test_loader(dataset=records, mapper=mappers[side], num_workers=0)
            timed(partial(inference_on_dataset, both[side].trainer.model, loader, None), evaluating[side])
    for seconds in (*loading.values(), *evaluating.values()):
        del seconds[0]
    found = {"loader": loading}
    for part in (*PARTS, "step"):
        found[part] = {name: side.seconds[part] for name, side in both.items()}
    return found | {"evaluation": evaluating}


def table(found: dict[str, Seconds]) -> str:
    """Medians of both sides in seconds, and the median of the paired ratios."""
    lines = [f"{'seconds of':12}{PLAIN:>12}{OURS:>10}{'ratio':>8}  (smallest to largest)"]
    for part, of in found.items():
        ratios = [plain / ours for plain, ours in zip(of[PLAIN], of[OURS], strict=True)]
        lines.append(f"{part:12}{statistics.median(of[PLAIN]):12.3f}{statistics.median(of[OURS]):10.3f}"
                     f"{statistics.median(ratios):8.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("clove speed finetune", description=__doc__)
    add_protocol_arguments(made)
    where.add_arguments(made)
    made.add_argument("--architecture", choices=tuple(ARCHITECTURES), default=STANDARD)
    made.add_argument("--iterations", type=int, default=8, metavar="N",
                      help="timed of each side (default: 8)")
    made.add_argument("--evaluated", type=int, default=8, metavar="N",
                      help="validation images that are evaluated (default: 8)")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    return made


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    args = parser().parse_args(argv)
    refuse((min(args.iterations, args.evaluated, args.threads) < 1,
            "expected --iterations, --evaluated and --threads of at least 1, found less"))
    torch.set_num_threads(args.threads)
    request = Request.of(args, weights=RAND.weights, output="")
    cfg, name = prepared(request, args.architecture, present_device(args.device))
    machine = hardware()
    print(f"{machine['cpu']}, {args.threads} of {machine['cores']} cores, {cfg.MODEL.DEVICE}, "
          f"torch {torch.__version__}; {args.task}, scale {args.scale}, {args.architecture}, "
          f"{cfg.SOLVER.IMS_PER_BATCH} images a step, {args.iterations} steps alternated, "
          f"{args.evaluated} images evaluated", flush=True)
    print(table(measure(cfg, name, args.iterations, args.evaluated)))
    print("both sides take the same batches; at --fit accumulate=N, detectron2's side still takes "
          "each batch at once")
    return 0

