"""The config files against the protocols they state, and the layers that are laid over them."""

import dataclasses
import itertools
import re
from pathlib import Path

import detectron2
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from pycocotools.cocoeval import Params
from torch import nn

from pretrain.common.errors import UserError
from tests.transfer.resolved import resolve
from transfer.annotations import keypoint_names
from transfer.data.dataset import Dataset, Split
from transfer.settings import request, resolved_config
from transfer.tasks import TASKS, get
from transfer.trained.diff import config_differences

SPLIT = Split(2, Path("annotations.json"), Path("images"), "0" * 64)
DATASETS = {
    "coco": Dataset("coco", SPLIT, SPLIT, ("disc", "star", "plank"), ("boxes", "masks")),
    "coco-c4": Dataset("coco-c4", SPLIT, SPLIT, ("disc", "star", "plank"), ("boxes", "masks")),
    "keypoints": Dataset("keypoints", SPLIT, SPLIT, ("person",), ("boxes", "keypoints"),
                         keypoint_names.COCO_PERSON),
    "cityscapes": Dataset("cityscapes", SPLIT, SPLIT, tuple("abcdefgh"), ("boxes", "masks")),
    "voc": Dataset("voc", SPLIT, SPLIT, tuple("abcdefghijklmnopqrst"), ("boxes",)),
    "lvis": Dataset("lvis", SPLIT, SPLIT, tuple(f"class_{n}" for n in range(1203)), ("boxes", "masks")),
}
ONE = {"MAX_ITER": 90_000, "STEPS": (60_000, 80_000), "IMS_PER_BATCH": 16, "BASE_LR": 0.02, "WARMUP_ITERS": 1000}
TWO = {**ONE, "MAX_ITER": 180_000, "STEPS": (120_000, 160_000)}
STREETS = {**ONE, "MAX_ITER": 24_000, "STEPS": (18_000,), "IMS_PER_BATCH": 8, "BASE_LR": 0.01}
VOC = {**ONE, "MAX_ITER": 24_000, "STEPS": (18_000, 22_000), "WARMUP_ITERS": 100}
SOLVERS = {  # the published protocols, the default of each task first
    "coco": {"1x": ONE, "2x": TWO}, "coco-c4": {"1x": ONE, "2x": TWO}, "keypoints": {"2x": TWO, "1x": ONE},
    "cityscapes": {"24k": STREETS}, "voc": {"24k": VOC}, "lvis": {"1x": ONE, "2x": TWO},
}
SCHEDULES = [(task, schedule) for task, known in SOLVERS.items() for schedule in known]
COCO_SIZES = ((640, 672, 704, 736, 768, 800), 1333, 800, 1333)
SIZES = {
    "coco": COCO_SIZES, "coco-c4": COCO_SIZES, "keypoints": COCO_SIZES, "lvis": COCO_SIZES,
    "cityscapes": ((800, 832, 864, 896, 928, 960, 992, 1024), 2048, 1024, 2048),
    "voc": ((480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800), 1333, 800, 1333),
}
C4 = ("coco-c4", "voc")
F1 = {"NUM_CONV": 0, "NUM_FC": 2, "NORM": ""}
F2 = {"NUM_CONV": 4, "NUM_FC": 1, "NORM": "SyncBN"}


def solver_of(cfg: CfgNode) -> dict:
    return {key: cfg.SOLVER[key] if not isinstance(cfg.SOLVER[key], list) else tuple(cfg.SOLVER[key]) for key in ONE}


@pytest.mark.parametrize(("task", "schedule"), SCHEDULES)
def test_schedule__has_the_protocols_length_and_changes_nothing_else(task: str, schedule: str) -> None:
    heads = get(task).default_heads
    cfg, default = resolved_config.layers(task, heads, "full", schedule), resolved_config.layers(task, heads, "full")
    assert solver_of(cfg) == SOLVERS[task][schedule]
    changed = config_differences(resolved_config.plain(cfg), resolved_config.plain(default))
    first = schedule == next(iter(SOLVERS[task]))
    assert set(changed) == (set() if first else {"SOLVER.MAX_ITER", "SOLVER.STEPS"})


