"""The two identities of a fine-tuning: what was trained, and what it was evaluated on. Standard library only.

The same training can be evaluated again: on annotations that had to be fixed, by another evaluator,
with other thresholds. Both are made of what a result records, so that they can be asked of a
request, of a result and of one of an older version alike.
"""

import hashlib
import json
from collections.abc import Container, Mapping
from typing import Any

# Where a run lies and where its weights lay.
PLACES = ("OUTPUT_DIR", "MODEL.WEIGHTS")
# Keys of detectron2's config without effect on weights and metrics: a run may be resumed with other
# values. The weights themselves are known by their hash; every random choice depends on its place
# in the run, with any number of workers.
WITHOUT_EFFECT = {*PLACES, "TEST.EVAL_PERIOD", "DATALOADER.NUM_WORKERS", "SOLVER.CHECKPOINT_PERIOD"}
# Those that only an evaluation reads. All others belong to the training, TEST.PRECISE_BN too: its
# statistics are saved with the model.
EVALUATION_KEYS = {
    "DATASETS.TEST", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "MODEL.RPN.PRE_NMS_TOPK_TEST",
    "MODEL.RPN.POST_NMS_TOPK_TEST", "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST", "TEST.DETECTIONS_PER_IMAGE", "TEST.KEYPOINT_OKS_SIGMAS"}
# The number of processes counts where batch norm takes its statistics from each one's images.
REQUEST = ("task", "heads", "scale", "schedule", "solver", "fit", "trial", "batch_norm_images")
NORM_KEYS = ("MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM")
OF_THE_WEIGHTS_PAST = ("conversion", "pretraining")  # how they came to be; what they are is their hash
Identity = dict[str, Any]  # {dotted name: plain value}


def split_dataset(described: Mapping[str, Any]) -> tuple[dict, dict]:
    """What of a dataset (as `datasets.describe` gives it) belongs to training, and to evaluation.

    Its name and label are what a table calls it: they belong to neither.
    """
    return _without(described, ("val", "name", "label")), {"val": described["val"]}


def training(about: Mapping[str, Any]) -> Identity:
    """What was trained: request, starting weights, training data and classes, the config's other
    keys.

    `about`: a result, or those of its entries that are known before: REQUEST, weights, dataset,
    evaluator, config.
    """
    return {**{name: about.get(name) for name in REQUEST},
            **flatten(_without(about["weights"], OF_THE_WEIGHTS_PAST), "weights."),
            **flatten(split_dataset(about["dataset"])[0], "dataset."),
            **_without(flatten(about["config"]), EVALUATION_KEYS | WITHOUT_EFFECT)}


def evaluation(about: Mapping[str, Any]) -> Identity:
    """What a model was evaluated on: validation annotations, evaluator, and the config's keys for
    it.

    See `training` for `about`.
    """
    config = flatten(about["config"])
    return {"evaluator": about.get("evaluator"),
            **flatten(split_dataset(about["dataset"])[1], "dataset."),
            **{key: config.get(key) for key in sorted(EVALUATION_KEYS)}}


def records(about: Mapping[str, Any]) -> dict[str, dict]:
    """The entries `training` and `evaluation` of a result: each identity's hash, and what a person
    looks for."""
    weights, dataset = about["weights"], about["dataset"]
    return {
        "training": {"sha256": sha256(training(about)),
                     "weights": weights.get("pkl_sha256") or weights["init"],
                     "dataset": split_dataset(dataset)[0]["train"], "trial": about["trial"]},
        "evaluation": {"sha256": sha256(evaluation(about)), "dataset": dataset["val"],
                       "evaluator": about["evaluator"]}}


def differences(before: Identity, now: Identity) -> dict[str, tuple[Any, Any]]:
    """{name: (before, now)} where two identities differ; a value that one does not know is None."""
    found = {}
    for name in [*now, *before]:
        old, new = before.get(name), now.get(name)
        if old != new:
            found[name] = (old, new)
    return found


def on_other_processes(found: Mapping[str, tuple[Any, Any]], before: Identity, now: Identity) -> dict:
    """Of `found`, the differences of two identities, those that are more than another number of
    processes.

    The images of batch norm decide: from as many, BN of one process and SyncBN of several take the
    same statistics, and a batch that --fit accumulate takes at once is not accumulated.
    """
    same_images = before.get("batch_norm_images") == now.get("batch_norm_images")
    whole = before.get("SOLVER.IMAGES_AT_ONCE") is None and now.get("SOLVER.IMAGES_AT_ONCE") is None
    left = {}
    for name, values in found.items():
        norm = name in NORM_KEYS and NORM_KEYS[0] in found and set(values) == {"SyncBN", "BN"}
        fit = name == "fit" and set(values) == {None, "accumulate"}
        if not ((norm and same_images) or (fit and whole)):
            left[name] = values
    return left


def in_words(found: Mapping[str, tuple[Any, Any]], most: int = 5) -> str:
    named = [f"{name} was {old}, is {new}" for name, (old, new) in found.items()]
    more = f" and {len(named) - most} more" if len(named) > most else ""
    return "; ".join(named[:most]) + more


def _without(values: Mapping[str, Any], names: Container[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}


def sha256(identity: Identity) -> str:
    """SHA-256 of an identity as sorted JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"SOLVER.BASE_LR": 0.02, ...} of nested mappings, such as a config."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
