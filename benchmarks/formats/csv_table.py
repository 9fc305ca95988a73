"""Every value of every table in one CSV file, unrounded, with what it was made of."""

from typing import TYPE_CHECKING

from benchmarks.tables.table_model import Row, TableModel

if TYPE_CHECKING:
    import pandas as pd

DIFFERENCE_COLUMNS = ["minus", "difference", "difference_low", "difference_high", "difference_n", "difference_pairs",
                      "p", "p_holm", "holm_family", "difference_note"]
COLUMNS = ["table", "block", "kind", "method", "epochs", "metric", "value", "deviation", "n", "source", "files",
           "pretrainings", "minus_paper", *DIFFERENCE_COLUMNS]
WHOLE = ("epochs", "n", "pretrainings", "difference_n", "difference_pairs")


def csv_frame(tables: list[TableModel]) -> "pd.DataFrame":
    """One value a line."""
    import pandas as pd

    lines = []
    for table in tables:
        for block in table.blocks:
            for row in block.rows:
                for name, cell in row.cells.items():
                    line = {"table": table.name, "block": block.heading, "kind": row.kind, "method": row.method,
                            "epochs": row.epochs, "metric": name, "value": cell.mean, "deviation": cell.deviation,
                            "n": cell.n, "source": row.source, "minus_paper": row.minus_paper(name)}
                    lines.append(line | _made_of(row, name))
    frame = pd.DataFrame(lines, columns=COLUMNS).astype(dict.fromkeys(WHOLE, "Int64"))
    for name in ("method", "source"):  # from users: a spreadsheet computes what begins so
        frame[name] = frame[name].str.replace(r"\A(?=[=+\-@\t\r])", "'", regex=True)
    return frame


def _made_of(row: Row, column: str) -> dict[str, object]:
    """Files of a row's trials, number of pretrainings with a value of the column, and the
    difference to another row."""
    found = {}
    if row.group:
        found["files"] = ";".join(sorted(trial.file for trial in row.group.trials))
        if row.group.pretrained_here:
            found["pretrainings"] = len(row.group.by_unit(column))
    if row.differences:
        one = row.differences[column]
        low, high = one.interval or (None, None)
        values = (one.against, one.mean, low, high, len(one.values), len(one.pairs), one.p, one.p_holm, one.family,
                  one.doubt)
        found |= dict(zip(DIFFERENCE_COLUMNS, values, strict=True))
    return found
