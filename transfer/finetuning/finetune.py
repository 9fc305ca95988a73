"""One fine-tuning: a backbone (or random weights), one task, one trial -> result.json with all
that made it.

`clove finetune` on the command line, `finetune(Request(...))` in Python. With the
output folder of an earlier run a killed one resumes, a finished one is only read. result.json is
written last and whole, or not at all.
"""

import argparse
import json
import sys
from pathlib import Path

from detectron2.config import CfgNode

from pretrain.common.architectures import ARCHITECTURES, STANDARD
from pretrain.common.atomic import check_writable, make_folder, sha256_file
from pretrain.common.errors import refuse
from pretrain.common.lock import locked
from transfer import detectron2_compat, tasks
from transfer.data.dataset import Dataset
from transfer.data.image_check import check_sixteen_bit
from transfer.evaluators import fast_coco, predictions
from transfer.finetuning import evaluate, result
from transfer.finetuning.mapper import sixteen_bit
from transfer.finetuning.one_process import MEASURED, Job, work
from transfer.finetuning.processes import choose_device, start
from transfer.records import identity
from transfer.settings import datasets, one_gpu, resolved_config, where
from transfer.settings.random_starts import RANDOM_STARTS
from transfer.settings.request import COLLECTIVE_TIMEOUT, LOADER_TIMEOUT, Request, add_protocol_arguments
from transfer.settings.start_weights import ZERO_GAMMA_INIT, read_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    starts = ", ".join(f"{start.weights} ({start.text})" for start in RANDOM_STARTS)
    parser.add_argument("--weights", required=True, metavar="DIR",
                        help=f"folder that `convert` wrote, or {starts}")
    parser.add_argument("--output", required=True, metavar="DIR",
                        help="for result.json, predictions.png, checkpoints and logs; the same folder "
                             "again resumes")
    parser.add_argument("--trial", type=int, default=0, metavar="N",
                        help="seed of head initialisation and data order, shared by all methods (default: 0)")
    parser.add_argument("--eval-every", type=int, default=0, metavar="N",
                        help="also evaluate every N iterations, into metrics.json and TensorBoard as "
                             "early/NAME; it changes no weight (default: only at the end)")
    parser.add_argument("--keep-predictions", action="store_true",
                        help=f"write {predictions.NAME} too, of a finished run from its last weights")
    add_task_arguments(parser)


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """How a task is fine-tuned, on which data and machine; a preflight has these options too."""
    add_protocol_arguments(parser)
    where.add_arguments(parser)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N",
                        help="processes on this machine; the total batch stays that of the config (default: 1)")
    parser.add_argument("--architecture", default=STANDARD, choices=tuple(ARCHITECTURES),
                        help="of random weights (default: %(default)s, the published protocol's)")
    parser.add_argument("--loader-timeout", type=int, default=LOADER_TIMEOUT, metavar="SECONDS",
                        help="that a step waits for its images before the run ends in one line (default: %(default)s)")
    parser.add_argument("--collective-timeout", type=int, default=COLLECTIVE_TIMEOUT, metavar="SECONDS",
                        help="that a process waits for the others before it ends in one line: longer than an "
                             "evaluation takes (default: %(default)s)")
    parser.add_argument("--evaluator", default="pycocotools", choices=fast_coco.EVALUATORS,
                        help="of COCO's metrics; hotcoco is faster, and refused where it differs from "
                             "pycocotools on a sample of the images (default: pycocotools)")


def run(args: argparse.Namespace) -> int:
    request = Request.of(args)
    found = finetune(request)
    print(f"{found['weights']['method']} on {found['task']}, trial {found['trial']}, {found['iterations']} "
          f"iterations: {evaluate.in_words(found['task'], found['metrics'])}")
    print(f"wrote {Path(request.output) / result.RESULT} and predictions.png")
    return 0


