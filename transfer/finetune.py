"""One fine-tuning: a backbone (or random weights), one task, one trial -> result.json with where it comes from.

`python -m transfer finetune` from the outside, `finetune(Request(...))` from Python. The output folder can be handed
in again: a killed run goes on, a finished one is only read. result.json is written last and whole, or not at all.
"""

import argparse
import json
import logging
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn
from torch.multiprocessing import ProcessRaisedException

from pretrain.atomic import sha256_file, write_text
from pretrain.errors import UserError
from transfer import datasets, detectron2_compat, evaluate, fast_coco, picture, settings, trainer
from transfer.provenance import code_version, hardware, versions

RANDOM = "random"
SCHEMA = 1
FAILED = 3  # exit code of a training whose loss stopped being a number


@dataclass(frozen=True)
class Request:
    """What to fine-tune. `weights` is a folder that `python -m transfer convert` wrote, or "random"."""

    task: str
    weights: str
    data: str | Path
    output: str | Path
    scale: str = "full"
    heads: str | None = None  # None: what the task's file names
    schedule: str | None = None  # None: the task's published one, or the scale's own length
    solver: str | None = None  # None: the one that all methods share
    trial: int = 0  # varies head initialisation and data order, the same way for every method
    overrides: tuple[str, ...] = ()  # KEY=VALUE of detectron2's config
    device: str | None = None  # None: cuda where there is one
    num_gpus: int = 1  # processes on this machine; with device cpu they share its cores
    architecture: str = "resnet50"  # of random weights; others say themselves what they are
    evaluator: str = "pycocotools"  # or hotcoco, checked against it


