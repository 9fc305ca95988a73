"""The papers' figures in results/reported/*.csv, read and checked. Standard library only."""

import csv
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from benchmarks.records.paper_tables import by_table, column_names, unknown_table
from pretrain.common.errors import UserError

COLUMNS = ["table", "method", "epochs", "metric", "value", "source"]


@dataclass(frozen=True)
class ReportedRow:
    """One row as a paper prints it; values in percent by column."""

    method: str
    epochs: int | None
    values: dict[str, Decimal]
    source: str


def read_reported(folder: Path) -> tuple[dict[str, list[ReportedRow]], list[str]]:
    """(rows of each table in the files' order, one line for each file or column that no table here has).

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
        for name in dict.fromkeys(column for row in rows for column in row.values if column not in columns):
            problems.append(f"{path.name}: its {name}, which is no column of the table: expected {', '.join(columns)}")
    absent = [name for name, task in tables.items() if task.table.in_poster and name not in reported]
    if absent:
        found = ", ".join(path.name for path in files) or "no CSV file"
        raise UserError(f"expected {', '.join(f'{name}.csv' for name in absent)} in {folder}, found {found}; "
                        "pass --reported DIR or restore them")
    return reported, problems


def printed(reported: list[ReportedRow], method: str, epochs: int | None) -> dict[str, float]:
    """The values of a paper's row; empty when it has none."""
    rows = [row for row in reported if (row.method, row.epochs) == (method, epochs)]
    return {metric: float(value) for row in rows for metric, value in row.values.items()}


def _read_file(path: Path) -> list[ReportedRow]:
    rows: dict[tuple[str, int | None], ReportedRow] = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise UserError(f"expected the columns {','.join(COLUMNS)} in {path}, "
                            f"found {','.join(reader.fieldnames or [])}; restore the file")
        for entry in reader:
            try:
                epochs = int(entry["epochs"]) if entry["epochs"] else None
                value = Decimal(entry["value"])
                known = entry["table"] == path.stem and bool(entry["metric"]) and 0 <= value <= 100
            except (InvalidOperation, TypeError, ValueError):
                known, epochs = False, None
            row = ReportedRow(entry["method"], epochs, {}, entry["source"]) if known else None
            if row is not None:
                row = rows.setdefault((row.method, row.epochs), row)
            if row is None or entry["metric"] in row.values:
                raise UserError(f"expected a percentage of table {path.stem}, each column once a row, in {path}, line "
                                f"{reader.line_num}, found {','.join(map(str, entry.values()))}; restore the file")
            row.values[entry["metric"]] = value
    return list(rows.values())
