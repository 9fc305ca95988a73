"""The papers' metrics in results/reported/*.csv, read and checked. Standard library only."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records.paper_tables import by_table, column_names, unknown_table
from pretrain.common.errors import UserError, refuse
from pretrain.common.plain_file import read_plain

COLUMNS = ["table", "method", "epochs", "metric", "value", "source"]


@dataclass(frozen=True)
class ReportedRow:
    """One row as a paper prints it; values in percent by column."""

    method: str
    epochs: int | None
    values: dict[str, float]
    source: str


def read_reported(folder: Path) -> tuple[dict[str, list[ReportedRow]], list[str]]:
    """(rows of each table in the files' order, one line for each file or column that no table here
    has).

    UserError for a file that is not what it should be.
    """
    tables = by_table()
    reported: dict[str, list[ReportedRow]] = {}
    problems: list[str] = []
    files = sorted(folder.glob("[!.]*.csv"))
    for path in files:
        rows = _read_file(path)
        if path.stem not in tables:
            problems.append(f"{path.name}: {unknown_table(path.stem)}")
            continue
        reported[path.stem] = rows
        columns, unknown = column_names(tables[path.stem]), {}
        for row in rows:
            unknown |= row.values
        for name in unknown:
            if name not in columns:
                problems.append(f"{path.name}: its {name}, which is not a column of the table: expected "
                                f"{', '.join(columns)}")
    absent = [name for name, task in tables.items() if task.table.in_poster and name not in reported]
    found = ", ".join(path.name for path in files) or "no CSV file"
    refuse((absent, f"expected {'.csv, '.join(absent)}.csv in {folder}, found {found}; pass --reported DIR or restore "
                    "them"))
    return reported, problems


def printed(reported: list[ReportedRow], method: str, epochs: int | None) -> dict[str, float]:
    """The values of a paper's row; empty when it has none."""
    for row in reported:
        if (row.method, row.epochs) == (method, epochs):
            return row.values
    return {}


def _read_file(path: Path) -> list[ReportedRow]:
    rows: dict[tuple[str, int | None], ReportedRow] = {}

    def add(entry: dict[str, Any]) -> bool:
        key, metric = (entry["method"], entry["epochs"]), entry["metric"]
        values = rows.setdefault(key, ReportedRow(*key, {}, entry["source"])).values
        is_new = metric not in ("", *values)
        values[metric] = entry["value"]
        return is_new and entry["table"] == path.stem

    read_csv(path, COLUMNS, add, f"a percentage of table {path.stem}, each column once a row,")
    return list(rows.values())


def read_csv(
    path: Path, columns: list[str], is_good: Callable[[dict[str, Any]], bool], expected: str,
    numbers: tuple[str, ...] = ("value",)
) -> list[dict[str, Any]]:
    """The lines below the title, with epochs and `numbers` as such; `value` is a percentage.
    UserError for a file with other columns, and for a line that `is_good` says is not as
    `expected`."""
    try:
        text = read_plain(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected a CSV file in UTF-8 at {path}, found one that cannot be read ({error}); restore the "
                        "file") from None
    reader, entries = csv.DictReader(io.StringIO(text, newline="")), []
    refuse((reader.fieldnames != columns,
            f"expected the columns {','.join(columns)} in {path}, "
            f"found {','.join(reader.fieldnames or [])}; restore the file"))
    for entry in reader:
        found = ",".join(map(str, entry.values()))
        try:
            entry["epochs"] = int(entry["epochs"]) if entry["epochs"] else None
            for name in numbers:
                entry[name] = float(entry[name])
            good = 0 <= entry["value"] <= 100 and is_good(entry)
        except (TypeError, ValueError):
            good = False
        refuse((not good, f"expected {expected} in {path}, line {reader.line_num}, found {found}; restore the file"))
        entries.append(entry)
    return entries