def test_schedules__of_every_task_are_tested() -> None:
    assert {task: (get(task).default_schedule, set(get(task).schedules)) for task in TASKS} == {
        task: (next(iter(known)), set(known)) for task, known in SOLVERS.items()}


@pytest.mark.parametrize("task", TASKS)
def test_full__has_the_protocols_values(task: str) -> None:
    cfg = resolved_config.layers(task, get(task).default_heads, "full")
    assert (tuple(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST,
            cfg.INPUT.MAX_SIZE_TEST) == SIZES[task]
    assert cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "choice" and cfg.INPUT.FORMAT == "RGB"
    assert list(cfg.MODEL.PIXEL_MEAN) == [123.675, 116.280, 103.530]
    assert list(cfg.MODEL.PIXEL_STD) == [58.395, 57.120, 57.375]
    assert cfg.MODEL.RESNETS.NORM == "SyncBN" and (cfg.MODEL.FPN.NORM == "SyncBN") == (task not in C4)
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0 and not cfg.MODEL.RESNETS.STRIDE_IN_1X1
    assert cfg.TEST.PRECISE_BN.ENABLED and cfg.TEST.PRECISE_BN.NUM_ITER == 200
    assert (cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM) == (0.9, 1e-4, 0.0)
    assert (cfg.SOLVER.WARMUP_FACTOR, cfg.SOLVER.GAMMA) == (1e-3, 0.1)
    assert not cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.REFERENCE_WORLD_SIZE == 0
    assert (task not in ("keypoints", "voc"), task == "keypoints") == (cfg.MODEL.MASK_ON, cfg.MODEL.KEYPOINT_ON)
    assert cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE == 512
    long_tail = (cfg.TEST.DETECTIONS_PER_IMAGE, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.DATALOADER.SAMPLER_TRAIN,
                 cfg.DATALOADER.REPEAT_THRESHOLD)
    lvis, others = (300, 1e-4, "RepeatFactorTrainingSampler", 0.001), (100, 0.05, "TrainingSampler", 0.0)
    assert long_tail == (lvis if task == "lvis" else others)


STOCK = {
    "coco": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "coco-c4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "keypoints": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "cityscapes": "Cityscapes/mask_rcnn_R_50_FPN.yaml",
    "voc": "PascalVOC-Detection/faster_rcnn_R_50_C4.yaml",
    "lvis": "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
}


@pytest.mark.parametrize("task", TASKS)
def test_full__what_differs_from_detectron2s_own_file_is_what_the_literature_changed(task: str) -> None:
    stock = get_cfg()
    stock.merge_from_file(str(Path(detectron2.__file__).parent / "model_zoo/configs" / STOCK[task]))
    own = resolved_config.layers(task, "c4" if task in C4 else "2fc", "full")
    found = config_differences(resolved_config.plain(stock), resolved_config.plain(own))
    place = ("DATASETS.TRAIN", "DATASETS.TEST", "MODEL.ROI_HEADS.NUM_CLASSES")  # follow from the data
    local = ("SOLVER.CHECKPOINT_PERIOD",)
    norm = ("MODEL.BACKBONE.FREEZE_AT", "MODEL.RESNETS.NORM", "TEST.PRECISE_BN.ENABLED")
    norm += ("MODEL.ROI_HEADS.NAME",) if task in C4 else ("MODEL.FPN.NORM",)
    pixels = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1")
    length = {"voc": ("SOLVER.MAX_ITER", "SOLVER.STEPS"), "lvis": ("SOLVER.MAX_ITER", "SOLVER.STEPS"),
              "keypoints": ("SOLVER.MAX_ITER", "SOLVER.STEPS"), "cityscapes": ("TEST.EVAL_PERIOD",)}.get(task, ())
    assert set(found) - {*place, *local} == {*norm, *pixels, *length}


@pytest.mark.parametrize(("task", "heads"), [("coco", "4conv1fc"), ("keypoints", "2fc"), ("cityscapes", "2fc"),
                                             ("lvis", "4conv1fc"), ("coco-c4", "c4"), ("voc", "c4")])
def test_default_heads__are_those_of_the_literature(task: str, heads: str) -> None:
    assert get(task).default_heads == heads


@pytest.mark.parametrize(("heads", "box"), [("4conv1fc", F2), ("2fc", F1)])
def test_heads__differ_in_the_heads_only(heads: str, box: dict) -> None:
    cfg = resolved_config.layers("coco", heads, "full")
    assert {key: cfg.MODEL.ROI_BOX_HEAD[key] for key in box} == box
    assert box["NORM"] == cfg.MODEL.ROI_MASK_HEAD.NORM
    other = resolved_config.layers("coco", "2fc" if heads == "4conv1fc" else "4conv1fc", "full")
    changed = config_differences(resolved_config.plain(cfg), resolved_config.plain(other))
    assert set(changed) == {"MODEL.ROI_BOX_HEAD.NUM_CONV", "MODEL.ROI_BOX_HEAD.NUM_FC", "MODEL.ROI_BOX_HEAD.NORM",
                            "MODEL.ROI_MASK_HEAD.NORM"}


def test_solver__vicreg_is_its_papers() -> None:
    for task, expected in (("coco", {"SOLVER.BASE_LR": 0.04, "SOLVER.WARMUP_ITERS": 50}),
                           ("voc", {"SOLVER.BASE_LR": 0.1, "SOLVER.WARMUP_ITERS": 1000, "SOLVER.WARMUP_FACTOR": 0.333,
                                    "MODEL.RPN.LOSS_WEIGHT": 0.2})):
        heads = get(task).default_heads
        common, vicreg = (resolved_config.plain(resolved_config.layers(task, heads, "full", solver=solver))
                          for solver in ("common", "vicreg"))
        changed = config_differences(common, vicreg)
        assert {key: new for key, (_, new) in changed.items()} == expected
    assert [task for task in TASKS if get(task).solvers] == ["coco", "voc"]
    assert request.SOLVERS == ("common", "vicreg")


@pytest.mark.parametrize(("task", "words", "text"), [
    ("voc", {"heads": "2fc"}, "--heads 2fc: task voc has a C4 backbone, whose head is res5 itself; there is no head "
                              "family to choose, leave the option out"),
    ("coco", {"heads": "c4"}, "unknown --heads 'c4' for task coco: expected one of 4conv1fc, 2fc"),
    ("cityscapes", {"schedule": "1x"}, "unknown --schedule '1x' for task cityscapes: expected one of 24k"),
    ("lvis", {"solver": "vicreg"}, "unknown --solver 'vicreg' for task lvis: expected one of common"),
    ("coco", {"schedule": "2x", "scale": "demo"}, "--schedule 2x: scale demo has a length and a solver of its own"),
    ("coco", {"solver": "vicreg", "scale": "mini"}, "--solver vicreg: scale mini has a length and a solver of its own"),
    ("densepose", {}, f"unknown task 'densepose': expected one of {', '.join(TASKS)}"),
])
def test_layers__refuses_what_a_task_has_not(task: str, words: dict, text: str) -> None:
    values = {"heads": "c4" if task in C4 else "2fc", "scale": "full", **words}
    with pytest.raises(UserError) as caught:
        resolved_config.layers(task, **values)
    assert text in str(caught.value)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("scale", ["mini", "demo"])
def test_scale__changes_sizes_widths_and_lengths_never_the_kind_of_model(task: str, scale: str) -> None:
    heads = get(task).default_heads
    changed = config_differences(resolved_config.plain(resolved_config.layers(task, heads, "full")),
                                   resolved_config.plain(resolved_config.layers(task, heads, scale)))
    allowed = ("INPUT.MIN_SIZE", "INPUT.MAX_SIZE", "MODEL.RPN.PRE_NMS", "MODEL.RPN.POST_NMS",
               "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "DATALOADER.NUM_WORKERS", "SOLVER.IMS_PER_BATCH",
               "SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS", "SOLVER.CHECKPOINT_PERIOD",
               "TEST.DETECTIONS_PER_IMAGE", "TEST.PRECISE_BN.NUM_ITER", "MODEL.FPN.OUT_CHANNELS",
               "MODEL.ROI_MASK_HEAD.CONV_DIM")
    if scale == "mini":
        allowed += ("MODEL.ANCHOR_GENERATOR.SIZES",)
    else:
        allowed += ("MODEL.ROI_BOX_HEAD.CONV_DIM", "MODEL.ROI_BOX_HEAD.FC_DIM", "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS")
    assert changed and all(key.startswith(allowed) for key in changed)


@pytest.mark.parametrize("task", TASKS)
def test_scale__minis_anchors_are_as_small_as_its_images(task: str) -> None:
    full, mini = (resolved_config.layers(task, get(task).default_heads, scale) for scale in ("full", "mini"))
    assert [[4 * size for size in level] for level in mini.MODEL.ANCHOR_GENERATOR.SIZES] == \
        full.MODEL.ANCHOR_GENERATOR.SIZES


def test_scale__demo_is_as_small_as_promised() -> None:
    cfg = resolved_config.layers("keypoints", "2fc", "demo")
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.INPUT.MAX_SIZE_TRAIN) == (2, 40, 160)
    assert cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE == 64 and cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN == 200
    assert cfg.TEST.PRECISE_BN.NUM_ITER == 10 and cfg.TEST.DETECTIONS_PER_IMAGE == 20


