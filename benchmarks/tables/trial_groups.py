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

from benchmarks.records.paper_tables import WITHOUT_EFFECT, departures, on_standard_data, shown, train_share
from benchmarks.records.results import PROVES_NOTHING, RANDOM, canonical, ended, weights_sha256
from transfer.records.identity import flatten
from transfer.tasks import TASKS

SAME_FIELDS = ("task", "method", "epochs", "demo", "scale", "iterations", "heads")
HOW_FIELDS = ("solver", "fit", "batch_norm_images")  # not in every result
ANNOTATIONS = "annotations"
PAPER, OTHER_PROTOCOL, OWN_DATA, DEMO = range(4)  # the blocks, in the order they appear
Evaluated = tuple[datetime, str, str]  # when an evaluation ended, its file, the SHA-256 of the validation annotations


class Place(NamedTuple):
    """Where a trial stands in its group: seed of the pretraining (None: not pretrained here),
    trial, and its seed."""

    pretraining: int | None
    trial: int
    seed: int


Unit = Place | int | None  # what is independent in a row: a fine-tuning, or the seed of a pretraining


@dataclass(frozen=True)
class Trial:
    """One evaluation of a group: when it ended, its file, its columns (percent), hashes of the
    weights it started from, of the code that made it and of its kept predictions."""

    ended: datetime
    file: str
    columns: dict[str, float | None]
    weights: str | None
    code: str | None
    predictions: str | None


@dataclass
class Group:
    """Trials that may be averaged. `example` is one of their results without its bulky parts."""

    example: dict
    block: tuple  # (PAPER | OTHER_PROTOCOL | OWN_DATA | DEMO, heading)
    config: dict[str, object]
    departures: list[str]
    trials: dict[Place, Trial] = field(default_factory=dict)  # in the order of their places

    @property
    def pretrained_here(self) -> bool:
        """Whether its pretrainings are known: then they are what is independent, not their
        fine-tunings."""
        return self.example["weights"].get("pretraining") is not None

    @property
    def from_elsewhere(self) -> bool:
        """Whether it starts from one checkpoint that was not pretrained here."""
        return not self.pretrained_here and self.example["weights"]["method"] not in RANDOM

    def unit(self, place: Place) -> Unit:
        """What is independent: a pretraining made here, whose fine-tunings share a start. Otherwise each fine-tuning:
        a checkpoint from elsewhere has one pretraining by nature, and random weights are drawn anew by each trial."""
        return place.pretraining if self.pretrained_here else place

    def by_unit(self, column: str) -> dict[Unit, list[float]]:
        """The column of the trials that have it, in percent, in the order of the trials."""
        found: dict[Unit, list[float]] = defaultdict(list)
        for place, trial in self.trials.items():
            if trial.columns[column] is not None:
                found[self.unit(place)].append(trial.columns[column])
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
        if len(values) == 1:
            values = trials
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return statistics.fmean(values) if values else None, deviation, len(trials)

    def count(self) -> str:
        """How many trials it has and, pretrained here, what they are made of."""
        if not self.pretrained_here:
            return f"n={len(self.trials)}"
        counts = Counter(place.pretraining for place in self.trials)
        least, most = min(counts.values()), max(counts.values())
        each = most if least == most else f"{least} to {most}"
        return (f"n={len(self.trials)}: {len(counts)} pretraining{'s' * (len(counts) > 1)} x {each} "
                f"fine-tuning{'s' * (most > 1)}")


def group_results(results: Iterable[tuple[Path, dict]]) -> tuple[list[Group], list[str]]:
    """Groups in the order they appear, and one line for each result that another one replaces.

    The results' tasks must be known.
    """
    groups: dict[str, Group] = {}
    members: dict[str, list[tuple[Place, Trial]]] = defaultdict(list)
    trainings: dict[tuple, list[Evaluated]] = defaultdict(list)  # by row, label of the data, what was trained
    for path, result in results:
        config = {key: value for key, value in flatten(result["config"]).items() if key not in WITHOUT_EFFECT}
        alike = [result.get(name) for name in (*SAME_FIELDS, *HOW_FIELDS)]
        alike += [result["weights"]["architecture"], _start(result), _data(result), config]
        key = _sha256(alike)
        if key not in groups:
            example = {name: value for name, value in result.items() if name not in ("config", "details", "metrics")}
            example["weights"] = {name: value for name, value in result["weights"].items() if name != "conversion"}
            groups[key] = Group(example, _block(result), config, departures(result))
        pretraining = result["weights"].get("pretraining") or {}
        place = Place(pretraining.get("seed"), result["trial"], result["seed"])
        trial = Trial(ended(result), path.name, shown(result), weights_sha256(result),
                      result["code"].get("transfer_sha256"), (result.get("predictions") or {}).get("sha256"))
        members[key].append((place, trial))
        label, training = result["dataset"].get("label"), (result.get("training") or {}).get("sha256")
        if label and training:
            evaluated = (trial.ended, trial.file, result["dataset"]["val"]["annotations_sha256"])
            trainings[result["method"], result["epochs"], label, training].append(evaluated)
    problems = _superseded(trainings)
    for key, group in groups.items():
        kept = [(place, trial) for place, trial in members[key] if trial.file not in problems]
        group.trials = _one_of_each(_one_start_each(kept, problems), problems)
    lines = [f"{file}: {reason}" for file, reason in problems.items()]
    return [group for group in groups.values() if group.trials], sorted(lines)


