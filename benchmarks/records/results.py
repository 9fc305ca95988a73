"""Result files: one JSON per finished evaluation, whole, checked, and noticed when changed by hand.

Standard library only. results/README.md documents the schema; `validate` is its other half. Each
file carries `digest`, the SHA-256 of its own canonical JSON without that key, so that a number
changed by hand is found.

A result holds all metrics that the evaluator gave. Which of them a table shows is the task's:
nothing here knows a table, and no change of one makes a file invalid.
"""

import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pretrain.common.atomic import write_text
from pretrain.common.errors import refuse
from pretrain.common.fields import is_number, is_sha256, is_text, is_whole
from pretrain.common.plain_file import read_plain
from transfer.records.old_result import SCHEMA, read_as_now
from transfer.settings.random_starts import RANDOM_STARTS

PROVES_NOTHING = ("demo", "tiny")  # scales whose metrics stay out of the main tables
# Rows whose weights each trial draws anew, as `clove finetune` names them.
RANDOM = tuple(start.row for start in RANDOM_STARTS)
Check = tuple[str, Callable[[Any], bool]]
LARGEST = 1e300  # whole numbers have no end in JSON, and cannot be divided then


def _moment(value: Any) -> bool:
    try:
        moment = datetime.fromisoformat(value)
        return moment.tzinfo is not None and moment.astimezone(UTC) is not None
    except (TypeError, ValueError, OverflowError):  # the last: the year 1 or 9999, in another zone
        return False


def ended(record: dict) -> datetime:
    """When a result or probe ended, whatever its time zone: texts do not sort by time."""
    return datetime.fromisoformat(record["ended"])


TEXT: Check = ("a printable text that is not empty", is_text)
TEXT_OR_NULL: Check = ("a printable text that is not empty, or null", lambda v: v is None or TEXT[1](v))
MAPPING: Check = ("a mapping", lambda v: isinstance(v, dict))
MAPPING_OR_NULL: Check = ("a mapping or null", lambda v: v is None or isinstance(v, dict))
NATURAL: Check = ("an integer from 0", lambda v: is_whole(v, 0))
POSITIVE: Check = ("an integer from 1", lambda v: is_whole(v, 1))
POSITIVE_OR_NULL: Check = ("an integer from 1 or null", lambda v: v is None or is_whole(v, 1))
EPOCHS: Check = ("an integer from 0 or null", lambda v: v is None or is_whole(v, 0))
SHA256: Check = ("64 hexadecimal digits", is_sha256)
SHA256_OR_NULL: Check = ("64 hexadecimal digits or null", lambda v: v is None or is_sha256(v))
MOMENT: Check = ("a time in ISO 8601 with its zone", _moment)
PERCENT: Check = ("a number from 0 to 100 or null", lambda v: v is None or is_number(v, 0, 100))
TRUTH: Check = ("true or false", lambda v: isinstance(v, bool))
PRETRAINING_FIELDS: dict[str, Check] = {
    "objective": TEXT, "seed": ("an integer", is_whole), "recipe_sha256": SHA256, "images_sha256": SHA256}