def test_resolve__takes_classes_keypoints_and_mask_format_from_the_data() -> None:
    cfg = resolve(DATASETS["coco"], "2fc", "full", trial=3)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3 and cfg.INPUT.MASK_FORMAT == "polygon" and cfg.SEED == 3
    lengths = Dataset("coco", SPLIT, SPLIT, ("disc",), ("boxes", "masks"), has_rle=True)
    assert resolve(lengths, "2fc", "full").INPUT.MASK_FORMAT == "bitmask"
    hand = Dataset("keypoints", SPLIT, SPLIT, ("hand",), ("boxes", "keypoints"), tuple("abcde"))
    cfg = resolve(hand, "2fc", "full")
    assert cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS == 5 and cfg.TEST.KEYPOINT_OKS_SIGMAS == [0.05] * 5
    persons = resolve(DATASETS["keypoints"], "2fc", "full")
    assert Params("keypoints").kpt_oks_sigmas.tolist() == persons.TEST.KEYPOINT_OKS_SIGMAS
    animal = dataclasses.replace(hand, keypoint_names=tuple(f"point_{n}" for n in range(17)))
    assert resolve(animal, "2fc", "full").TEST.KEYPOINT_OKS_SIGMAS == [0.05] * 17  # COCO's belong to its names


@pytest.mark.parametrize(("names", "flips"), [
    (("Left Eye", "rightEye"), "horizontal"), (("left_eye", "nose"), "none"), (("nose", "tail"), "horizontal")])