def finetune(request: Request) -> dict:
    """Train, evaluate and write result.json; returns its content, at once when it is there already.

    In a folder whose training is finished and whose evaluation is another one (after the validation
    annotations were fixed, for example) the finished model is evaluated again, and the old result
    stays beside the new one. Raises `UserError` for what the user can fix and
    `trainer.TrainingFailed` when the loss is not finite; SystemExit when a signal asks it to stop.
    """
    detectron2_compat.apply()
    evaluator = fast_coco.chosen(request.evaluator, request.task, tasks.get(request.task).official)
    refuse(
        (request.eval_every < 0,
         f"--eval-every {request.eval_every}: expected a number of iterations, or 0 for none"),
        (min(request.loader_timeout, request.collective_timeout) < 1,
         f"--loader-timeout {request.loader_timeout}, --collective-timeout {request.collective_timeout}: expected "
         "seconds, from 1"),
        (not 0 <= request.trial < 2**32, f"--trial {request.trial}: expected a seed from 0 to 2**32 - 1"))
    output = Path(request.output)
    if result.read(output) is None:
        check_writable(output)
    weights = read_weights(request.weights, request.architecture)
    dataset = datasets.find(request.data, request.task)
    device = choose_device(request.device, request.num_gpus)
    request = one_gpu.fitted(request, device)
    cfg = resolved_config.resolve(dataset, request, weights, device)
    check_sixteen_bit(dataset.val.opened, sixteen_bit(cfg))
    about = {**resolved_config.names(request), "trial": request.trial, "weights": weights.record(),
             "dataset": datasets.describe(dataset), "evaluator": evaluator,
             **result.about_config(cfg, request.num_gpus)}
    result.check_training(output, about)
    found = result.finished(output, about, request.keep_predictions)
    if found is None:
        for note in [*dataset.notes, *one_gpu.cost(cfg, request)]:
            print(note, file=sys.stderr)
        if cfg.SOLVER.MAX_ITER and max(cfg.SOLVER.STEPS, default=0) > cfg.SOLVER.MAX_ITER:
            print(f"warning: SOLVER.STEPS {tuple(cfg.SOLVER.STEPS)} lie behind SOLVER.MAX_ITER "
                  f"{cfg.SOLVER.MAX_ITER}: the learning rate does not drop there", file=sys.stderr)
        make_folder(output)
        with locked(output):
            # Again: another process may have worked here until now, and have finished.
            result.check_training(output, about)
            found = result.finished(output, about, request.keep_predictions)
            if found is None:
                return _train_and_write(request, about, cfg, dataset)
    print(f"{output} is finished: nothing to do", file=sys.stderr)
    return found


def _train_and_write(request: Request, about: dict, cfg: CfgNode, dataset: Dataset) -> dict:
    """Train and evaluate in a folder that is locked for this process; returns the result."""
    output = Path(request.output)
    about = {**about, "earlier_processes": result.earlier_processes(output, request.num_gpus)}
    result.set_aside(output, about)
    result.begin(output, about, cfg)
    val = dataset.val.annotations
    before = sha256_file(val) if val.is_file() else None  # a folder is too much to read twice
    job = Job(cfg, dataset, f"{request.task} from {about['weights']['method']}", request.evaluator,
              about["weights"]["init"] == ZERO_GAMMA_INIT, request.keep_predictions, request.loader_timeout)
    try:
        start(work, request.num_gpus, job, device=cfg.MODEL.DEVICE, timeout=request.collective_timeout)
    except Exception:
        if not any(output.glob("model_*.pth")):  # nothing was trained: other options may use the folder
            for name in (result.CONFIG, result.REQUEST):
                (output / name).unlink(missing_ok=True)
        raise
    refuse((before is not None and sha256_file(val) != before,
            f"{val} was changed while this ran, so it is not known which version was evaluated: run the same "
            "command again, it evaluates the finished model"))
    measured = json.loads((output / MEASURED).read_text(encoding="utf-8"))
    return result.write(output, {
        "kind": result.FINETUNING, **about, **identity.records(about),
        **result.about_measurement(request.task, measured), "overrides": list(request.overrides)})
