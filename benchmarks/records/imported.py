"""Metrics made elsewhere: rows of their own, always marked, never averaged with ours.

Sources: the metrics.json that detectron2's trainer writes, and COCO result files (`coco_results`).
Each becomes one file in results/imported/, with the hash of what it was read from.
"""

import hashlib
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.records.paper_tables import by_table, unknown_table, unknown_task
from benchmarks.records.results import (
    EPOCHS,
    MAPPING,
    MOMENT,
    SHA256,
    SHA256_OR_NULL,
    TEXT,
    Check,
    canonical,
    check_fields,
    each_file,
    metric_problems,
    write_sealed,
)
from pretrain import __version__
from pretrain.common.atomic import sha256_file
from pretrain.common.errors import refuse
from pretrain.common.fields import is_number, is_whole
from pretrain.common.json_lines import read_entries
from transfer.records.old_result import metric_of
from transfer.tasks import TASKS, Task

SCHEMA = 2
SCHEMAS: Check = (f"1 or {SCHEMA}", lambda v: is_whole(v) and v in (1, SCHEMA))
FIELDS: dict[str, Check] = {
    "kind": ("imported", lambda v: v == "imported"),
    "method": TEXT,
    "epochs": EPOCHS,
    "metrics": ("a mapping of at least one metric", lambda v: isinstance(v, dict) and v != {}),
    "source": MAPPING,
    "source.file": TEXT,
    "source.sha256": SHA256,
    "annotations_sha256": SHA256_OR_NULL,
    "imported": MOMENT,
}


def from_metrics_json(path: Path, task: Task) -> dict[str, float | None]:
    """All metrics of the last evaluation in a metrics.json of detectron2; UserError when it has
    none of `task`."""
    needed, groups = task.columns[0].metric, {column.group for column in task.columns}
    entries, last = read_entries(path), None
    for entry in entries:
        if needed in entry:
            last = entry
    refuse((last is None,
            f"expected a line with {needed} in {path}, found none in {len(entries)} lines: is it the "
            f"metrics.json of a finished run of task {task.name}?"))
    metrics: dict[str, float | None] = {}
    for name, value in last.items():
        group, slash, _ = name.partition("/")
        if not slash or group not in groups:
            continue
        metrics[name] = None
        # NaN: not defined, as detectron2 writes it.
        if not isinstance(value, float) or not math.isnan(value):
            refuse((not is_number(value, 0, 100),
                    f"{path}: expected a number from 0 to 100 as {name} of its last evaluation, found "
                    f"{json.dumps(value):.60}; is it the metrics.json that detectron2 wrote?"))
            metrics[name] = float(value)
    return metrics


def write_imported(
    folder: Path, row: dict[str, Any], file: Path, annotations_sha256: str | None = None
) -> Path:
    """Write `row` (task, method, epochs, and metrics in percent under GROUP/NAME), which was read
    from `file`, into `folder`.

    The same file, method and epochs give the same name. `annotations_sha256`: of what the metrics
    were computed with, if that is known (`plain_coco.sha256`). UserError when a metric is not a
    percentage.
    """
    record = row | {
        "schema": SCHEMA, "kind": "imported", "source": {"file": file.name, "sha256": sha256_file(file)},
        "annotations_sha256": annotations_sha256,
        "imported": datetime.now(UTC).isoformat(timespec="seconds"), "tool_version": __version__}
    return write_sealed(folder, record, validate(record), file_name)


def file_name(record: dict) -> str:
    """The name that the content gives it: the same source, method, epochs and task have the same.
    """
    task = task_of(record)
    identity = canonical([record["method"], record["epochs"], task, record["source"]["sha256"]])
    return f"{task}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def task_of(record: dict) -> str:
    """The task of imported metrics or of a comparison; one of schema 1 names its table: the table's
    name again where no task here has it."""
    if "task" in record:
        return record["task"]
    task = by_table().get(record["table"])
    return task.name if task else record["table"]


def problems_of(record: Any, fields: dict[str, Check], key: str, check: Callable[[dict], list[str]]) -> list[str]:
    """What is wrong with a record of any schema, one sentence a field; `check` looks at its metrics
    under `key`."""
    problems = check_fields(record, {"schema": SCHEMAS, **fields})
    if problems:
        return problems
    named_by = {1: "table", SCHEMA: "task"}[record["schema"]]
    try:
        return check_fields(record, {named_by: TEXT}) or check(in_todays_schema(record, key)[key])
    except ValueError as error:
        return [str(error)]


def in_todays_schema(record: dict, key: str) -> dict:
    """A record of any schema as today's; `key`: where its metrics are. ValueError for a column of
    no table."""
    if record["schema"] == SCHEMA:
        return record
    found = record | {"schema": SCHEMA, "task": task_of(record), key: {}}
    table = found.pop("table")
    for column, value in record[key].items():
        found[key][metric_of(table, column)] = value
    return found


def validate(record: Any) -> list[str]:
    """What is wrong with imported metrics, one sentence a field; empty: nothing. Ignores `digest`.
    """
    return problems_of(record, FIELDS, "metrics", metric_problems)


def read_known(
    folder: Path, check: Callable[[Any], list[str]], key: str, advice: str
) -> tuple[list[dict], list[str]]:
    """The files of `folder` that `check` finds nothing wrong with, in today's schema and sorted by
    name, and a line for each other file: damaged (it ends in `advice`), or of a task that is not
    known. `key`: where their metrics are."""
    records, problems = [], []
    for path, record, reason in each_file(folder, check):
        if record is None:
            problems.append(f"{path.name}: {reason}; {advice}")
        elif task_of(record) in TASKS:
            records.append(in_todays_schema(record, key))
        elif "task" in record:
            problems.append(f"{path.name}: {unknown_task(record['task'])}")
        else:
            problems.append(f"{path.name}: {unknown_table(record['table'])}")
    return records, problems