def test_resolve__no_flips_where_a_side_has_no_partner(names: tuple[str, ...], flips: str) -> None:
    dataset = Dataset("keypoints", SPLIT, SPLIT, ("cat",), ("boxes", "keypoints"), names)
    found = resolve(dataset, "2fc", "full").INPUT.RANDOM_FLIP
    assert found == flips


@pytest.mark.parametrize(("processes", "device", "norm"),
                         [(1, "cuda", "BN"), (1, "cpu", "BN"), (2, "cpu", "SyncBN"), (8, "cuda", "SyncBN")])
def test_resolve__batch_norm_follows_the_processes(processes: int, device: str, norm: str) -> None:
    cfg = resolve(DATASETS["coco"], "4conv1fc", "full", device=device, num_gpus=processes)
    assert {cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM, cfg.MODEL.ROI_BOX_HEAD.NORM,
            cfg.MODEL.ROI_MASK_HEAD.NORM} == {norm}
    without = resolve(DATASETS["coco"], "2fc", "full", device=device, num_gpus=processes)
    assert without.MODEL.ROI_BOX_HEAD.NORM == without.MODEL.ROI_MASK_HEAD.NORM == ""


def test_resolve__set_is_the_last_word() -> None:
    cfg = resolve(DATASETS["coco"], "2fc", "demo", ("SOLVER.MAX_ITER=7", "SOLVER.STEPS=3,5"))
    assert cfg.SOLVER.MAX_ITER == 7 and tuple(cfg.SOLVER.STEPS) == (3, 5)
    assert resolve(DATASETS["coco"], "2fc", "demo", ("SOLVER.BASE_LR=1",)).SOLVER.BASE_LR == 1.0


