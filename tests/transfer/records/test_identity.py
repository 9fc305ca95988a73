"""Two identities: what was trained and what it was evaluated on, the same of a request and of its result."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from transfer.finetuning import finetune
from transfer.records import identity

ABOUT = {
    "task": "coco", "heads": "2fc", "scale": "full", "schedule": "1x", "solver": "common", "fit": None, "trial": 0,
    "batch_norm_images": 16, "evaluator": "pycocotools",
    "weights": {"method": "CLoVE", "init": "converted checkpoint", "pkl_sha256": "ab", "conversion": {"a": 1}},
    "dataset": {"train": {"images": 3, "annotations_sha256": "t"}, "val": {"images": 2, "annotations_sha256": "v"},
                "classes": ["disc", "star"]},
    "config": {"SEED": 0, "OUTPUT_DIR": "here", "SOLVER": {"BASE_LR": 0.02, "CHECKPOINT_PERIOD": 5000},
               "TEST": {"DETECTIONS_PER_IMAGE": 100, "EVAL_PERIOD": 0, "PRECISE_BN": {"NUM_ITER": 200}}}}


def changed(name: str, value: object) -> dict:
    about = deepcopy(ABOUT)
    *above, last = name.split(".")
    place = about
    for key in above:
        place = place[key]
    place[last] = value
    return about


@pytest.mark.parametrize(("name", "value", "in_training", "in_evaluation"), [
    ("trial", 1, "trial", None), ("batch_norm_images", 8, "batch_norm_images", None),
    ("weights.pkl_sha256", "cd", "weights.pkl_sha256", None), ("weights.conversion", {"a": 2}, None, None),
    ("weights.pretraining", {"seed": 3}, None, None),
    ("dataset.train.annotations_sha256", "x", "dataset.train.annotations_sha256", None),
    ("dataset.classes", ["disc"], "dataset.classes", None), ("dataset.share", 0.25, "dataset.share", None),
    ("dataset.name", "mine", None, None),
    ("dataset.val.annotations_sha256", "x", None, "dataset.val.annotations_sha256"),
    ("evaluator", "hotcoco", None, "evaluator"),
    ("config.SOLVER.BASE_LR", 0.1, "SOLVER.BASE_LR", None), ("config.SOLVER.CHECKPOINT_PERIOD", 9, None, None),
    ("config.TEST.PRECISE_BN.NUM_ITER", 2, "TEST.PRECISE_BN.NUM_ITER", None),
    ("config.TEST.DETECTIONS_PER_IMAGE", 5, None, "TEST.DETECTIONS_PER_IMAGE"),
    ("config.TEST.EVAL_PERIOD", 5, None, None), ("config.OUTPUT_DIR", "there", None, None),
])
def test_identities__each_value_belongs_to_one_of_them_or_to_none(
    name: str, value: object, in_training: str | None, in_evaluation: str | None
) -> None:
    other = changed(name, value)
    found = [list(identity.differences(of(ABOUT), of(other))) for of in (identity.training, identity.evaluation)]
    assert found == [[in_training] if in_training else [], [in_evaluation] if in_evaluation else []]
    before, now = identity.records(ABOUT), identity.records(other)
    assert (before["training"]["sha256"] != now["training"]["sha256"]) == bool(in_training)
    assert (before["evaluation"]["sha256"] != now["evaluation"]["sha256"]) == bool(in_evaluation)


def test_records__say_what_a_person_looks_for() -> None:
    found = identity.records(ABOUT)
    assert found["training"] == {"sha256": identity.sha256(identity.training(ABOUT)), "weights": "ab", "trial": 0,
                                 "dataset": {"images": 3, "annotations_sha256": "t"}}
    assert found["evaluation"] == {"sha256": identity.sha256(identity.evaluation(ABOUT)), "evaluator": "pycocotools",
                                   "dataset": {"images": 2, "annotations_sha256": "v"}}


def test_split_dataset__what_belongs_to_the_training_and_what_to_the_evaluation() -> None:
    dataset = ABOUT["dataset"] | {"name": "mine"}
    assert identity.split_dataset(dataset) == ({"train": dataset["train"], "classes": dataset["classes"]},
                                               {"val": dataset["val"]})


def test_in_words__the_first_differences_and_how_many_more() -> None:
    found = identity.differences({"a": 1, "gone": 2}, {"a": 3, "b": 4})
    assert identity.in_words(found) == "a was 1, is 3; b was None, is 4; gone was 2, is None"
    assert identity.in_words(found, most=1) == "a was 1, is 3 and 2 more"


@pytest.mark.slow
def test_evaluation_keys__change_no_weight(thin_request: Callable, tmp_path: Path) -> None:
    """By training: with another value of every key that only an evaluation reads, or that has no effect."""
    values = {"INPUT.MIN_SIZE_TEST": 48, "INPUT.MAX_SIZE_TEST": 100, "MODEL.RPN.PRE_NMS_TOPK_TEST": 50,
              "MODEL.RPN.POST_NMS_TOPK_TEST": 20, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
              "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.9, "TEST.DETECTIONS_PER_IMAGE": 7,
              "TEST.KEYPOINT_OKS_SIGMAS": (0.5,) * 17, "DATALOADER.NUM_WORKERS": 1, "SOLVER.CHECKPOINT_PERIOD": 3}
    untouched = {"DATASETS.TEST", *identity.PLACES, "TEST.EVAL_PERIOD"}  # not to be set; EVAL_PERIOD: see test_early
    assert values.keys() == (identity.EVALUATION_KEYS | identity.WITHOUT_EFFECT) - untouched
    words = [f"{key}={value}" for key, value in values.items()]
    plain = finetune.finetune(thin_request(tmp_path / "plain", "keypoints"))
    other = finetune.finetune(thin_request(tmp_path / "other", "keypoints", *words))
    ends = [torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"] for name in ("plain", "other")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert plain["training"]["sha256"] == other["training"]["sha256"]
    assert plain["evaluation"]["sha256"] != other["evaluation"]["sha256"]
    assert plain["metrics"] == json.loads((tmp_path / "plain/result.json").read_text())["metrics"]


@pytest.mark.slow
def test_precise_statistics__belong_to_the_training(thin_request: Callable, tmp_path: Path) -> None:
    found = [finetune.finetune(thin_request(tmp_path / name, "coco", f"TEST.PRECISE_BN.NUM_ITER={name}"))
             for name in ("2", "3")]
    ends = [torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"] for name in ("2", "3")]
    assert not all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert found[0]["training"]["sha256"] != found[1]["training"]["sha256"]
