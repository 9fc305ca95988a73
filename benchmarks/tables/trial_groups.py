"""Measured rows: results grouped into what may be averaged, and sorted into the blocks where they may stand.

Trials are averaged only when they agree in everything that changes a number: task, method, epochs,
scale, iterations, heads, architecture, start, data and resolved configuration. The start is a file
of weights; where it was pretrained here it is the recipe and the images of the pretraining, so that
pretrainings of several seeds make one row. Standard library only.
"""

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from benchmarks.records.paper_tables import (
    WITHOUT_EFFECT,
    departures,
    on_standard_data,
    remarks,
    shown,
    train_share,
)
from benchmarks.records.results import PROVES_NOTHING, RANDOM, canonical, ended, weights_sha256
from transfer.records.identity import flatten
from transfer.tasks import TASKS

SAME_FIELDS = ("task", "method", "epochs", "demo", "scale", "iterations", "heads")
HOW_FIELDS = ("solver", "fit", "batch_norm_images")  # not in every result
BULKY = ("config", "details", "metrics")  # what no row shows of a result
ANNOTATIONS = "annotations"
PAPER, OTHER_PROTOCOL, OWN_DATA, DEMO = range(4)  # the blocks, in the order they appear
# When an evaluation ended, its file, the SHA-256 of the validation annotations.
Evaluated = tuple[datetime, str, str]


class Place(NamedTuple):
    """Where a trial stands in its group: seed of the pretraining (None: not pretrained here),
    trial, and its seed."""

    pretraining: int | None
    trial: int
    seed: int

    def text(self) -> str:
        """Which fine-tuning it is, in words."""
        text = f"trial {self.trial}, seed {self.seed}"
        if self.pretraining is not None:
            text += f" of pretraining {self.pretraining}"
        return text


# What is independent in a row: a fine-tuning, or the seed of a pretraining.
Unit = Place | int | None


@dataclass(frozen=True)
class Trial:
    """One evaluation of a group: when it ended, its file, its columns (percent), hashes of the
    weights it started from, of the code that made it and of its kept predictions."""

    place: Place
    ended: datetime
    file: str
    columns: dict[str, float | None]
    weights: str | None
    code: str | None
    predictions: str | None


@dataclass
class Group:
    """Trials that may be averaged, in the order of their places. `example` is one of their results
    without its bulky parts, `block` is (PAPER | OTHER_PROTOCOL | OWN_DATA | DEMO, heading), `data`
    eight digits that tell datasets apart."""

    example: dict
    block: tuple
    config: dict[str, object]
    setting: str
    data: str
    trials: list[Trial] = field(default_factory=list)

    @property
    def pretrained_here(self) -> bool:
        """Whether its pretrainings are known: then they are what is independent, not their
        fine-tunings."""
        return self.example["weights"].get("pretraining") is not None

    @property
    def from_elsewhere(self) -> bool:
        """Whether it starts from one checkpoint that was not pretrained here."""
        return not self.pretrained_here and self.example["weights"]["method"] not in RANDOM

    def is_like(self, other: "Group") -> bool:
        """Whether it is of the same setting, data and architecture."""
        same_network = self.example["weights"]["architecture"] == other.example["weights"]["architecture"]
        return same_network and (self.setting, self.data) == (other.setting, other.data)

    def unit(self, trial: Trial) -> Unit:
        """What is independent: a pretraining made here, whose fine-tunings share a start. Otherwise
        each fine-tuning: a checkpoint from elsewhere has one pretraining by nature, and random
        weights are drawn anew by each trial."""
        return trial.place.pretraining if self.pretrained_here else trial.place

    def by_unit(self, column: str) -> dict[Unit, list[float]]:
        """The column of the trials that have it, in percent, in the order of the trials."""
        found: dict[Unit, list[float]] = defaultdict(list)
        for trial in self.trials:
            if trial.columns[column] is not None:
                found[self.unit(trial)].append(trial.columns[column])
        return found

    def values(self, column: str) -> list[float]:
        """The column of the trials that have it, in percent."""
        return list(chain.from_iterable(self.by_unit(column).values()))

    def independent(self, column: str) -> list[float]:
        """The independent values of a column, in percent: the mean of each unit."""
        return list(map(statistics.fmean, self.by_unit(column).values()))

    def cell(self, column: str) -> tuple[float | None, float | None, int]:
        """(mean, sample standard deviation, trials with a value); None for what is not defined.

        Both over the independent values; of a single pretraining over its trials.
        """
        trials, values = self.values(column), self.independent(column)
        if not trials:
            return None, None, 0
        if len(values) == 1:
            values = trials
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return statistics.fmean(values), deviation, len(trials)

    def count(self) -> str:
        """How many trials it has and, pretrained here, what they are made of."""
        text = f"n={len(self.trials)}"
        if self.pretrained_here:
            counts = Counter(trial.place.pretraining for trial in self.trials)
            least, most = min(counts.values()), max(counts.values())
            each = most if least == most else f"{least} to {most}"
            text += (f": {len(counts)} pretraining{'s' * (len(counts) > 1)} x {each} "
                     f"fine-tuning{'s' * (most > 1)}")
        return text