@pytest.mark.parametrize(("word", "text"), [
    ("SOLVER.MAX_ITERS=7", "detectron2's config has no key SOLVER.MAX_ITERS; the nearest is SOLVER.MAX_ITER"),
    ("SOLVER.MAX_ITER=many", "SOLVER.MAX_ITER is 90000 by default"),
    ("SOLVER.MAX_ITER", "expected KEY=VALUE"),
    ('DATASETS.TEST=("x",)', "DATASETS.TEST follows from task, data, weights and trial; leave it out"),
    ("MODEL.MASK_ON=False", "MODEL.MASK_ON follows from"),
    ("MODEL.ROI_HEADS.NUM_CLASSES=3", "MODEL.ROI_HEADS.NUM_CLASSES follows from"),
    ("INPUT.FORMAT=BGR", "INPUT.FORMAT follows from"), ("SEED=3", "SEED follows from"),
    ("MODEL.DEVICE=cuda", "MODEL.DEVICE has no effect here; leave it out and use --device"),
    ("TEST.AUG.ENABLED=True", "TEST.AUG.ENABLED has no effect here; leave it out"),
    ("MODEL.META_ARCHITECTURE=RetinaNet", "MODEL.META_ARCHITECTURE follows from"),
])
def test_resolve__names_a_wrong_override(word: str, text: str) -> None:
    with pytest.raises(UserError, match=f"--set {re.escape(word)}.*") as caught:
        resolve(DATASETS["coco"], "2fc", "full", (word,))
    assert text in str(caught.value)


