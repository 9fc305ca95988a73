"""The resolved detectron2 config of one fine-tuning: base, task, schedule, solver, heads, scale, data, `--set`.

The order is fixed and every layer is a file or an argument, so that two runs differ only where
their options differ.
"""

import difflib
import hashlib
import json
import re
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
)
from fvcore.common.registry import Registry

from pretrain.common.errors import UserError, refuse
from pretrain.data.pixels import SIXTEEN_BIT
from transfer.data.dataset import Dataset
from transfer.reading.architecture import set_architecture
from transfer.records.identity import NORM_KEYS, PLACES, flatten
from transfer.settings import (
    c4,  # noqa: F401 -- makes its heads known to detectron2
    norms,
)
from transfer.settings.batch_scaling import Fit, chosen, fitted, settle
from transfer.settings.buildable import assert_buildable
from transfer.settings.request import C4, COMMON, SCALES, Protocol, Request
from transfer.settings.start_weights import Weights
from transfer.tasks import Task, get

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BASE = "_BASE_"  # key of a config: the file that it is laid over
# What task, data, weights and --trial decide: set by hand it would fail when all is trained, or be
# another task.
FOLLOWS = ("DATASETS.TRAIN", "DATASETS.TEST", "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.MASK_ON", "MODEL.KEYPOINT_ON",
           "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD",
           "MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.RESNETS.DEPTH", "MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME",
           "SEED", *PLACES)