def group_results(results: Iterable[tuple[Path, dict]]) -> tuple[list[Group], list[str]]:
    """Groups in the order they appear, and one line for each result that another one replaces.

    The results' tasks must be known.
    """
    groups: dict[str, Group] = {}
    # By row, label of the data, what was trained.
    trainings: dict[tuple, list[Evaluated]] = defaultdict(list)
    for path, result in results:
        config, data = flatten(result["config"]), _data_sha256(result)
        for key in WITHOUT_EFFECT:
            config.pop(key, None)
        alike = [result.get(name) for name in (*SAME_FIELDS, *HOW_FIELDS)]
        group = _sha256([*alike, result["weights"]["architecture"], _start(result), data, config])
        if group not in groups:
            example = {**result, "weights": {**result["weights"], "conversion": None}}
            for name in BULKY:
                example.pop(name, None)
            setting = ", ".join([f"{result['heads']} heads", *remarks(result), *departures(result)])
            groups[group] = Group(example, _block(result, data[:8]), config, setting, data[:8])
        pretraining = result["weights"].get("pretraining") or {}
        place = Place(pretraining.get("seed"), result["trial"], result["seed"])
        trial = Trial(place, ended(result), path.name, shown(result), weights_sha256(result),
                      result["code"].get("transfer_sha256"), (result.get("predictions") or {}).get("sha256"))
        groups[group].trials.append(trial)
        label, training = result["dataset"].get("label"), (result.get("training") or {}).get("sha256")
        if label and training:
            evaluated = (trial.ended, trial.file, result["dataset"]["val"]["annotations_sha256"])
            trainings[result["method"], result["epochs"], label, training].append(evaluated)
    problems = _superseded(trainings)
    for group in groups.values():
        group.trials = _counting(group.trials, problems)
    return [group for group in groups.values() if group.trials], sorted(problems.values())


def _sha256(value: object) -> str:
    return hashlib.sha256(canonical(value).encode("ascii")).hexdigest()


def _superseded(trainings: dict[tuple, list[Evaluated]]) -> dict[str, str]:
    """{file: a line that says why it does not count} of the evaluations whose training was evaluated later on other
    annotations of the same label: a validation file that was fixed."""
    lines = {}
    for (_, _, label, _), evaluated in trainings.items():
        _, newest_file, newest = max(evaluated)
        for _, file, annotations in evaluated:
            if annotations != newest:
                lines[file] = (f"{file}: evaluated on {label} as it was (annotations {annotations[:8]}); "
                               f"{newest_file} is the same training on {newest[:8]} and counts instead")
    return lines


def _start(result: dict) -> list:
    """What trials of one row start from: a file of weights or, pretrained here, a recipe and its
    images."""
    pretraining = result["weights"].get("pretraining")
    if pretraining is None:
        return [weights_sha256(result)]
    return [pretraining["recipe_sha256"], pretraining["images_sha256"], result["weights"].get("branch")]