@pytest.mark.parametrize(("words", "text"), [
    (("SOLVER.IMS_PER_BATCH=0",), "SOLVER.IMS_PER_BATCH must be at least 1, found 0"),
    (("SOLVER.IMS_PER_BATCH=-2",), "SOLVER.IMS_PER_BATCH must be at least 1, found -2"),
    (("TEST.EVAL_PERIOD=-1",), "TEST.EVAL_PERIOD must be at least 0, found -1"),
    (("SOLVER.BASE_LR=-1",), "SOLVER.BASE_LR must be at least 0, found -1"),
    (("SOLVER.MAX_ITER=-1",), "SOLVER.MAX_ITER must be at least 0, found -1"),
    (("SOLVER.CHECKPOINT_PERIOD=0",), "SOLVER.CHECKPOINT_PERIOD must be at least 1, found 0"),
    (("DATALOADER.NUM_WORKERS=-1",), "DATALOADER.NUM_WORKERS must be at least 0, found -1"),
    (("MODEL.ROI_HEADS.NAME=Res6",), "MODEL.ROI_HEADS.NAME 'Res6' is unknown: expected one of '"),
    (("MODEL.FPN.NORM=BatchNorm",), "MODEL.FPN.NORM 'BatchNorm' is unknown: expected one of 'BN', "),
    (("DATALOADER.SAMPLER_TRAIN=foo",), "DATALOADER.SAMPLER_TRAIN 'foo' is unknown: expected one of 'RepeatFactor"),
    (("MODEL.RPN.IN_FEATURES=['p9']",), "--set MODEL.RPN.IN_FEATURES=['p9']: the network cannot be built"),
    (("MODEL.ROI_BOX_HEAD.POOLER_TYPE=x",), "--set MODEL.ROI_BOX_HEAD.POOLER_TYPE=x: the network cannot"),
    (("MODEL.ANCHOR_GENERATOR.SIZES=[[32],[64]]",), "--set MODEL.ANCHOR_GENERATOR.SIZES=[[32],[64]]: the network"),
    (("SOLVER.WARMUP_METHOD=x",), "--set SOLVER.WARMUP_METHOD=x: optimizer and schedule cannot be built with"),
    (("SOLVER.LR_SCHEDULER_NAME=x",), "--set SOLVER.LR_SCHEDULER_NAME=x: optimizer and schedule cannot be built with"),
    (("INPUT.MIN_SIZE_TRAIN=()",), "--set INPUT.MIN_SIZE_TRAIN=(): the training images cannot be built with this ("),
    (("INPUT.CROP.ENABLED=True", "INPUT.CROP.TYPE=x"), "--set INPUT.CROP.ENABLED=True INPUT.CROP.TYPE=x: the training"),
    (("INPUT.MASK_FORMAT=x",), "INPUT.MASK_FORMAT 'x' is unknown: expected one of 'bitmask', 'polygon'"),
    (("TEST.PRECISE_BN.NUM_ITER=-1",), "TEST.PRECISE_BN.NUM_ITER must be at least 1, found -1"),
    (("MODEL.RPN.BBOX_REG_LOSS_TYPE=x",), "MODEL.RPN.BBOX_REG_LOSS_TYPE 'x' is unknown: expected one of 'ciou'"),
    (("INPUT.RANDOM_FLIP=x",), "--set INPUT.RANDOM_FLIP=x: the training images cannot be built with this (ValueError"),
    (("SOLVER.MAX_ITER=60000",), "SOLVER.STEPS (60000, 80000) must lie before SOLVER.MAX_ITER 60000: set both")])
def test_resolve__refuses_values_that_fail_late_or_never_end(words: tuple[str, ...], text: str) -> None:
    for check in (lambda: resolve(DATASETS["coco"], "2fc", "full", words),
                  lambda: resolved_config.protocol(request.Protocol(task="coco", heads="2fc", overrides=words))):
        with pytest.raises(UserError) as caught:
            check()
        assert str(caught.value).startswith(text)


def test_resolve__refuses_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(UserError, match="IMS_PER_BATCH 16 cannot be shared by 3 processes: expected a multiple"):
        resolve(DATASETS["coco"], "2fc", "full", num_gpus=3)


@pytest.mark.parametrize(("heads", "scale", "text"), [("3conv", "full", "unknown --heads '3conv'"),
                                                      ("2fc", "small", "unknown --scale 'small'")])
