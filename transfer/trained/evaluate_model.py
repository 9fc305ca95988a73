"""Evaluates a finished model alone: a run's folder, or a detectron2 model file beside its config.yaml.

`python -m transfer evaluate MODEL --task T --data DIR --output DIR` writes a result.json of the fine-tuning's schema
with the kind "evaluation". For a run's folder it has all that the run recorded, and on the same data the same figures.
"""

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm

from pretrain.common.architectures import STANDARD
from pretrain.common.atomic import make_folder, sha256_file
from pretrain.common.errors import UserError
from pretrain.data.pixels import SIXTEEN_BIT
from transfer import detectron2_compat, tasks
from transfer.data.dataset import Dataset
from transfer.data.image_check import check_sixteen_bit
from transfer.evaluators import fast_coco, predictions
from transfer.finetuning import evaluate, mapper, result
from transfer.finetuning.one_process import MEASURED, Job, logged, measure, one_line_errors, write_measured
from transfer.finetuning.processes import choose_device, leaving, start
from transfer.records import identity
from transfer.settings import datasets, norms, resolved_config, where
from transfer.settings.buildable import assert_buildable
from transfer.tasks import Where
from transfer.trained.model_file import Model, load, read_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m transfer evaluate`."""
    parser.add_argument("model", metavar="MODEL",
                        help="folder of a finished fine-tuning, or a detectron2 model file with its config.yaml beside")
    parser.add_argument("--task", required=True, choices=tuple(tasks.TASKS))
    where.add_arguments(parser, train_share=False)
    parser.add_argument("--output", required=True, metavar="DIR", help="for result.json and predictions.png")
    parser.add_argument("--keep-predictions", action="store_true", help=f"write {predictions.NAME} too")
    parser.add_argument("--evaluator", default="pycocotools", choices=fast_coco.EVALUATORS)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    parser.add_argument("--method", metavar="NAME", help="row in the tables of a model that no run of ours made")
    parser.add_argument("--sixteen-bit", choices=SIXTEEN_BIT,
                        help="how 16-bit images are read for a model that no run of ours made (default: shift)")
    parser.add_argument("--trust", action="store_true",
                        help="let the model file run its own code while it is read; only for files you know")


def run(args: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code."""
    found = evaluate_model(args.model, args.task, where.of(args), args.output, args.keep_predictions, args.evaluator,
                           args.device, args.num_gpus, args.method, args.trust, args.sixteen_bit)
    print(evaluate.in_words(found["task"], found["metrics"]))
    print(f"wrote {Path(args.output) / result.RESULT} and predictions.png")
    return 0


def evaluate_model(model: str | Path, task: str, data: str | Path | Where, output: str | Path,
                   keep_predictions: bool = False, evaluator: str = "pycocotools", device: str | None = None,
                   num_gpus: int = 1, method: str | None = None, trust: bool = False,
                   sixteen_bit: str | None = None) -> dict:
    """Evaluate `model` on the validation set in `data` and write result.json into `output`; returns its content."""
    detectron2_compat.apply()
    by = fast_coco.chosen(evaluator, task, tasks.get(task).official)
    output, place = Path(output), choose_device(device, num_gpus)
    read = read_model(Path(model), task)
    if method and read.found:
        raise UserError(f"--method {method}: {model} is a run that knows its method "
                        f"({read.found['weights']['method']}); leave it out")
    if sixteen_bit and read.found:
        raise UserError(f"--sixteen-bit {sixteen_bit}: {model} is a run whose config says how it reads its images; "
                        "leave it out")
    if sixteen_bit:
        read.cfg.INPUT.SIXTEEN_BIT = sixteen_bit
    if output.resolve() == read.file.parent.resolve():
        raise UserError(f"{output} is where the model lies: expected another folder for --output")
    if (output / result.REQUEST).is_file():
        raise UserError(f"{output} holds a fine-tuning: expected another folder for --output, so that its result stays")
    dataset = datasets.find(data, task)
    check_sixteen_bit(dataset.val.opened, mapper.sixteen_bit(read.cfg))
    for note in dataset.notes:
        print(note, file=sys.stderr)
    known = read.found or _about_stranger(read, method, dataset)
    cfg, halves = fitted_to(read.cfg, dataset, output, place), both_halves(known, dataset)
    assert_buildable(cfg, str(read.file.parent / result.CONFIG), training=False)
    make_folder(output)
    (output / result.RESULT).unlink(missing_ok=True)
    start(_work, num_gpus, Job(cfg, dataset, "", evaluator, keep_predictions=keep_predictions), read.file, trust)
    measured = json.loads((output / MEASURED).read_text(encoding="utf-8"))
    about = {**known, "dataset": halves, "evaluator": by}
    return result.write(output, {
        **about, "kind": result.EVALUATION, **identity.records(about) | ({} if read.found else {"training": None}),
        **result.about_measurement(task, measured),
        "evaluated": {"model": read.file.name, "sha256": sha256_file(read.file), "processes": num_gpus}})


def fitted_to(cfg: CfgNode, dataset: Dataset, output: Path, device: str) -> CfgNode:
    """`cfg` on this data and machine, frozen; `UserError` when the model has other classes or heads than the task."""
    cfg = cfg.clone()
    cfg.defrost()
    model, expected = cfg.MODEL, len(dataset.classes)
    if expected != model.ROI_HEADS.NUM_CLASSES:
        named = ", ".join(dataset.classes[:5])
        if expected > 5:
            named += ", ..."
        raise UserError(f"the data has {expected} classes ({named}), the model {model.ROI_HEADS.NUM_CLASSES}: expected "
                        "the data it was trained for")
    points = len(dataset.keypoint_names)
    if points and (not model.KEYPOINT_ON or points != model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS):
        has = f"{model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS} keypoints" if model.KEYPOINT_ON else "no keypoint head"
        raise UserError(f"the data has {points} keypoints, the model {has}: expected the data it was trained for")
    if "masks" in dataset.parts and not model.MASK_ON:
        raise UserError("the data has masks, and the model has no mask head (MODEL.MASK_ON is False): expected the "
                        "data it was trained for")
    norms.fit_to_evaluation(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = dataset.names[:1], dataset.names[1:]
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = device, "", str(output)
    cfg.freeze()
    return cfg


def both_halves(known: dict, dataset: Dataset) -> dict:
    """The dataset entry: trained on what the run was trained on, evaluated on this validation set; `UserError` when
    the two have other classes."""
    before, now = known["dataset"], datasets.describe(dataset)
    if before["classes"] != now["classes"]:
        raise UserError(f"the data has the classes {', '.join(now['classes'][:5])}, the model was trained for "
                        f"{', '.join(before['classes'][:5])}: expected the same, in the same order")
    return {**now, **{key: before[key] for key in ("train", "train_share") if key in before}}


def _about_stranger(read: Model, method: str | None, dataset: Dataset) -> dict[str, Any]:
    """What a result says of a model that no run of ours made: what its config tells, and no more."""
    cfg = read.cfg
    depth = f"resnet{cfg.MODEL.RESNETS.DEPTH}"
    box = cfg.MODEL.ROI_BOX_HEAD
    c4 = "fpn" not in cfg.MODEL.BACKBONE.NAME
    return {
        "heads": resolved_config.C4 if c4 else f"{box.NUM_CONV}conv{box.NUM_FC}fc".removeprefix("0conv"),
        "scale": "full", "schedule": None, "solver": None, "fit": None, "trial": 0, "overrides": [],
        "weights": {"method": method or read.file.stem, "epochs": None, "branch": None, "init": "not known",
                    "architecture": depth, "standard": depth == STANDARD, "path_sha256": sha256_file(read.file),
                    "pretraining": None,
                    "pixel_format": {"channel_order": cfg.INPUT.FORMAT, "mean": list(cfg.MODEL.PIXEL_MEAN),
                                     "std": list(cfg.MODEL.PIXEL_STD),
                                     "stride_in_1x1": cfg.MODEL.RESNETS.STRIDE_IN_1X1}},
        "dataset": datasets.describe(dataset), **result.about_config(cfg, 1), "processes": None,
        "batch_norm_images": None}


def _work(job: Job, file: Path, trust: bool) -> None:
    """What each process does."""
    with one_line_errors(), leaving():
        detectron2_compat.apply()
        started, since = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        with logged(Path(job.cfg.OUTPUT_DIR, "log.txt")):
            datasets.register(job.dataset)
            model = build_model(job.cfg)
            load(model, file, trust)
            measured = measure(job.cfg, model, job)
        if comm.is_main_process():
            write_measured(job.cfg, measured | {"wall_seconds": round(time.perf_counter() - since, 1),
                                                "started": started})


