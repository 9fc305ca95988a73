"""What each process of a fine-tuning does: build, train, evaluate; the first one writes the
metrics."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn

from pretrain import distributed, kernels
from pretrain.common.atomic import write_text
from pretrain.common.errors import Killed, UserError, in_one_line, is_fixed_by_user, quiet_threads
from pretrain.common.signals import stop_signals
from pretrain.data import loader_processes
from transfer import detectron2_compat
from transfer.data.dataset import Dataset
from transfer.evaluators import predictions
from transfer.finetuning import batch_norm, drawing, evaluate, examples, trainer
from transfer.finetuning.processes import leaving
from transfer.finetuning.result import EXAMPLES, PICTURE
from transfer.finetuning.training_images import NO_LOADERS
from transfer.records.provenance import peak_memory_mb
from transfer.settings import datasets, norms
from transfer.settings.request import LOADER_TIMEOUT
from transfer.settings.start_weights import zero_last_gammas

MEASURED = "measured.json"


@dataclass(frozen=True)
class Job:
    """What each process gets. `title` stands before the progress bar."""

    cfg: CfgNode
    dataset: Dataset
    title: str
    evaluator: str
    zero_gamma: bool = False
    keep_predictions: bool = False
    loader_timeout: int = LOADER_TIMEOUT


def work(job: Job) -> None:
    """Train and evaluate; leaves measured.json, predictions.png and examples.json in the folder of the run."""
    loader_processes.set_deadline(job.loader_timeout)
    with one_line_errors(job.cfg.DATALOADER.NUM_WORKERS), leaving():
        detectron2_compat.apply()
        with logged(Path(job.cfg.OUTPUT_DIR, "log.txt")):
            _train_and_evaluate(job)


def _train_and_evaluate(job: Job) -> None:
    cfg = job.cfg
    _kernels(cfg)
    datasets.register(job.dataset)
    seed_all_rng(cfg.SEED + 1000 * comm.get_rank())
    model = build_model(cfg)
    if norms.is_joined(cfg):
        model = batch_norm.joined(model)
    if job.zero_gamma:
        zero_last_gammas(model)

    with stop_signals() as stop:
        clock = trainer.train(cfg, model, job.title, job.dataset, stop)
    measure(cfg, model, job, clock)


def _kernels(cfg: CfgNode) -> dict[str, bool]:
    chosen = kernels.choose(torch.device(cfg.MODEL.DEVICE), search=False)
    if norms.is_joined(cfg):
        chosen["joined_batch_norm"] = True  # SyncBN is ours, not torch's
    return chosen


def measure(cfg: CfgNode, model: nn.Module, job: Job, clock: trainer.Clock) -> None:
    """Evaluate `model` on the validation set, draw predictions, and write measured.json, the
    entries of result.json that the parent process needs."""
    chosen = _kernels(cfg)
    if comm.is_main_process():
        print(f"evaluating on {job.dataset.val.images} images", file=sys.stderr)
    kept = Path(cfg.OUTPUT_DIR, predictions.NAME)
    keeper = predictions.Keeper(kept, job.dataset)
    metrics = evaluate.evaluate(
        model, cfg, job.dataset, job.evaluator, keeper if job.keep_predictions else None)
    if not comm.is_main_process():
        return
    seen = drawing.draw(model, cfg, Path(cfg.OUTPUT_DIR, PICTURE), job.title)
    examples.write(Path(cfg.OUTPUT_DIR, EXAMPLES), job.dataset, seen)
    measured = {"metrics": metrics, "predictions": predictions.record(kept) if job.keep_predictions else None,
                "wall_seconds": round(clock.seconds, 1), "peak_memory_mb": peak_memory_mb(cfg.MODEL.DEVICE),
                "started": clock.started, "kernels": chosen}
    write_text(Path(cfg.OUTPUT_DIR, MEASURED), json.dumps(measured, indent=1, allow_nan=False) + "\n")


@contextmanager
def one_line_errors(workers: int = 0) -> Iterator[None]:
    """A `UserError` of a data loader's worker comes with that worker's traceback: keep the last
    line. What a user can fix in the file system, the end of one of the `workers` and of another
    process become one too: another process would hand its traceback to the first."""
    quiet_threads()
    try:
        yield
    except OSError as error:
        if not is_fixed_by_user(error):
            raise
        raise UserError(in_one_line(error)) from None
    except RuntimeError as error:
        found = loader_processes.problem(error, workers, NO_LOADERS) or distributed.problem(error)
        if found is None:
            raise
        raise found from None
    except UserError as error:
        if isinstance(error, Killed | trainer.TrainingFailed):
            raise
        _, _, message = str(error).strip().splitlines()[-1].partition("UserError: ")
        raise UserError(message or str(error)) from None


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Inside, detectron2's log and all warnings go to a file of the first process, not to the
    screen."""
    handler: logging.Handler = logging.NullHandler()
    if comm.is_main_process():
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "iopath", "py.warnings")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        with suppress(OSError):  # see _LogFile
            handler.close()


class _LogFile(logging.FileHandler):
    """Says nothing of a full disk: checkpoints and curves meet it too, and end the run in one line."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not is_fixed_by_user(sys.exc_info()[1]):
            super().handleError(record)