def test_layers__names_what_is_known(heads: str, scale: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        resolved_config.layers("coco", heads, scale)


def test_sha256__ignores_places_and_nothing_else() -> None:
    def hashed(*words: str, **places: str) -> str:
        return resolved_config.sha256(resolved_config.plain(resolve(DATASETS["coco"], "2fc", "full", words, **places)))

    assert hashed() == hashed(weights="a.pkl", output="b")
    assert hashed() != hashed("SOLVER.BASE_LR=0.04")


def heads_of(task: str) -> tuple[str, ...]:
    return (resolved_config.C4,) if task in C4 else request.HEADS


@pytest.mark.parametrize(("task", "heads"), [(task, heads) for task in TASKS for heads in heads_of(task)])
def test_resolve__builds_the_stated_heads(task: str, heads: str) -> None:
    cfg = resolve(DATASETS[task], heads, "full", architecture="resnet18")
    model = build_model(cfg)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.roi_heads.num_classes == len(DATASETS[task].classes)
    if task in C4:
        assert [type(model.roi_heads).__name__, list(model.backbone.output_shape())] == ["NormedRes5ROIHeads", ["res4"]]
        return
    box = model.roi_heads.box_head
    kinds = [sum(isinstance(part, kind) for part in box.modules()) for kind in (nn.Conv2d, nn.Linear, nn.BatchNorm2d)]
    assert kinds == ([4, 1, 4] if heads == "4conv1fc" else [0, 2, 0])
    if task == "keypoints":
        head = model.roi_heads.keypoint_head
        assert [part.out_channels for part in head.modules() if type(part).__name__ == "Conv2d"] == [512] * 8
        assert not any(isinstance(part, nn.BatchNorm2d) for part in head.modules())


def test_configs__every_file_is_a_layer_of_some_run(monkeypatch: pytest.MonkeyPatch) -> None:
    read = set()
    monkeypatch.setattr(CfgNode, "_open_cfg", classmethod(
        lambda cls, name, own=CfgNode._open_cfg: (read.add(Path(name).name), own(name))[1]))
    for task in TASKS:
        for heads, scale in itertools.product(heads_of(task), resolved_config.SCALES):
            assert resolved_config.layers(task, heads, scale)
        for schedule, solver in itertools.product(get(task).schedules, ("common", *get(task).solvers)):
            assert resolved_config.layers(task, get(task).default_heads, "full", schedule, solver)
    assert read == {path.name for path in resolved_config.CONFIGS.glob("*.yaml")}


RGB = {"channel_order": "RGB", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375],
       "stride_in_1x1": False}
METHODS = {  # what a certificate may ask for
    "Rand init": None, "CLoVE": RGB, "DenseCL": RGB, "VICRegL": {**RGB, "std": [58.14, 57.12, 57.375]},
    "MSRA": {"channel_order": "BGR", "mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0], "stride_in_1x1": True},
}


@pytest.mark.parametrize("task", TASKS)
def test_resolve__two_methods_differ_in_their_weights_and_pixels_only(task: str) -> None:
    flat = {}
    for method, pixels in METHODS.items():
        cfg = resolve(DATASETS[task], get(task).default_heads, "full", weights=f"{method}.pkl",
                               output=method, pixel_format=pixels)
        flat[method] = resolved_config.flatten(resolved_config.plain(cfg))
    assert flat["MSRA"]["MODEL.RESNETS.STRIDE_IN_1X1"] and flat["MSRA"]["INPUT.FORMAT"] == "BGR"
    for a, b in itertools.combinations(METHODS, 2):
        assert flat[a].keys() == flat[b].keys()
        changed = {key for key in flat[a] if flat[a][key] != flat[b][key]} - {"OUTPUT_DIR"}
        allowed = {"MODEL.WEIGHTS", "INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"}
        if "MSRA" in (a, b):
            assert changed == {*allowed, "MODEL.RESNETS.STRIDE_IN_1X1"}
        else:
            assert changed == {"MODEL.WEIGHTS"} | ({"MODEL.PIXEL_STD"} if "VICRegL" in (a, b) else set())


def test_config__a_task_may_give_its_values_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"_BASE_": "base.yaml", "MODEL": {"MASK_ON": False}, "SOLVER": {"IMS_PER_BATCH": 4}}
    monkeypatch.setitem(TASKS, "own", dataclasses.replace(get("coco"), name="own", config=values))
    changed = config_differences(resolved_config.plain(resolved_config.layers("coco", "2fc", "full")),
                                   resolved_config.plain(resolved_config.layers("own", "2fc", "full")))
    assert changed == {"MODEL.MASK_ON": (True, False), "SOLVER.IMS_PER_BATCH": (16, 4)}
