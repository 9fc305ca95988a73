"""Records for a blind review: what they may say is listed here, key by key; everything else is left out and counted.

A listed value also has its shape: a number, a hash, a version, one of a few public names. A text
that a table needs and that is not public becomes a letter (`Method A`), the same one in the whole
bundle, so that rows that differ stay apart. No text of a user is searched or changed: it is left
out or replaced as a whole.
"""

import ast
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.records import results
from benchmarks.records.paper_tables import EVALUATION
from benchmarks.records.record_kinds import KINDS
from benchmarks.records.results import MOMENT, canonical
from benchmarks.tables.probe_table import RANDOM as PROBE_RANDOM
from pretrain.common.fields import is_number, is_sha256
from transfer.tasks import TASKS

_FILE = Path(__file__).with_name("public_names.yaml")
_PUBLIC: dict[str, list[str]] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
PUBLIC_TASKS = tuple(_PUBLIC["tasks"])
PUBLIC_METRICS = {column.metric for task in PUBLIC_TASKS for column in TASKS[task].columns}
CONFIG_KEYS, CONFIG_TEXTS = frozenset(_PUBLIC["config_keys"]), frozenset(_PUBLIC["config_texts"])
GPU_PARTS = re.compile(r"NVIDIA|Tesla|GeForce|Quadro|RTX|GTX|TITAN|Ti|SUPER|Ada|Generation|PCIe|PCIE|SXM\d?|NVL|"
                       r"HBM\de?|\d{1,3}GB|[ABHLPTV]\d{1,3}|\d{4}")
METRIC = re.compile(r"(bbox|segm|keypoints)/AP(50|75|s|m|l|r|c|f)?")


class Anonymiser:
    """Makes the anonymous records of one bundle. `letters`: {what: {its text: the letter}}, for the
    user's own eyes; `left_out`: how many values were left out."""

    def __init__(self) -> None:
        self.letters: dict[str, dict[str, str]] = {}
        self.left_out = 0

    def record(self, kind: str, stored: dict) -> dict | None:
        """What a bundle holds of a record of results/<kind>, with a digest of its own; None when
        what is left is none: its task or all of its metrics are not public."""
        clean = self.mapping(KINDS[kind].current(stored), RECORDS[kind])
        clean["anonymous"] = True
        if "config" in clean:
            clean["config_sha256"] = results.digest(clean["config"])
        clean["digest"] = results.digest(clean)
        try:
            return results.parse_sealed(canonical(clean).encode(), KINDS[kind].check)
        except ValueError:
            return None

    def mapping(self, values: dict, listed: dict[str, Any]) -> dict:
        """The entries of `values` that are listed and have their shape."""
        kept = {}
        for key, value in values.items():
            rule, clean = listed.get(key), None
            if isinstance(rule, dict) and isinstance(value, dict):
                clean = self.mapping(value, rule)
            elif callable(rule) and value is not None:
                clean = rule(self, value)
            if clean is not None or (rule is not None and value is None):
                kept[key] = clean
            else:
                self.left_out += 1
        return kept

    def letter(self, what: str, value: Any) -> str:
        """`Method A` for the first value of that kind, `Method B` for the second."""
        known = self.letters.setdefault(what, {})
        text = value if isinstance(value, str) else canonical(value)
        return known.setdefault(text, f"{what} {_letters(len(known))}")


Rule = Callable[[Anonymiser, Any], Any]  # what is kept of a value; None: nothing


