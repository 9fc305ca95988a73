"""Every value of every table in one CSV file, unrounded, with what it was made of."""

from typing import TYPE_CHECKING

from benchmarks.tables.paired import Difference
from benchmarks.tables.table_model import TableModel, each_block

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
    for table, block in each_block(tables):
        for row in block.rows:
            made_of = {"table": table.name, "block": block.heading, "kind": row.kind, "method": row.method,
                       "epochs": row.epochs, "source": row.source}
            if row.group:
                made_of["files"] = ";".join(sorted(trial.file for trial in row.group.trials))
            for name, cell in row.cells.items():
                line = made_of | {"metric": name, "value": cell.mean, "deviation": cell.deviation, "n": cell.n,
                                  "minus_paper": row.minus_paper(name)}
                if row.group and row.group.pretrained_here:
                    line["pretrainings"] = len(row.group.by_unit(name))
                if row.differences:
                    line |= _difference(row.differences[name])
                lines.append(line)
    frame = pd.DataFrame(lines, columns=COLUMNS).astype(dict.fromkeys(WHOLE, "Int64"))
    for name in ("method", "source"):  # from users: a spreadsheet computes what begins so
        frame[name] = frame[name].str.replace(r"\A(?=[=+\-@\t\r])", "'", regex=True)
    return frame


def _difference(one: Difference) -> dict[str, object]:
    low, high = one.interval or (None, None)
    values = (one.against, one.mean, low, high, len(one.values), len(one.pairs), one.p, one.p_holm, one.family,
              one.doubt)
    return dict(zip(DIFFERENCE_COLUMNS, values, strict=True))
