"""Metrics made elsewhere: rows of their own, always marked, never averaged with ours.

Sources: the metrics.json that detectron2's trainer writes, and COCO result files (`coco_results`).
Each becomes one file in results/imported/, with the hash of what it was read from.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
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
    parse_sealed,
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


@dataclass(frozen=True)
class Imported:
    """One imported row; all its metrics in percent, under GROUP/NAME."""

    task: str
    method: str
    epochs: int | None
    metrics: dict[str, float | None]
    source: str = ""  # as the table says it; a row that is written has the file itself


def from_metrics_json(path: Path, task: Task) -> dict[str, float | None]:
    """All metrics of the last evaluation in a metrics.json of detectron2; UserError when it has
    none of `task`."""
    needed, groups = task.columns[0].metric, {column.group for column in task.columns}
    entries = read_entries(path)
    evaluations = [entry for entry in entries if needed in entry]
    refuse((not evaluations,
            f"expected a line with {needed} in {path}, found none in {len(entries)} lines: is it the "
            f"metrics.json of a finished run of task {task.name}?"))
    metrics: dict[str, float | None] = {}
    for name, value in evaluations[-1].items():
        group, slash, _ = name.partition("/")
        if slash and group in groups:
            undefined = isinstance(value, float) and math.isnan(value)  # as detectron2 writes it
            refuse((not undefined and not is_number(value, 0, 100),
                    f"{path}: expected a number from 0 to 100 as {name} of its last evaluation, found "
                    f"{json.dumps(value):.60}; is it the metrics.json that detectron2 wrote?"))
            metrics[name] = None if undefined else float(value)
    return metrics


def write_imported(folder: Path, row: Imported, file: Path, annotations_sha256: str | None = None) -> Path:
    """Write the metrics of `row`, which were read from `file`, into `folder`.

    The same file, method and epochs give the same name. `annotations_sha256`: of what the
    metrics were computed with, if that is known (`plain_coco.sha256`). UserError when a metric is not a percentage.
    """
    record: dict[str, Any] = {
        "schema": SCHEMA, "kind": "imported", "task": row.task, "method": row.method, "epochs": row.epochs,
        "metrics": row.metrics, "source": {"file": file.name, "sha256": sha256_file(file)},
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
    """The task of imported metrics or of a comparison; one of schema 1 names its table: the table's name again where no
    task here has it."""
    if "task" in record:
        return record["task"]
    task = by_table().get(record["table"])
    return task.name if task else record["table"]


def by_metric(record: dict, key: str) -> dict[str, Any]:
    """What a record of any schema holds under `key`, by GROUP/NAME; ValueError for a column of no table."""
    if record["schema"] != 1:
        return record[key]
    return {metric_of(record["table"], column): value for column, value in record[key].items()}


def problems_of(record: Any, fields: dict[str, Check], key: str, check: Callable[[dict], list[str]]) -> list[str]:
    """What is wrong with a record of any schema, one sentence a field; `check` looks at its metrics under `key`."""
    problems = check_fields(record, {"schema": SCHEMAS, **fields})
    if not problems:
        problems = check_fields(record, {"table" if record["schema"] == 1 else "task": TEXT})
    try:
        return problems or check(by_metric(record, key))
    except ValueError as error:
        return [str(error)]


def in_todays_schema(record: dict, key: str) -> dict:
    """A valid record as today's; `key`: where its metrics are."""
    rest = {name: value for name, value in record.items() if name != "table"}
    return rest | {"schema": SCHEMA, "task": task_of(record), key: by_metric(record, key)}


def validate(record: Any) -> list[str]:
    """What is wrong with imported metrics, one sentence a field; empty: nothing. Ignores `digest`.
    """
    return problems_of(record, FIELDS, "metrics", metric_problems)


def parse_imported(content: bytes) -> dict:
    """The content of a file of imported metrics, as it is stored; ValueError says what is wrong
    with it."""
    return parse_sealed(content, validate)


def read_imported(folder: Path) -> tuple[list[Imported], list[str]]:
    """All good imported rows of `folder`, and one line for each file that is not or whose task is
    not known."""
    records, problems = read_known(folder, parse_imported, "import them again")
    rows = []
    for record in records:
        source = f"imported from {record['source']['file']}, sha256 {record['source']['sha256'][:8]}"
        metrics = by_metric(record, "metrics")
        rows.append(Imported(task_of(record), record["method"], record["epochs"], metrics, source))
    return rows, problems


def read_known(folder: Path, parse: Callable[[bytes], dict], advice: str) -> tuple[list[dict], list[str]]:
    """What `parse` makes of the files of `folder`, sorted by name, and a line for each other file:
    damaged (it ends in `advice`), or of a task that is not known."""
    records, problems = [], []
    for path, record, reason in each_file(folder, parse):
        if record is None:
            problems.append(f"{path.name}: {reason}; {advice}")
        elif task_of(record) in TASKS:
            records.append(record)
        else:
            unknown = unknown_task if "task" in record else unknown_table
            problems.append(f"{path.name}: {unknown(task_of(record))}")
    return records, problems
