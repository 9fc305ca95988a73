"""Evaluates a finished model alone: a run's folder, or a detectron2 model file beside its
config.yaml.

`clove evaluate MODEL --task T --data DIR --output DIR` writes a result.json of the
fine-tuning's schema with the kind "evaluation". For a run's folder it has all that the run
recorded, and on the same data the same metrics.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from pretrain.common.architectures import STANDARD
from pretrain.common.atomic import check_writable, make_folder, sha256_file
from pretrain.common.errors import refuse
from pretrain.data.pixels import SIXTEEN_BIT
from transfer import detectron2_compat, tasks
from transfer.data.dataset import Dataset
from transfer.data.image_check import check_sixteen_bit
from transfer.evaluators import fast_coco, predictions
from transfer.finetuning import evaluate, mapper, result
from transfer.finetuning.one_process import MEASURED, Job, logged, measure, one_line_errors
from transfer.finetuning.processes import choose_device, leaving, start
from transfer.finetuning.trainer import Clock
from transfer.reading.architecture import first_names
from transfer.records import identity
from transfer.settings import datasets, norms, resolved_config, where
from transfer.settings.buildable import assert_buildable
from transfer.tasks import Where
from transfer.trained.model_file import Model, check_classes, load, read_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL",
                        help="folder of a finished fine-tuning, or a detectron2 model file beside "
                             "its config.yaml")
    parser.add_argument("--task", required=True, choices=tuple(tasks.TASKS))
    where.add_arguments(parser, train_share=False)
    parser.add_argument("--output", required=True, metavar="DIR", help="for result.json and predictions.png")
    parser.add_argument("--keep-predictions", action="store_true", help=f"write {predictions.NAME} too")
    parser.add_argument("--evaluator", default="pycocotools", choices=fast_coco.EVALUATORS)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N",
                        help="processes on this machine (default: 1)")
    parser.add_argument("--method", metavar="NAME",
                        help="row in the tables of a model that no run of ours made")
    parser.add_argument("--sixteen-bit", choices=SIXTEEN_BIT,
                        help="reading of 16-bit images by a model that no run of ours made "
                             "(default: shift)")
    parser.add_argument("--trust", action="store_true",
                        help="let the model file run its own code while it is read; only for "
                             "files you know")


@dataclass(frozen=True)
class EvaluationRequest:
    """Which model is evaluated on which data, and how; the options of the command line."""

    model: str | Path
    task: str
    data: str | Path | Where
    output: str | Path
    keep_predictions: bool = False
    evaluator: str = "pycocotools"
    device: str | None = None  # None: cuda where there is one
    num_gpus: int = 1
    method: str | None = None  # of a model that no run of ours made; None: the name of its file
    sixteen_bit: str | None = None  # None: as its config says
    trust: bool = False


def run(args: argparse.Namespace) -> int:
    found = evaluate_model(EvaluationRequest(
        args.model, args.task, where.of(args), args.output, args.keep_predictions, args.evaluator, args.device,
        args.num_gpus, args.method, args.sixteen_bit, args.trust))
    print(evaluate.in_words(found["task"], found["metrics"]))
    print(f"wrote {Path(args.output) / result.RESULT} and predictions.png")
    return 0


def evaluate_model(request: EvaluationRequest) -> dict:
    """Evaluate a model on the validation set and write result.json; returns its content.

    Raises `UserError` for what the user can fix.
    """
    detectron2_compat.apply()
    evaluator = fast_coco.chosen(request.evaluator, request.task, tasks.get(request.task).official)
    output, device = Path(request.output), choose_device(request.device, request.num_gpus)
    read = read_model(Path(request.model), request.task)
    refuse(
        (request.method and read.found,
         f"--method {request.method}: {request.model} is a run that records its method; leave it "
         "out"),
        (request.sixteen_bit and read.found,
         f"--sixteen-bit {request.sixteen_bit}: {request.model} is a run whose config says how it "
         "reads its images; leave it out"),
        (output.resolve() == read.file.parent.resolve(),
         f"{output} is where the model lies: expected another folder for --output"),
        ((output / result.REQUEST).is_file(),
         f"{output} holds a fine-tuning: expected another folder for --output, so that its result "
         "stays"))
    check_writable(output)
    if request.sixteen_bit:
        read.cfg.INPUT.SIXTEEN_BIT = request.sixteen_bit
    dataset = datasets.find(request.data, request.task)
    check_sixteen_bit(dataset.val.opened, mapper.sixteen_bit(read.cfg))
    for note in dataset.notes:
        print(note, file=sys.stderr)
    known = read.found or _about_stranger(read, request.method, dataset)
    cfg = fitted_to(read.cfg, dataset, output, device)
    about = {**known, "dataset": both_halves(known, dataset), "evaluator": evaluator}
    assert_buildable(cfg, str(read.file.parent / result.CONFIG), training=False)
    make_folder(output)
    (output / result.RESULT).unlink(missing_ok=True)
    start(_work, request.num_gpus, Job(cfg, dataset, "", request.evaluator, False, request.keep_predictions),
          read.file, request.trust, device=device)
    about |= {"kind": result.EVALUATION, **identity.records(about)}
    if not read.found:
        about["training"] = None
    measured = (output / MEASURED).read_text(encoding="utf-8")
    return result.write(output, {
        **about, **result.about_measurement(request.task, json.loads(measured)),
        "evaluated": {"model": read.file.name, "sha256": sha256_file(read.file), "processes": request.num_gpus}})


def fitted_to(cfg: CfgNode, dataset: Dataset, output: Path, device: str) -> CfgNode:
    """`cfg` on this data and machine, frozen; `UserError` when the model has other classes or
    heads than the task."""
    cfg = cfg.clone()
    cfg.defrost()
    model, classes, points = cfg.MODEL, len(dataset.classes), len(dataset.keypoint_names)
    has = "no keypoint head"
    if model.KEYPOINT_ON:
        has = f"{model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS} keypoints"
    expected = "expected the data it was trained for"
    refuse(
        (classes != model.ROI_HEADS.NUM_CLASSES,
         f"the data has {classes} classes ({first_names(dataset.classes)}), the model "
         f"{model.ROI_HEADS.NUM_CLASSES}: {expected}"),
        (points and has != f"{points} keypoints",
         f"the data has {points} keypoints, the model {has}: {expected}"),
        ("masks" in dataset.parts and not model.MASK_ON,
         f"the data has masks, and the model has no mask head (MODEL.MASK_ON is False): {expected}"))
    norms.fit_to_evaluation(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = dataset.names[:1], dataset.names[1:]
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = device, "", str(output)
    cfg.freeze()
    return cfg


def both_halves(known: dict, dataset: Dataset) -> dict:
    """The dataset entry: trained on what the run was trained on, evaluated on this validation set.

    `UserError` when the two have other classes.
    """
    before = known["dataset"]
    check_classes(before["classes"], dataset)
    halves = datasets.describe(dataset)
    for key in ("train", "train_share"):
        if key in before:
            halves[key] = before[key]
    return halves


def _about_stranger(read: Model, method: str | None, dataset: Dataset) -> dict[str, Any]:
    """The entries of a result for a model that no run of ours made: what its config says, and no
    more."""
    cfg = read.cfg
    depth = f"resnet{cfg.MODEL.RESNETS.DEPTH}"
    box, heads = cfg.MODEL.ROI_BOX_HEAD, resolved_config.C4
    if "fpn" in cfg.MODEL.BACKBONE.NAME:
        heads = f"{box.NUM_CONV}conv{box.NUM_FC}fc".removeprefix("0conv")
    return {
        "heads": heads,
        "scale": "full", "schedule": None, "solver": None, "fit": None, "trial": 0,
        "overrides": [],
        "weights": {"method": method or read.file.stem, "epochs": None, "branch": None, "init": "not known",
                    "architecture": depth, "standard": depth == STANDARD, "path_sha256": sha256_file(read.file),
                    "pretraining": None,
                    "pixel_format": {
                        "channel_order": cfg.INPUT.FORMAT, "mean": list(cfg.MODEL.PIXEL_MEAN),
                        "std": list(cfg.MODEL.PIXEL_STD), "stride_in_1x1": cfg.MODEL.RESNETS.STRIDE_IN_1X1}},
        "dataset": datasets.describe(dataset), **result.about_config(cfg, 1), "processes": None,
        "batch_norm_images": None}


def _work(job: Job, file: Path, trust: bool) -> None:
    with one_line_errors(job.cfg.DATALOADER.NUM_WORKERS), leaving():
        detectron2_compat.apply()
        clock = Clock()
        with logged(Path(job.cfg.OUTPUT_DIR, "log.txt")):
            datasets.register(job.dataset)
            model = build_model(job.cfg)
            load(model, file, trust)
            measure(job.cfg, model, job, clock)