def _counting(trials: list[Trial], problems: dict[str, str]) -> list[Trial]:
    """The trials of a row that count, of each place and each pretraining's weights the last; the
    others go into `problems`.

    The same recipe, images and seed made two files of weights: both cannot be that pretraining. The
    file of the trial that ended last counts.
    """
    newest: dict[int | None, Trial] = {}
    last: dict[Place, Trial] = {}
    for trial in sorted(trials, key=lambda trial: (trial.ended, trial.file), reverse=True):
        if trial.file in problems:
            continue
        seed = trial.place.pretraining
        other = newest.setdefault(seed, trial)
        if trial.weights != other.weights:
            problems[trial.file] = (
                f"{trial.file}: starts from weights {trial.weights[:8]}, {other.file} from {other.weights[:8]}, and "
                f"both name the same pretraining (recipe, images, seed {seed}): the one that ended later counts")
        elif trial.place in last:
            problems[trial.file] = (f"{trial.file}: the same trial ran again; {last[trial.place].file} counts "
                                    "instead")
        else:
            last[trial.place] = trial
    return sorted(last.values(), key=lambda trial: trial.place)


def distinctions(groups: list[Group]) -> list[str]:
    """For groups that would read alike, what tells them apart, one text per group; empty texts for
    a single group."""
    if len(groups) < 2:
        return [""] * len(groups)
    configs, examples = [group.config for group in groups], [group.example for group in groups]
    settings = _differing(configs, sorted(set().union(*configs)))
    how = _differing(examples, HOW_FIELDS)
    starts = {canonical(_start(example)) for example in examples}
    data = {group.data for group in groups}
    texts = []
    for group in groups:
        parts = []
        for key in settings[:3]:
            parts.append(f"{key} {group.config.get(key, 'not set')}")
        if len(settings) > 3:
            parts.append(f"{len(settings) - 3} more settings differ")
        for name in how:
            parts.append(f"{name.replace('_', ' ')} {group.example.get(name)}")
        if len(starts) > 1:
            parts.append(_start_text(group))
        if len(data) > 1:
            parts.append(f"{ANNOTATIONS} {group.data}")
        texts.append(", ".join(parts))
    return texts


def _differing(several: list[dict[str, object]], keys: Iterable[str]) -> list[str]:
    """The keys that do not have the same value in all of these."""
    found = []
    for key in keys:
        values = [one.get(key) for one in several]
        if values.count(values[0]) < len(values):
            found.append(key)
    return found


def _start_text(group: Group) -> str:
    weights = group.example["weights"]
    text = f"weights {(weights_sha256(group.example) or 'random')[:8]}"
    if group.pretrained_here:
        text = "recipe {recipe_sha256:.8} on images {images_sha256:.8}".format(**weights["pretraining"])
    if weights.get("branch"):
        text += f" ({weights['branch']})"
    return text


def _block(result: dict, annotations: str) -> tuple[int, str]:
    """The block where a result may stand, and its heading."""
    demo, data, name = result["demo"] or result["scale"] in PROVES_NOTHING, result["dataset"], dataset_name(result)
    if on_standard_data(result) and not demo:
        if not departures(result):
            return PAPER, ""
        return OTHER_PROTOCOL, f"{TASKS[result['task']].table.data}, not under the paper's protocol"
    classes, share = len(data["classes"]), ""
    if train_share(result) != 1.0:
        share = f" (share {train_share(result):g})"
    text = (f"{classes} class{'es' * (classes != 1)}, {data['train']['images']} training{share} and "
            f"{data['val']['images']} evaluation images, annotations {annotations}")
    if name:
        text = f"{name}, {text}"
    if demo:
        return DEMO, f"Demo: {text}"
    return OWN_DATA, f"Own data: {text}"


def _data_sha256(result: dict) -> str:
    """Of what tells datasets apart: image counts, annotation files, share of the training images,
    classes."""
    data = result["dataset"]
    found = []
    for part in (data["train"], data["val"]):
        found += [part["images"], part["annotations_sha256"]]
    if train_share(result) != 1.0:
        found += [data["train_share"]["share"], data["train_share"]["images"]]
    return _sha256(found + data["classes"])


def dataset_name(result: dict) -> str | None:
    """What a result's dataset is called, if anything."""
    return result["dataset"].get("label") or result["dataset"].get("name")
