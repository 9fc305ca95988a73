"""The papers' metrics in results/reported/*.csv, read and checked. Standard library only."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

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
    files = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("."))
    tables = by_table()
    reported: dict[str, list[ReportedRow]] = {}
    problems: list[str] = []
    for path in files:
        rows = _read_file(path)
        if path.stem not in tables:
            problems.append(f"{path.name}: {unknown_table(path.stem)}")
            continue
        reported[path.stem] = rows
        columns = column_names(tables[path.stem])
        for name in dict.fromkeys(chain.from_iterable(row.values for row in rows)):
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

    def add(entry: dict[str, str]) -> bool:
        key, value = (entry["method"], epochs_of(entry)), float(entry["value"])
        values = rows.setdefault(key, ReportedRow(*key, {}, entry["source"])).values
        good = entry["table"] == path.stem and 0 <= value <= 100 and entry["metric"] not in ("", *values)
        values[entry["metric"]] = value
        return good

    read_csv(path, COLUMNS, add, f"a percentage of table {path.stem}, each column once a row,")
    return list(rows.values())


def epochs_of(entry: dict[str, str]) -> int | None:
    """The epochs of a line; ValueError for no number."""
    return int(entry["epochs"]) if entry["epochs"] else None


def read_csv(path: Path, columns: list[str], add: Callable[[dict[str, str]], bool], expected: str) -> None:
    """Hand each line below the title to `add`, which says whether it is good. UserError for a file with other columns,
    and for a line that is not as `expected`."""
    try:
        text = read_plain(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected a CSV file in UTF-8 at {path}, found one that cannot be read ({error}); restore the "
                        "file") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    refuse((reader.fieldnames != columns,
            f"expected the columns {','.join(columns)} in {path}, "
            f"found {','.join(reader.fieldnames or [])}; restore the file"))
    for entry in reader:
        try:
            good = add(entry)
        except (TypeError, ValueError):
            good = False
        refuse((not good,
                f"expected {expected} in {path}, line {reader.line_num}, found "
                f"{','.join(map(str, entry.values()))}; restore the file"))