@dataclass(frozen=True)
class Weights:
    """The starting point, as result.json records it; `pkl` is empty for random initialisation."""

    method: str
    architecture: str
    epochs: int | None = None
    branch: str | None = None
    pkl: str = ""
    pkl_sha256: str | None = None
    conversion: dict | None = None

    def record(self) -> dict:
        """The entry of result.json."""
        return {"method": self.method, "epochs": self.epochs, "branch": self.branch,
                "architecture": self.architecture, "standard": self.architecture == "resnet50",
                "pkl_sha256": self.pkl_sha256, "conversion": self.conversion}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m transfer finetune`."""
    parser.add_argument("--task", required=True, choices=datasets.TASKS)
    parser.add_argument("--weights", required=True, metavar="DIR",
                        help="folder that `convert` wrote, or the word random")
    parser.add_argument("--data", required=True, metavar="DIR",
                        help="COCO's or Cityscapes' layout, or images/ beside annotations/*train*.json and *val*.json")
    parser.add_argument("--output", required=True, metavar="DIR",
                        help="for result.json, predictions.png, checkpoints and logs; the same folder again goes on")
    parser.add_argument("--scale", default="full", choices=settings.SCALES,
                        help="full is the published protocol (default); mini and demo are small and prove nothing")
    parser.add_argument("--heads", choices=settings.HEADS,
                        help="head family (default: 4conv1fc for coco and lvis, 2fc for keypoints and cityscapes; "
                             "coco-c4 and voc have none)")
    parser.add_argument("--schedule", metavar="NAME",
                        help="length (default: 2x for keypoints, 24k for cityscapes and voc, 1x for the others)")
    parser.add_argument("--solver", choices=(settings.COMMON, "vicreg"),
                        help="common to all methods (default), or VICReg's own for coco and voc, noted in the result")
    parser.add_argument("--trial", type=int, default=0, metavar="N",
                        help="seed of head initialisation and data order, shared by all methods (default: 0)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE",
                        help="a value of detectron2's config, last word; may be repeated")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N",
                        help="processes on this machine; the total batch stays what the config says (default: 1)")
    parser.add_argument("--architecture", default="resnet50", choices=sorted(settings.DEPTHS),
                        help="of random weights (default: resnet50; others are not the published protocol)")
    parser.add_argument("--evaluator", default="pycocotools", choices=fast_coco.EVALUATORS,
                        help="of the COCO figures; hotcoco is faster, and refused where it differs from pycocotools on "
                             "a sample of the images (default: pycocotools)")


def run(args: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code."""
    request = Request(task=args.task, weights=args.weights, data=args.data, output=args.output, scale=args.scale,
                      heads=args.heads, schedule=args.schedule, solver=args.solver, trial=args.trial,
                      overrides=tuple(args.overrides), device=args.device, num_gpus=args.num_gpus,
                      architecture=args.architecture, evaluator=args.evaluator)
    try:
        result = finetune(request)
    except trainer.TrainingFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    figures = ", ".join(f"{name} {'-' if value is None else f'{value:.1f}'}"
                        for name, value in result["metrics"].items())
    print(f"{result['weights']['method']} on {result['task']}, trial {result['trial']}, {result['iterations']} "
          f"iterations: {figures}\nwrote {Path(request.output) / 'result.json'} and predictions.png")
    return 0


def finetune(request: Request) -> dict:
    """Train, evaluate and write result.json; returns its content, at once when it is there already.

    Raises `UserError` for what the user can mend and `trainer.TrainingFailed` when the loss is not finite.
    """
    detectron2_compat.apply()
    if request.evaluator == "hotcoco":
        if evaluate.OFFICIAL[request.task] != "pycocotools":
            raise UserError(f"--evaluator hotcoco: {request.task} figures come from {evaluate.OFFICIAL[request.task]} "
                            "alone; leave it out")
        fast_coco.require()
    output = Path(request.output)
    weights = read_weights(request)
    dataset = datasets.find(request.data, request.task)
    heads = request.heads or settings.default_heads(request.task)
    cfg = settings.resolve(dataset, heads, request.scale, request.overrides, schedule=request.schedule,
                           solver=request.solver, architecture=weights.architecture, trial=request.trial,
                           device=_device(request), num_gpus=request.num_gpus, weights=weights.pkl, output=str(output))
    protocol = {"heads": heads, "scale": request.scale, "schedule": _schedule(request),
                "solver": request.solver or settings.COMMON}
    words = {"task": request.task, **protocol, "trial": request.trial,
             "weights": {key: value for key, value in weights.record().items() if key != "conversion"},
             "dataset": datasets.describe(dataset)}
    _check_same(output, words, cfg)
    if (output / "result.json").is_file():
        print(f"{output} is finished: nothing to do", file=sys.stderr)
        return json.loads((output / "result.json").read_text(encoding="utf-8"))
    write_text(output / "config.yaml", cfg.dump())
    write_text(output / "request.json", json.dumps(words, indent=1) + "\n")
    _launch(request.num_gpus, cfg, dataset, f"{request.task} from {weights.method}", request.evaluator)
    measured = json.loads((output / "measured.json").read_text(encoding="utf-8"))
    config = settings.plain(cfg)
    result = {
        "schema": SCHEMA, "task": request.task, "table": evaluate.TABLES[request.task],
        "metrics": measured["metrics"], "details": measured["details"], "evaluator": measured["evaluator"],
        "trial": request.trial, "seed": cfg.SEED, **protocol,
        "weights": weights.record(), "dataset": words["dataset"], "iterations": cfg.SOLVER.MAX_ITER,
        "overrides": list(request.overrides), "processes": request.num_gpus,
        "config": config, "config_sha256": settings.sha256(config),
        "versions": versions(), "hardware": hardware(), "code": code_version(),
        "wall_seconds": measured["wall_seconds"], "peak_memory_mb": measured["peak_memory_mb"],
        "started": measured["started"], "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(output / "result.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _schedule(request: Request) -> str | None:
    """The name of the schedule; None for a small scale, which has a length of its own."""
    if request.scale != "full":
        return None
    return request.schedule or settings.default_schedule(request.task)


def read_weights(request: Request) -> Weights:
    """The starting weights of `request`, checked against their certificate."""
    if request.weights == RANDOM:
        # detectron2's own initialisation: He normal (fan out) in the backbone, its heads' own; batch norm 1 and 0.
        return Weights("Rand init", request.architecture)
    folder = Path(request.weights)
    certificate, pkl = folder / "conversion.json", folder / "detectron2.pkl"
    if not certificate.is_file() or not pkl.is_file():
        raise UserError(f"{folder} is no converted checkpoint: expected conversion.json and detectron2.pkl in it; run "
                        f"`python -m transfer convert FILE --output {folder}`, or give the word random")
    conversion, sha256 = json.loads(certificate.read_text(encoding="utf-8")), sha256_file(pkl)
    if conversion.get("pkl_sha256") != sha256:
        raise UserError(f"{pkl} is not the file that {certificate} certifies (its SHA-256 is {sha256[:12]}...): "
                        "convert the checkpoint again")
    if conversion["architecture"] not in settings.DEPTHS:
        raise UserError(f"{folder} holds a {conversion['architecture']}: expected {', '.join(settings.DEPTHS)}")
    order = conversion["pixel_format"]["channel_order"]
    if order != "RGB":
        raise UserError(f"{folder} wants {order} images: the configs here feed RGB, expected weights trained on RGB")
    return Weights(conversion["method"], conversion["architecture"], conversion["epochs"], conversion["branch"],
                   str(pkl), sha256, conversion)


def _device(request: Request) -> str:
    if request.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu, or look at `nvidia-smi` and the "
                        "CUDA version of torch")
    device = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
    most = torch.cuda.device_count() if device == "cuda" else 64
    if not 1 <= request.num_gpus <= most:
        raise UserError(f"--num-gpus {request.num_gpus}: expected 1 to {most} with device {device} on this machine")
    return device


def _check_same(output: Path, words: dict, cfg: CfgNode) -> None:
    """Refuse an output folder that holds another run, naming what differs."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: expected a folder for --output")
    before, now = {}, {**words, "config": settings.plain(cfg)}
    try:
        before |= json.loads((output / "request.json").read_text(encoding="utf-8"))
        before["config"] = yaml.safe_load((output / "config.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:  # a run killed before it began
        return
    config = settings.differences(before.pop("config"), now.pop("config"))
    other = settings.differences(before, now)
    if config or other:
        named = [f"{key} was {old}, is {new}" for key, (old, new) in list({**other, **config}.items())[:5]]
        more = f" and {len(config) + len(other) - 5} more" if len(config) + len(other) > 5 else ""
        raise UserError(f"{output} holds another run: {'; '.join(named)}{more}. Use the same words as before to go on, "
                        "or another --output")


def _launch(processes: int, cfg: CfgNode, dataset: datasets.Dataset, title: str, evaluator: str) -> None:
    try:
        launch(_work, processes, dist_url="auto", args=(cfg, dataset, title, evaluator))
    except ProcessRaisedException as error:  # the traceback of a process, as text
        last = str(error).strip().splitlines()[-1]
        for kind in (trainer.TrainingFailed, UserError):
            name, _, message = last.partition(": ")
            if name.rpartition(".")[2] == kind.__name__:
                raise kind(message) from None
        raise


def _work(cfg: CfgNode, dataset: datasets.Dataset, title: str, evaluator: str) -> None:
    """What each process does; the first one writes measured.json for the parent."""
    try:
        _train_and_evaluate(cfg, dataset, title, evaluator)
    except UserError as error:  # from a data loader's worker it comes wrapped in that worker's traceback
        raise UserError(str(error).strip().splitlines()[-1].partition("UserError: ")[2] or str(error)) from None


def _train_and_evaluate(cfg: CfgNode, dataset: datasets.Dataset, title: str, evaluator: str) -> None:
    from transfer.convert import assert_loaded

    detectron2_compat.apply()
    output = Path(cfg.OUTPUT_DIR)
    with logged(output / "log.txt"):
        datasets.register(dataset)
        seed_all_rng(cfg.SEED + 1000 * comm.get_rank())
        model = build_model(cfg)

        def check_start(started: nn.Module) -> None:
            if cfg.MODEL.WEIGHTS:
                assert_loaded(started, cfg.MODEL.WEIGHTS)

        def early(current: nn.Module) -> dict[str, float]:
            metrics, _ = evaluate.evaluate(current, cfg, dataset.task)
            return {f"early/{name}": value for name, value in metrics.items() if value is not None}

        clock = trainer.train(cfg, model, title, check_start, early)
        if comm.is_main_process():
            print(f"evaluating on {dataset.val.images} images", file=sys.stderr)
        metrics, details = evaluate.evaluate(model, cfg, dataset.task, evaluator)
        if not comm.is_main_process():
            return
        picture.draw(model, cfg, output / "predictions.png")
        own = evaluate.OFFICIAL[dataset.task]
        measured = {"metrics": metrics, "details": details, "evaluator": evaluator if own == "pycocotools" else own,
                    "wall_seconds": round(clock.seconds, 1), "started": clock.started,
                    "peak_memory_mb": _peak_memory_mb(cfg.MODEL.DEVICE)}
        write_text(output / "measured.json", json.dumps(measured, indent=1, allow_nan=False) + "\n")


def _peak_memory_mb(device: str) -> int:
    """Of this process: what torch allocated on the GPU, or the largest resident size."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # Linux counts in KiB


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """detectron2's log and all warnings go to a file of the first process; the screen stays quiet."""
    handler = logging.FileHandler(path, encoding="utf-8") if comm.is_main_process() else logging.NullHandler()
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
        handler.close()
