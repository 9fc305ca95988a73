"""Measured rows: results grouped into what may be averaged, and sorted into the blocks where they may stand.

Trials are averaged only when they agree in everything that changes a number: table, method, epochs, scale, iterations,
heads, architecture, starting weights, data and resolved configuration. Standard library only.
"""

import hashlib
import marshal
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.paper_tables import TABLES, WITHOUT_EFFECT, departures, on_standard_data
from benchmarks.results import PROVES_NOTHING, canonical, weights_sha256

SAME_FIELDS = ("table", "method", "epochs", "demo", "scale", "iterations", "heads")
HOW_FIELDS = ("solver", "fit", "batch_norm_images")  # not in every result
ANNOTATIONS = "annotations"
PAPER, OTHER_PROTOCOL, OWN_DATA, DEMO = range(4)  # the blocks, in the order they appear


@dataclass(frozen=True)
class Trial:
    """One evaluation of a group: when it ended, its file, its figures (percent), hashes of the code that made it and of
    its kept predictions."""

    ended: str
    file: str
    metrics: dict[str, float | None]
    code: str | None
    predictions: str | None


@dataclass
class Group:
    """Trials that may be averaged. `example` is one of their results without its bulky parts."""

    example: dict
    block: tuple  # (PAPER | OTHER_PROTOCOL | OWN_DATA | DEMO, heading)
    config: dict[str, object]
    departures: list[str]
    weights: str | None
    trials: dict[tuple[int, int], "Trial"] = field(default_factory=dict)  # (trial, seed) -> what it gave

    def means(self, metrics: Iterable[str]) -> dict[str, float | None]:
        """The mean of each metric over the trials that have it, in percent."""
        cells = {metric: self.cell(metric) for metric in metrics}
        return {metric: cell[0] if cell else None for metric, cell in cells.items()}

    def values(self, metric: str) -> list[float]:
        """The metric of each trial that has it, in percent, in the order of the trials."""
        return [trial.metrics[metric] for _, trial in sorted(self.trials.items(), key=lambda item: item[0])
                if trial.metrics[metric] is not None]

    def cell(self, metric: str) -> tuple[float, float | None, int] | None:
        """(mean, sample standard deviation or None, trials with a value); None when no trial has a value."""
        values = self.values(metric)
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def group_results(results: Iterable[tuple[Path, dict]]) -> tuple[list[Group], list[str]]:
    """Groups in the order they appear, and one line for each result that a later run of the same trial replaces."""
    groups: dict[str, Group] = {}
    problems = []
    known: dict[bytes, str] = {}  # trials differ in what has no effect: most configs are then equal
    for path, result in results:
        config = _with_effect(result["config"], NO_EFFECT)
        fast = hashlib.sha256(marshal.dumps(config, 2)).digest()  # four times as fast as JSON, but not canonical
        if fast not in known:
            known[fast] = hashlib.sha256(canonical(config).encode("ascii")).hexdigest()
        weights = weights_sha256(result)
        key = canonical([[result[name] for name in SAME_FIELDS], [result.get(name) for name in HOW_FIELDS],
                         result["weights"]["architecture"], weights, _data(result), known[fast]])
        key = hashlib.sha256(key.encode("ascii")).hexdigest()
        if key not in groups:
            example = {name: value for name, value in result.items() if name not in ("config", "details", "metrics")}
            groups[key] = Group(example, _block(result), _compared(result["config"]), departures(result), weights)
        trials = groups[key].trials
        place = (result["trial"], result["seed"])
        new = Trial(result["ended"], path.name, result["metrics"], result["code"].get("transfer_sha256"),
                    (result.get("predictions") or {}).get("sha256"))
        if place in trials:
            older, newer = sorted([trials[place], new], key=lambda trial: (trial.ended, trial.file))
            problems.append(f"{older.file}: the same trial ran again; {newer.file} counts instead")
            new = newer
        trials[place] = new
    return list(groups.values()), problems


def distinctions(groups: list[Group]) -> list[str]:
    """For groups that would read alike, what tells them apart, one text per group; empty texts for a single group."""
    if len(groups) < 2:
        return ["" for _ in groups]
    keys = sorted({key for group in groups for key in group.config
                   if any(other.config.get(key) != group.config[key] for other in groups)})
    texts = []
    for group in groups:
        parts = [f"{key} {group.config.get(key, 'not set')}" for key in keys[:3]]
        parts += [f"{len(keys) - 3} more settings differ"] if len(keys) > 3 else []
        parts += [f"{name.replace('_', ' ')} {group.example.get(name)}" for name in HOW_FIELDS
                  if len({other.example.get(name) for other in groups}) > 1]
        if len({other.weights for other in groups}) > 1:
            branch = group.example["weights"].get("branch")
            parts.append(f"weights {(group.weights or 'random')[:8]}" + (f" ({branch})" if branch else ""))
        if len({canonical(_data(other.example)) for other in groups}) > 1:
            parts.append(f"{ANNOTATIONS} {data_hash(group.example)}")
        texts.append(", ".join(parts))
    return texts


def _block(result: dict) -> tuple[int, str]:
    table = TABLES[result["table"]]
    if result["demo"] or result["scale"] in PROVES_NOTHING:
        return DEMO, f"Demo: {_describe(result)}"
    if not on_standard_data(result):
        return OWN_DATA, f"Own data: {_describe(result)}"
    if departures(result):
        return OTHER_PROTOCOL, f"{table.data}, not under the paper's protocol"
    return PAPER, ""


def _data(result: dict) -> list:
    data = result["dataset"]
    return [data[part][key] for part in ("train", "val") for key in ("images", "annotations_sha256")] + data["classes"]


def data_hash(result: dict) -> str:
    """Eight digits that tell datasets apart: image counts, annotation files and classes."""
    return hashlib.sha256(canonical(_data(result)).encode("ascii")).hexdigest()[:8]


def _describe(result: dict) -> str:
    data = result["dataset"]
    classes = len(data["classes"])
    name = f"{data['name']}, " if "name" in data else ""
    return (f"{name}{classes} class{'' if classes == 1 else 'es'}, {data['train']['images']} training and "
            f"{data['val']['images']} evaluation images, annotations {data_hash(result)}")


def _tree(names: Iterable[str]) -> dict[str, dict | None]:
    """Dotted names as nested mappings, None at their ends."""
    tree: dict = {}
    for name in names:
        *above, last = name.split(".")
        place = tree
        for key in above:
            place = place.setdefault(key, {})
        place[last] = None
    return tree


NO_EFFECT = _tree(WITHOUT_EFFECT)


def _with_effect(config: dict, without: dict[str, dict | None]) -> dict:
    """A nested config without the names of `without`; copies only the mappings on the way, for there are many files."""
    kept = {key: value for key, value in config.items() if key not in without}
    for key, inside in without.items():
        if inside is not None and key in config:
            value = config[key]
            kept[key] = _with_effect(value, inside) if isinstance(value, dict) else value
    return kept


def _compared(config: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat.update(_compared(value, f"{name}."))
        elif name not in WITHOUT_EFFECT:
            flat[name] = value
    return flat