def _sha256(value: object) -> str:
    return hashlib.sha256(canonical(value).encode("ascii")).hexdigest()


def _superseded(trainings: dict[tuple, list[Evaluated]]) -> dict[str, str]:
    """{file: why it does not count} of the evaluations whose training was evaluated later on other annotations
    of the same label: a validation file that was fixed."""
    lines = {}
    for (_, _, label, _), evaluated in trainings.items():
        _, newest_file, newest = max(evaluated)
        for _, file, annotations in evaluated:
            if annotations != newest:
                lines[file] = (f"evaluated on {label} as it was (annotations {annotations[:8]}); {newest_file} is the "
                               f"same training on {newest[:8]} and counts instead")
    return lines


def _start(result: dict) -> list:
    """What trials of one row start from: a file of weights or, pretrained here, a recipe and its
    images."""
    pretraining = result["weights"].get("pretraining")
    if pretraining is None:
        return [weights_sha256(result)]
    return [pretraining["recipe_sha256"], pretraining["images_sha256"], result["weights"].get("branch")]


def _one_start_each(members: list[tuple[Place, Trial]], problems: dict[str, str]) -> list[tuple[Place, Trial]]:
    """The trials, earliest first, whose pretraining has one file of weights; the others go into `problems`.

    The same recipe, images and seed made two files: both cannot be that pretraining. The file of
    the trial that ended last counts.
    """
    members = sorted(members, key=lambda member: (member[1].ended, member[1].file))
    newest = {place.pretraining: trial for place, trial in members}
    kept = []
    for place, trial in members:
        other = newest[place.pretraining]
        if trial.weights == other.weights:
            kept.append((place, trial))
        else:
            problems[trial.file] = (f"starts from weights {trial.weights[:8]}, {other.file} from {other.weights[:8]}, "
                                    "and both name the same pretraining (recipe, images, seed "
                                    f"{place.pretraining}): the one that ended later counts")
    return kept


def _one_of_each(members: list[tuple[Place, Trial]], problems: dict[str, str]) -> dict[Place, Trial]:
    """The last trial of each place; those that it replaces go into `problems`."""
    last = dict(members)
    for place, trial in members:
        if trial is not last[place]:
            problems[trial.file] = f"the same trial ran again; {last[place].file} counts instead"
    return dict(sorted(last.items()))


def distinctions(groups: list[Group]) -> list[str]:
    """For groups that would read alike, what tells them apart, one text per group; empty texts for
    a single group."""
    if len(groups) < 2:
        return [""] * len(groups)
    settings = _differing([group.config for group in groups])
    starts = {canonical(_start(group.example)) for group in groups}
    data = {data_hash(group.example) for group in groups}
    how = _differing([group.example for group in groups])
    texts = []
    for group in groups:
        parts = [f"{key} {group.config.get(key, 'not set')}" for key in settings[:3]]
        if len(settings) > 3:
            parts.append(f"{len(settings) - 3} more settings differ")
        for name in HOW_FIELDS:
            if name in how:
                parts.append(f"{name.replace('_', ' ')} {group.example.get(name)}")
        if len(starts) > 1:
            parts.append(_start_text(group))
        if len(data) > 1:
            parts.append(f"{ANNOTATIONS} {data_hash(group.example)}")
        texts.append(", ".join(parts))
    return texts


def _differing(several: list[dict[str, object]]) -> list[str]:
    """The keys that do not have the same value in all of these, sorted."""
    keys = sorted(set().union(*several))
    return [key for key in keys if any(one.get(key) != several[0].get(key) for one in several)]


def _start_text(group: Group) -> str:
    weights = group.example["weights"]
    text = f"weights {(weights_sha256(group.example) or 'random')[:8]}"
    if group.pretrained_here:
        text = "recipe {recipe_sha256:.8} on images {images_sha256:.8}".format(**weights["pretraining"])
    return text + (f" ({weights['branch']})" if weights.get("branch") else "")


def _block(result: dict) -> tuple[int, str]:
    if result["demo"] or result["scale"] in PROVES_NOTHING:
        return DEMO, f"Demo: {_describe(result)}"
    if not on_standard_data(result):
        return OWN_DATA, f"Own data: {_describe(result)}"
    if departures(result):
        return OTHER_PROTOCOL, f"{TASKS[result['task']].table.data}, not under the paper's protocol"
    return PAPER, ""


def _data(result: dict) -> list:
    data = result["dataset"]
    found = [data[part][key] for part in ("train", "val") for key in ("images", "annotations_sha256")]
    if train_share(result) != 1.0:
        found += [data["train_share"]["share"], data["train_share"]["images"]]
    return found + data["classes"]


def data_hash(result: dict) -> str:
    """Eight digits that tell datasets apart: image counts, annotation files, share of the training
    images, classes."""
    return _sha256(_data(result))[:8]


def dataset_name(result: dict) -> str | None:
    """What a result's dataset is called, if anything."""
    return result["dataset"].get("label") or result["dataset"].get("name")


def _describe(result: dict) -> str:
    data, classes, label = result["dataset"], len(result["dataset"]["classes"]), dataset_name(result)
    share = f" (share {train_share(result):g})" if train_share(result) != 1.0 else ""
    text = (f"{classes} class{'es' * (classes != 1)}, {data['train']['images']} training{share} and "
            f"{data['val']['images']} evaluation images, annotations {data_hash(result)}")
    return f"{label}, {text}" if label else text