def _is_share(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is None
    return is_number(value.get("share"), 0, 1) and value["share"] != 0 and is_whole(value.get("images"), 1)


# Dotted names reach into mappings. Keys beyond these are welcome and kept.
OPTIONAL = {"dataset.name", "dataset.label", "dataset.train_share", "training", "evaluation", "overrides", "kind",
            "schedule", "solver", "fit", "processes", "earlier_processes", "images_at_once", "batch_norm_images",
            "eval_every", "predictions", "weights.init", "weights.branch", "weights.fpn", "weights.pixel_format",
            "weights.pkl_sha256", "weights.path_sha256", "weights.conversion", "weights.pretraining"}
FIELDS: dict[str, Check] = {
    "schema": (f"{SCHEMA}", lambda v: is_whole(v) and v == SCHEMA),
    "method": TEXT,
    "epochs": EPOCHS,
    "demo": TRUTH,
    "stage": MAPPING,
    "stage.name": TEXT,
    "stage.key": TEXT,
    "task": TEXT,
    "metrics": ("a mapping of at least one metric", lambda v: isinstance(v, dict) and v != {}),
    "trial": NATURAL,
    "seed": ("an integer", is_whole),
    "heads": TEXT,
    "scale": TEXT,
    "weights": MAPPING,
    "weights.method": TEXT,
    "weights.epochs": EPOCHS,
    "weights.architecture": TEXT,
    "dataset": MAPPING,
    "dataset.name": TEXT,
    "dataset.label": TEXT_OR_NULL,
    "dataset.train_share": ("a mapping of share (above 0, at most 1) and images, or null", _is_share),
    "dataset.train": MAPPING,
    "dataset.train.images": POSITIVE,
    "dataset.train.annotations_sha256": SHA256,
    "dataset.val": MAPPING,
    "dataset.val.images": POSITIVE,
    "dataset.val.annotations_sha256": SHA256,
    "dataset.classes": ("a list of at least one class name",
                        lambda v: isinstance(v, list) and v != [] and all(isinstance(name, str) for name in v)),
    "iterations": NATURAL,  # 0: the start itself was evaluated
    "overrides": ("a list of KEY=VALUE texts",
                  lambda v: isinstance(v, list) and all(isinstance(text, str) and text.isprintable() for text in v)),
    "kind": ("finetuning or evaluation", lambda v: v in ("finetuning", "evaluation")),
    "schedule": TEXT_OR_NULL,
    "solver": TEXT_OR_NULL,
    "fit": ("accumulate, linear or null", lambda v: v in ("accumulate", "linear", None)),
    "processes": POSITIVE_OR_NULL,
    "earlier_processes": ("a list of numbers from 1",
                          lambda v: isinstance(v, list) and all(is_whole(number, 1) for number in v)),
    "images_at_once": POSITIVE,
    "batch_norm_images": POSITIVE_OR_NULL,
    "eval_every": POSITIVE_OR_NULL,
    "predictions": ("a mapping of file and sha256, or null",
                    lambda v: v is None or (isinstance(v, dict) and is_sha256(v.get("sha256")))),
    "weights.init": TEXT,
    "weights.branch": TEXT_OR_NULL,
    "weights.fpn": TRUTH,
    "weights.pixel_format": ("a mapping of channel_order, mean, std and stride_in_1x1", lambda v: isinstance(v, dict)
                             and set(v) == {"channel_order", "mean", "std", "stride_in_1x1"}),
    "weights.pkl_sha256": SHA256_OR_NULL,
    "weights.path_sha256": SHA256_OR_NULL,
    "weights.conversion": MAPPING_OR_NULL,
    "weights.pretraining": ("a mapping of objective, seed, recipe_sha256 and images_sha256, or null",
                            lambda v: v is None or check_fields(v, PRETRAINING_FIELDS) == []),
    "training": MAPPING_OR_NULL,
    "evaluation": MAPPING_OR_NULL,
    "config": MAPPING,
    "config_sha256": SHA256,
    "versions": MAPPING,
    "hardware": ("a text or a mapping that is not empty", lambda v: isinstance(v, str | dict) and len(v) > 0),
    "code": MAPPING,
    "wall_seconds": ("a number from 0", lambda v: is_number(v, 0, LARGEST)),
    "peak_memory_mb": ("a number from 0 or null", lambda v: v is None or is_number(v, 0, LARGEST)),
    "started": MOMENT,
    "ended": MOMENT,
}


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, ASCII. ValueError on NaN
    and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(result: dict) -> str:
    """SHA-256 of a result's canonical JSON without its own `digest`."""
    body = dict(result)
    body.pop("digest", None)
    return hashlib.sha256(canonical(body).encode("ascii")).hexdigest()


def weights_sha256(result: dict) -> str | None:
    """Hash of the weights that a result started from; None for random ones, which each trial draws
    anew."""
    weights = result["weights"]
    return weights.get("pkl_sha256") or weights.get("path_sha256")


def validate(result: dict) -> list[str]:
    """What is wrong with a result, one sentence per field (expected, found); empty: nothing.
    Ignores `digest`."""
    return problems_of(result) or json_problems(result)


def json_problems(record: dict) -> list[str]:
    """That a record holds what JSON cannot, as a list of one sentence; empty: it does not."""
    try:
        canonical(record)
    except (TypeError, ValueError, RecursionError) as error:
        return [f"expected finite numbers and plain JSON types everywhere, found otherwise ({error})"]
    return []


def current(result: dict) -> dict:
    """A result in today's schema: one of schema 1 is turned into it, another comes back as it is.

    ValueError when a result of schema 1 does not hold what that schema asks for.
    """
    if not isinstance(result, dict) or not is_whole(result.get("schema")) or result["schema"] != 1:
        return result
    if problems := check_fields(result, {"table": TEXT, "metrics": MAPPING, "details": MAPPING}, optional={"details"}):
        raise ValueError("; ".join(problems))
    return read_as_now(result)


def problems_of(stored: Any) -> list[str]:
    """What is wrong with the fields of a stored result of any schema, one sentence each."""
    try:
        result = current(stored)
    except ValueError as error:
        return [str(error)]
    problems = check_fields(result, FIELDS, OPTIONAL) or metric_problems(result["metrics"])
    if problems:
        return problems
    weights, method = result["weights"], result["method"]
    if weights["method"] not in RANDOM and not is_sha256(weights_sha256(result)):
        return ["weights: expected pkl_sha256 or path_sha256 of 64 hexadecimal digits, found neither"]
    if method in RANDOM and weights.get("pkl_sha256"):
        return [f"method: expected another name than {method!r}, for the weights are those of a checkpoint"]
    return []


def check_fields(record: Any, fields: dict[str, Check], optional: Collection[str] = ()) -> list[str]:
    """What is wrong with the (dotted) fields of any record, one sentence each; empty: nothing.

    All but the `optional` ones must be there. Of a mapping that is none only the mapping is named.
    """
    if not isinstance(record, dict):
        return [f"expected a mapping, found {_short(record)}"]
    problems = []
    for name, (expected, holds) in fields.items():
        *above, key = name.split(".")
        place: Any = record
        for part in above:
            if isinstance(place, dict):
                place = place.get(part)
        if not isinstance(place, dict):
            is_missing = ".".join(above) not in fields
        else:
            is_missing = key not in place and name not in optional
        if is_missing:
            problems.append(f"{name}: missing, expected {expected}")
        elif isinstance(place, dict) and key in place and not holds(place[key]):
            problems.append(f"{name}: expected {expected}, found {_short(place[key])}")
    return problems


def metric_problems(metrics: dict[Any, Any]) -> list[str]:
    """What is wrong with metrics, one sentence each: each is a percentage or null under
    GROUP/NAME."""
    problems = []
    for name, value in metrics.items():
        group, _, metric = str(name).partition("/")
        if not (group and metric):
            problems.append(f"metrics: expected GROUP/NAME, such as bbox/AP, found {_short(name)}")
        elif value is not None and not is_number(value, 0, 100):
            problems.append(f"metrics.{name}: expected {PERCENT[0]}, found {_short(value)}")
    return problems


def parse_sealed(content: bytes, check: Callable[[Any], list[str]]) -> dict:
    """A file's JSON that `check` finds nothing wrong with and whose digest fits; ValueError says
    what is wrong."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not whole JSON ({error})") from None
    # NaN and infinity, which Python's JSON reads, have no digest.
    problems = check(record) or json_problems(record)
    if not problems and record.get("digest") != digest(record):
        problems = ["changed after it was written (its digest does not match); restore it or make it again"]
    if problems:
        raise ValueError("; ".join(problems))
    return record


def write_sealed(folder: Path, record: dict, problems: list[str], name_of: Callable[[dict], str]) -> Path:
    """Write a record with its digest into `folder`, whole or not at all, under the name that its
    content gives it.

    UserError when there are `problems`; nothing is written then.
    """
    refuse((problems,
            f"expected a valid record, found: {'; '.join(problems)}; nothing was written"))
    record = json.loads(canonical(record))  # as it will be read: lists for tuples, texts for keys
    path = Path(folder) / name_of(record)
    write_text(path, stored_text(record | {"digest": digest(record)}))
    return path


def stored_text(record: dict) -> str:
    """A record as its file holds it."""
    return json.dumps(record, indent=1, sort_keys=True) + "\n"


def each_file(folder: Path, check: Callable[[Any], list[str]]) -> Iterator[tuple[Path, dict | None, str]]:
    """Yield (path, its record, "") for each file of `folder` that `check` finds nothing wrong with,
    (path, None, reason) for each other; sorted by name."""
    for path in json_files(folder):
        record, reason = None, ""
        try:
            record = parse_sealed(read_plain(path), check)
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
        except ValueError as error:
            reason = str(error)
        yield path, record, reason


def read_sealed(folder: Path, check: Callable[[Any], list[str]]) -> tuple[list[dict], list[str]]:
    """The records of `folder` that `check` finds nothing wrong with, sorted by name, and one line
    (file: reason) for each other file."""
    records, problems = [], []
    for path, record, reason in each_file(folder, check):
        if record is None:
            problems.append(f"{path.name}: {reason}")
        else:
            records.append(record)
    return records, problems


def json_files(folder: Path) -> list[Path]:
    """The records in `folder`, sorted by name.

    A folder that does not exist holds nothing. Hidden files are writes in progress, of this job or
    of others.
    """
    if not Path(folder).is_dir():
        return []
    return [Path(folder) / name for name in fnmatch.filter(sorted(os.listdir(folder)), "[!.]*.json")]


def write_result(folder: Path, result: dict) -> Path:
    """Write a result into `folder` under the name that its content gives it, whole or not at all.

    The same method, epochs, task, trial and stage key give the same name: a stage that runs again
    replaces its file. A result of schema 1 is written as today's. UserError when the result is not
    valid; nothing is written then.
    """
    problems = validate(result)
    if not problems:
        result = current(result)
    return write_sealed(folder, result, problems, file_name)


def file_name(result: dict) -> str:
    """`<method>__<epochs>ep__<task>__trial<N>__<8 hex>.json`, safe on every file system ("noep": no
    epochs)."""
    method, epochs, task, trial = result["method"], result["epochs"], result["task"], result["trial"]
    identity = canonical([method, epochs, task, trial, result["stage"]["key"]])
    if epochs is None:
        epochs = "no"
    return (f"{slug(method)}__{epochs}ep__{slug(task)}__trial{trial}__"
            f"{hashlib.sha256(identity.encode('ascii')).hexdigest()[:8]}.json")


def read_results(folder: Path) -> tuple[list[dict], list[str]]:
    """All good results of `folder`, sorted by file name, and one line (file: reason) for each file
    that is not."""
    records, problems = read_sealed(folder, problems_of)
    return [current(record) for record in records], problems


def slug(text: str) -> str:
    """A part of a file's name, safe on every file system."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip(".-")[:60] or "unnamed"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
