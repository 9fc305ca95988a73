"""Every value of every table in one CSV file, unrounded, with what it was made of."""

from typing import TYPE_CHECKING

from benchmarks.tables.paired import Difference
from benchmarks.tables.table_model import Row, TableModel

if TYPE_CHECKING:
    import pandas as pd

DIFFERENCE_COLUMNS = ["minus", "difference", "difference_low", "difference_high", "difference_n", "difference_pairs",
                      "p", "p_holm", "holm_family", "difference_note"]
COLUMNS = ["table", "block", "kind", "method", "epochs", "metric", "value", "deviation", "n", "source", "files",
           "pretrainings", "minus_paper", *DIFFERENCE_COLUMNS]
WHOLE = ("epochs", "n", "pretrainings", "difference_n", "difference_pairs")
FROM_USERS = (COLUMNS.index("method"), COLUMNS.index("source"))


def csv_frame(tables: list[TableModel]) -> "pd.DataFrame":
    """One value a line."""
    import pandas as pd

    lines = []
    for table in tables:
        for block in table.blocks:
            for row in block.rows:
                for name, cell in row.cells.items():
                    lines.append([table.name, block.heading, row.kind, row.method, row.epochs, name, cell.mean,
                                  cell.deviation, cell.n, row.source, *_made_of(row, name), row.minus_paper(name),
                                  *_difference_fields(row.differences.get(name))])
    for line in lines:
        for place in FROM_USERS:  # a spreadsheet computes what begins so
            if line[place].startswith(("=", "+", "-", "@", "\t", "\r")):
                line[place] = f"'{line[place]}"
    return pd.DataFrame(lines, columns=COLUMNS).astype(dict.fromkeys(WHOLE, "Int64"))


def _made_of(row: Row, column: str) -> tuple[str, int | None]:
    """(files of a row's trials, number of pretrainings with a value of the column)."""
    if row.group is None:
        return "", None
    files = ";".join(sorted(trial.file for trial in row.group.trials.values()))
    return files, len(row.group.by_pretraining(column)) if row.group.pretrained_here else None


def _difference_fields(difference: Difference | None) -> list[object]:
    """The values of DIFFERENCE_COLUMNS."""
    if difference is None:
        return [None] * len(DIFFERENCE_COLUMNS)
    low, high = difference.interval or (None, None)
    return [difference.against, difference.mean, low, high, len(difference.values), len(difference.pairs),
            difference.p, difference.p_holm, difference.family, difference.doubt]