LEAST = {"SOLVER.IMS_PER_BATCH": 1, "SOLVER.MAX_ITER": 0, "SOLVER.CHECKPOINT_PERIOD": 1, "DATALOADER.NUM_WORKERS": 0,
         "SOLVER.BASE_LR": 0, "TEST.EVAL_PERIOD": 0, "TEST.PRECISE_BN.NUM_ITER": 1, "DATALOADER.REPEAT_THRESHOLD": 0,
         "SOLVER.GAMMA": 0, "SOLVER.WARMUP_ITERS": 0, "TEST.DETECTIONS_PER_IMAGE": 1,
         "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 1, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 1,
         "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 1, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 1}
# What only detectron2's own training script reads, or test-time augmentation: without effect here.
UNREAD = ("TEST.AUG.ENABLED", "TEST.AUG.MIN_SIZES", "TEST.AUG.MAX_SIZE", "TEST.AUG.FLIP", "TEST.EXPECTED_RESULTS",
          "SOLVER.REFERENCE_WORLD_SIZE", "MODEL.DEVICE", "MODEL.LOAD_PROPOSALS", "CUDNN_BENCHMARK", "VERSION")
# What an override may name, checked before the data is read.
NAMES = {"MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
         "MODEL.ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY, "MODEL.RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
         "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY, "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
         "MODEL.ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
         "MODEL.ROI_KEYPOINT_HEAD.NAME": ROI_KEYPOINT_HEAD_REGISTRY,
         "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler"),  # those of `stream`
         "INPUT.MASK_FORMAT": ("polygon", "bitmask"), "INPUT.SIXTEEN_BIT": SIXTEEN_BIT,
         "SOLVER.AMP.PRECISION": ("fp32", "bf16"),
         **dict.fromkeys(("MODEL.RPN.BBOX_REG_LOSS_TYPE", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"),
                         ("smooth_l1", "giou", "diou", "ciou")),  # detectron2.modeling.box_regression
         **dict.fromkeys(NORM_KEYS, ("BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N",
                                     "LN"))}  # detectron2.layers.get_norm


def layers(task: str, heads: str, scale: str, schedule: str | None = None, solver: str | None = None) -> CfgNode:
    """The protocol's config from its files alone: no data, no weights, no machine.

    `schedule` and `solver`: None for the task's default and for COMMON. The small scales have a
    length and a solver of their own: with them another one than None (COMMON for the solver) is
    refused, as is whatever the task has not.
    """
    own = get(task)
    _check_choices(own, heads, scale, schedule, solver)
    length = own.schedules[schedule or own.default_schedule]
    if isinstance(own.config, str):
        parts = [_read(CONFIGS / own.config)]  # an absolute path stays what it is
    else:
        over = {key: value for key, value in own.config.items() if key != BASE}
        parts = [_read(CONFIGS / own.config[BASE]), over]
    parts.append({"SOLVER": {"MAX_ITER": length.iterations, "STEPS": list(length.steps)}})
    if solver in own.solvers:
        parts.append(own.solvers[solver])
    if heads != C4:
        parts.append(_read(CONFIGS / f"heads-{heads}.yaml"))
    if scale != "full" and heads == C4:
        parts.append(_read(CONFIGS / f"scale-{scale}-c4.yaml"))
    elif scale != "full":
        parts.append(_read(CONFIGS / f"scale-{scale}.yaml"))
    cfg = get_cfg()
    for values in parts:
        cfg.merge_from_other_cfg(CfgNode(values))
    return cfg


def _check_choices(task: Task, heads: str, scale: str, schedule: str | None, solver: str | None) -> None:
    refuse((C4 in task.heads and heads != C4,
            f"--heads {heads}: task {task.name} has a C4 backbone, whose head is res5 itself; "
            "there is no head family to choose, leave the option out"))
    for option, value, allowed in (("--heads", heads, task.heads), ("--scale", scale, SCALES),
                                   ("--schedule", schedule, task.schedules),
                                   ("--solver", solver, (COMMON, *task.solvers))):
        refuse((value is not None and value not in allowed,
                f"unknown {option} '{value}' for task {task.name}: expected one of "
                f"{', '.join(allowed)}"))
    for option, value in (("--schedule", schedule), ("--solver", solver)):
        refuse((scale != "full" and value not in (None, COMMON),
                f"{option} {value}: scale {scale} has a length and a solver of its own; leave out "
                f"one of {option} and --scale"))


def _read(path: Path) -> dict:
    return CfgNode.load_yaml_with_base(str(path))


def names(protocol: Protocol) -> dict[str, str | None]:
    """What a result records of `protocol`: its choices by their names, those that it leaves open as
    they are taken."""
    task = get(protocol.task)
    schedule, fit = chosen(protocol.schedule, protocol.fit)
    if schedule is None and protocol.scale == "full":  # a small scale has a length of its own
        schedule = task.default_schedule
    return {"task": task.name, "heads": protocol.heads or task.default_heads, "scale": protocol.scale,
            "schedule": schedule, "solver": protocol.solver or COMMON, "fit": fit and fit.kind}


def resolve(dataset: Dataset, request: Request, start: Weights, device: str) -> CfgNode:
    """The frozen config of one run on `device`, from the weights `start`.

    KEY=VALUE of `request` are applied last, but for what follows from the machine (device, places,
    batch norm of one process).
    """
    cfg, fit = _of_files(request)
    set_architecture(cfg, start.architecture)
    pixels = start.pixel_format
    cfg.INPUT.FORMAT = pixels["channel_order"]
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(pixels["mean"]), list(pixels["std"])
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = pixels["stride_in_1x1"]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = dataset.names[:1], dataset.names[1:]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(dataset.classes)
    follow_data = get(dataset.task).configure
    if follow_data is not None:
        follow_data(cfg, dataset)
    cfg.SEED = request.trial  # shared by all methods: head initialisation and data order
    cfg.TEST.EVAL_PERIOD = request.eval_every
    _finish(cfg, request, fit, request.num_gpus)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = device, start.pkl, str(request.output)
    norms.fit_to_machine(cfg, request.num_gpus)
    if request.overrides:
        assert_buildable(cfg, f"--set {' '.join(request.overrides)}")
    cfg.freeze()
    return cfg


def protocol(asked: Protocol, num_gpus: int = 1) -> dict[str, object]:
    """What `asked` resolves to, as nested plain values: its `names` and its config without data,
    weights and machine.

    Raises what `resolve` would raise for it and for so many processes.
    """
    cfg, fit = _of_files(asked)
    _finish(cfg, asked, fit, num_gpus)
    if asked.overrides:
        assert_buildable(cfg, f"--set {' '.join(asked.overrides)}")
    return {**names(asked), "config": plain(cfg)}


def _of_files(protocol: Protocol) -> tuple[CfgNode, Fit | None]:
    """The config before data and KEY=VALUE, and how the batch fits the machine."""
    schedule, fit = chosen(protocol.schedule, protocol.fit)
    heads = protocol.heads or get(protocol.task).default_heads
    return layers(protocol.task, heads, protocol.scale, schedule, protocol.solver), fit


def _finish(cfg: CfgNode, protocol: Protocol, fit: Fit | None, num_gpus: int) -> None:
    """The linear rule, then KEY=VALUE, then the images at once."""
    fit = fitted(cfg, fit)
    _override(cfg, protocol.overrides)
    settle(cfg, fit, num_gpus)


def _override(cfg: CfgNode, overrides: tuple[str, ...]) -> None:
    # Keys of ours, which the mapper and the trainer read; always there, they would change all
    # configs.
    if any(override.startswith("INPUT.SIXTEEN_BIT=") for override in overrides):
        cfg.INPUT.SIXTEEN_BIT = "shift"
    if any(override.startswith("SOLVER.AMP.PRECISION=") for override in overrides):
        cfg.SOLVER.AMP.PRECISION = "fp32"
    known = flatten(cfg)
    for override in overrides:
        key, equals, value = override.partition("=")
        refuse(
            (not equals or not key, f"--set {override}: expected KEY=VALUE, such as "
                                    "SOLVER.MAX_ITER=500"),
            (key in FOLLOWS, f"--set {override}: {key} follows from task, data, weights and trial; "
                             "leave it out"),
            (key == "MODEL.DEVICE", f"--set {override}: {key} has no effect here; leave it out and "
                                    "use --device"),
            (key in UNREAD, f"--set {override}: {key} has no effect here; leave it out"))
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise UserError(f"--set {override}: detectron2's config has no key {key}; the nearest "
                            f"is {near}")
        if isinstance(known[key], float) and re.fullmatch(r"[+-]?\d+", value):
            value += ".0"  # a rate of 1 is no mistake
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, SyntaxError, AssertionError) as error:
            raise UserError(f"--set {override}: {key} is {known[key]!r} by default ({error}): "
                            "expected a value of that type") from None
    _check_values(flatten(cfg))


def _check_values(values: dict[str, object]) -> None:
    """`values`: of every key, when all overrides are applied."""
    for key, known in NAMES.items():
        names = sorted(dict(known) if isinstance(known, Registry) else known)
        # "": a part that this network does not have
        refuse((values.get(key) and values[key] not in names,
                f"{key} {values.get(key)!r} is unknown: expected one of "
                f"{', '.join(map(repr, names))}"))
    for key, least in LEAST.items():
        refuse((values[key] < least, f"{key} must be at least {least}, found {values[key]}"))
    steps, last = tuple(values["SOLVER.STEPS"]), values["SOLVER.MAX_ITER"]
    refuse((last in steps, f"SOLVER.STEPS {steps} must lie before SOLVER.MAX_ITER {last}: set "
                           f"both, such as --set SOLVER.STEPS={last * 2 // 3},"))


def plain(cfg: CfgNode) -> dict:
    """`cfg` as nested dicts and lists of plain values."""
    return json.loads(json.dumps(cfg))


def sha256(cfg: dict) -> str:
    """Hash of a nested config of plain values, places left out."""
    flat = {key: value for key, value in flatten(cfg).items() if key not in PLACES}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()