def _letters(number: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    rest, last = divmod(number, 26)
    letter = chr(ord("A") + last)
    return _letters(rest - 1) + letter if rest else letter


def keep(holds: Callable[[Any], bool]) -> Rule:
    """The values that a check accepts, as they are."""
    return lambda _, value: value if holds(value) else None


def one_of(*public: str) -> Rule:
    """One of these texts, or nothing."""
    return keep(lambda value: isinstance(value, str) and value in public)


def _is_number(value: Any) -> bool:
    """A finite number, true or false."""
    return isinstance(value, bool) or is_number(value)


def _list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(holds(one) for one in value)


number, numbers = keep(_is_number), keep(_list_of(_is_number))
sha256, hashes = keep(is_sha256), keep(_list_of(is_sha256))  # the 40 digits of a commit are none


def version(_: Anonymiser, value: Any) -> str | None:
    """2.5.1 of 2.5.1+cu124: what follows may name somebody's build."""
    found = re.fullmatch(r"(\d{1,4}(?:\.\d{1,4}){1,2})(?:\+.*)?", str(value))
    return found and found[1]


def moment(_: Anonymiser, value: Any) -> str | None:
    """A time, in UTC: a zone tells where it was."""
    return datetime.fromisoformat(value).astimezone(UTC).isoformat() if MOMENT[1](value) else None


def named(what: str, public: str | None = None) -> Rule:
    """One of the public names under that key of public_names.yaml, or a letter."""
    names = _PUBLIC[public] if public else ()
    return lambda own, value: value if isinstance(value, str) and value in names else own.letter(what, value)


def model(own: Anonymiser, value: str) -> str:
    """A method, perhaps followed by its epochs."""
    name, epochs = re.fullmatch(r"(.*?)((?: \d{1,4})?)", value, re.DOTALL).groups()
    return METHOD(own, name) + epochs


def models(own: Anonymiser, value: list) -> list[str]:
    """The two of a comparison."""
    return [model(own, name) for name in value]


def classes(_: Anonymiser, value: list) -> list[str]:
    """As many class names, without the names."""
    return [f"class {place}" for place in range(len(value))]


def metrics(own: Anonymiser, value: dict) -> dict:
    """The metrics that evaluators and tables of this project name; those of a class only where a
    table shows them."""
    listed = {}
    for name in value:
        if METRIC.fullmatch(name) or name in PUBLIC_METRICS:
            listed[name] = number
    return own.mapping(value, listed)


def outcome(own: Anonymiser, value: dict) -> dict:
    """What a comparison found of each metric."""
    found = dict.fromkeys(("first", "second", "difference", "low", "high", "better"), number)
    listed = {}
    for name in value:
        if METRIC.fullmatch(name):
            listed[name] = found
    return own.mapping(value, listed)


def gpus(own: Anonymiser, value: Any) -> list[str]:
    """GPUs whose names are a maker's."""
    kept = []
    if not isinstance(value, list):
        return kept
    for name in value:
        if isinstance(name, str) and all(GPU_PARTS.fullmatch(part) for part in re.split("[ -]", name)):
            kept.append(name)
        else:
            own.left_out += 1
    return kept


def hardware(own: Anonymiser, value: Any) -> dict:
    """Cores and GPUs."""
    kept = {}
    if isinstance(value, dict):
        kept = own.mapping(value, {"cores": number, "gpus": gpus})
    return kept | {"gpus": kept.get("gpus") or []}


def pixels(own: Anonymiser, value: dict) -> dict | None:
    """A pixel format, whole or not at all: a result's check wants all four keys."""
    kept = own.mapping(value, PIXELS)
    if kept.keys() != PIXELS.keys():
        return None
    return kept


def setting(own: Anonymiser, value: Any) -> Any:
    """A value of a configuration: numbers, lists of them, detectron2's own texts; a letter for
    anything else."""
    if value is None or _is_number(value) or (isinstance(value, str) and value in CONFIG_TEXTS):
        return value
    if isinstance(value, list | tuple):
        return [setting(own, one) for one in value]
    return own.letter("value", value)


def config(own: Anonymiser, value: dict) -> dict:
    """detectron2's keys; all others together are one letter, so that configurations that differ
    stay apart."""
    kept, others = _config(own, value, "")
    if others:
        own.left_out += len(others)
        kept["LEFT_OUT"] = own.letter("settings", others)
    return kept


def _config(own: Anonymiser, value: dict, above: str) -> tuple[dict, dict]:
    kept, others = {}, {}
    for key, inside in value.items():
        name = f"{above}{key}"
        if name in CONFIG_KEYS:
            kept[key] = setting(own, inside)
        elif isinstance(inside, dict) and any(known.startswith(f"{name}.") for known in CONFIG_KEYS):
            kept[key], more = _config(own, inside, f"{name}.")
            others |= more
        else:
            others[name] = inside
    return kept, others


def overrides(own: Anonymiser, value: list[str]) -> list[str]:
    """KEY=VALUE of detectron2's keys; a letter for the value, or for the whole, that is not public.
    """
    kept = []
    for text in value:
        key, _, given = (part.strip() for part in text.partition("="))
        # A text without quotes.
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            given = ast.literal_eval(given)
        if key in CONFIG_KEYS:
            kept.append(f"{key}={setting(own, given)}")
        else:
            kept.append(own.letter("override", text))
    return kept


def protocol(own: Anonymiser, value: dict) -> dict:
    """A probe's protocol; what is not listed is one letter, as in a configuration."""
    kept = own.mapping(value, PROTOCOL)
    others = {key: one for key, one in value.items() if key not in PROTOCOL}
    if others:
        kept["left_out"] = own.letter("protocol", others)
    return kept


METHOD, DATASET = named("Method", "methods"), named("Dataset", "datasets")
ARCHITECTURE = named("architecture", "architectures")
BRANCH = named("branch", "branches")
PRETRAINING = {"objective": named("objective", "objectives"), "seed": number, "recipe_sha256": sha256,
               "images_sha256": sha256}
VERSIONS = dict.fromkeys(_PUBLIC["packages"], version)
PIXELS = {"channel_order": one_of("RGB", "BGR"), "mean": numbers, "std": numbers, "stride_in_1x1": number}
PROOF = {"sha256": sha256, "tensors": number,
         "largest_difference": dict.fromkeys(("stem", "res2", "res3", "res4", "res5"), number)}
CERTIFICATE = {
    "schema": number, "method": METHOD, "epochs": number, "architecture": ARCHITECTURE, "standard": number,
    "branch": BRANCH, "consumed": number, "expected": number, "tolerance": number, "source_sha256": sha256,
    "input_sha256": sha256, "canonical_sha256": sha256, "pretraining": PRETRAINING, "pixel_format": pixels,
    "versions": VERSIONS, "targets": dict.fromkeys(("detectron2", "torchvision", "timm", "mmdet"), PROOF)}
SPLIT = {"images": number, "annotations_sha256": sha256}
DATA = {"name": DATASET, "label": DATASET, "train_share": {"share": number, "images": number}, "train": SPLIT,
        "val": SPLIT, "classes": classes, "labels": classes, "images_in_both": number,
        "probed": {"train": number, "val": number}}
MEASURED = {  # of results and probes
    "schema": number, "method": METHOD, "epochs": number, "demo": number, "task": one_of(*PUBLIC_TASKS), "seed": number,
    "stage": {"name": named("stage"), "key": named("key")}, "dataset": DATA, "versions": VERSIONS, "hardware": hardware,
    "kernels": {"cudnn_benchmark": number, "tf32": number, "deterministic": number, "joined_batch_norm": number},
    "code": {"dirty": number, "transfer_sha256": sha256}, "wall_seconds": number, "peak_memory_mb": number,
    "started": moment, "ended": moment}
PROBED = {"retrieval": number} | {f"{way}_{name}": number for way in ("knn", "linear")
                                  for name in ("miou", "foreground_miou", "background_iou", "foreground_auc")}
PROTOCOL = dict.fromkeys(("side", "images", "cells", "seed", "neighbours", "temperature", "stride",
                          "recalibration_images", "retrieval_images"), number) | {
    "layer": named("layer", "config_texts"),
    "batch_norm": one_of("recalibrated", "stored"),
    "sixteen_bit": one_of("shift", "range"),
    "resolution": one_of("pixels of the resized image, class scores upsampled bilinearly")}
RECORDS: dict[str, dict[str, Any]] = {
    "runs": MEASURED | {
        "metrics": metrics, "trial": number, "heads": named("heads", "heads"),
        "scale": named("scale", "scales"), "kind": one_of("finetuning", EVALUATION),
        "schedule": named("schedule", "schedules"),
        "solver": named("solver", "solvers"), "fit": one_of("accumulate", "linear"),
        "weights": {"method": METHOD, "epochs": number, "architecture": ARCHITECTURE, "standard": number,
                    "branch": BRANCH, "fpn": number, "init": named("initialisation", "initialisations"),
                    "pkl_sha256": sha256, "path_sha256": sha256, "pretraining": PRETRAINING, "pixel_format": pixels,
                    "conversion": CERTIFICATE},
        **dict.fromkeys(("iterations", "processes", "images_at_once", "batch_norm_images", "eval_every"), number),
        "evaluator": named("evaluator", "evaluators"),
        "predictions": {"sha256": sha256}, "training": {"sha256": sha256}, "evaluation": {"sha256": sha256},
        "overrides": overrides, "config": config},
    "probes": MEASURED | {
        "kind": one_of("probe"), "metrics": PROBED, "details": {}, "protocol": protocol, "threads": number,
        "baselines": dict.fromkeys((*PROBE_RANDOM, "pixel statistics"), PROBED),
        "weights": {"method": METHOD, "epochs": number, "architecture": ARCHITECTURE, "branch": BRANCH,
                    "file_sha256": sha256, "pretraining": PRETRAINING}},
    "imported": {
        "schema": number, "kind": one_of("imported"), "task": one_of(*PUBLIC_TASKS), "method": METHOD, "epochs": number,
        "metrics": metrics, "source": {"file": named("file"), "sha256": sha256}, "annotations_sha256": sha256,
        "imported": moment, "tool_version": version},
    "comparisons": {
        "schema": number, "kind": one_of("bootstrap"), "task": one_of(*PUBLIC_TASKS), "names": models,
        "predictions_sha256": hashes, "annotations_sha256": sha256, "samples": number, "seed": number,
        "outcome": outcome, "made": moment}}
