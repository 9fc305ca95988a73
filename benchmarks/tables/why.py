"""Where one cell of a table comes from: `make_tables.py --why TABLE:ROW:COLUMN`."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables.probe_table import NAME as PROBES
from benchmarks.tables.probe_why import why_probe
from benchmarks.tables.provenance_text import trial_provenance
from benchmarks.tables.table_rows import DIFFERENCE, Row, TableModel, row_name
from pretrain.common.errors import UserError
from transfer.tasks import TASKS


def why(question: str, tables: list[TableModel], results: Path, probes: Sequence[dict] = ()) -> str:
    """The provenance of the cells that `question` names, as text; `results` holds runs/ and probes/.

    TABLE is a table's name, its task's, or a part of its name that fits one, ROW a method with or without its epochs
    ("CLoVE 200"), COLUMN a metric (AP_bb or "AP bb") or its paired difference ("AP bb - Rand init"). Differences to a
    paper are rows ("CLoVE 200: measured - paper"), and the probes are a table. Several rows can have that name: each is
    told. UserError when nothing fits.
    """
    if question.count(":") < 2:
        raise UserError(f"--why {question}: expected TABLE:ROW:COLUMN, such as \"coco_keypoints:CLoVE 200:AP_kp\"")
    word, rest = question.split(":", 1)  # a row's name may have colons of its own
    asked, column = (part.strip() for part in rest.rsplit(":", 1))
    name = _table(word.strip(), [*(table.name for table in tables), *([PROBES] if probes else [])])
    if name == PROBES:
        return why_probe(asked, column, list(probes), results / "probes")
    table = next(table for table in tables if table.name == name)
    column, minus, other = column.partition(" - ")  # "AP bb - Rand init", the title of the differences
    metric = column.replace(" ", "_")
    if metric not in table.columns:
        raise UserError(f"--why {question}: {name} has no column {column}; it has {', '.join(table.columns)}")
    rows = [(block, row) for block in table.blocks for row in block.rows]
    found = [(block, row) for block, row in rows if asked.casefold() in (_name(row).casefold(), row.method.casefold())]
    if not found:
        names = list(dict.fromkeys(_name(row) for _, row in rows))
        near = difflib.get_close_matches(asked, names, n=1, cutoff=0.0)
        raise UserError(f"--why {question}: {name} has no row {asked}; the nearest is {near[0] if near else '-'}, "
                        f"all: {', '.join(names)}")
    if minus:
        compared = [(block, row) for block, row in found if row.differences]
        if not compared:
            raise UserError(f"--why {question}: {asked} is compared with no other row; ask for {metric}, its value")
        if other.removesuffix(" [95 %]").casefold() != table.against.casefold():
            raise UserError(f"--why {question}: the rows of {name} are compared with {table.against}; for another one "
                            "add --against ROW")
        return "\n\n".join(_difference_told(table, row, metric, block.heading) for block, row in compared)
    return "\n\n".join(_told(table, row, metric, block.heading, results / "runs") for block, row in found)


def _table(word: str, names: list[str]) -> str:
    word = TASKS[word].table.name if word in TASKS else word
    fitting = [name for name in names if name == word] or [name for name in names if word and word in name]
    if len(fitting) != 1:
        none = f" ({PROBES}: no probe is shown)" if word and word in PROBES else ""
        raise UserError(f"--why: expected one table, found {len(fitting)} for {word!r}{none}; name one of "
                        f"{', '.join(fitting or names)}")
    return fitting[0]


def _name(row: Row) -> str:
    """A row's name with its epochs; those of a difference stand beside its method."""
    if row.kind != DIFFERENCE:
        return row_name(row.method, row.epochs)
    first = row.parts[0]
    return row_name(first.method, first.epochs) + row.method.removeprefix(first.method)


def _difference_told(table: TableModel, row: Row, metric: str, heading: str) -> str:
    difference = row.differences[metric]
    lines = [f"{table.title}, {_name(row)}, {metric.replace('_', ' ')} - {difference.against}: {difference.text()}"]
    lines += [f"  block: {heading}"] if heading else []
    return "\n".join(lines + difference.told())


def _told(table: TableModel, row: Row, metric: str, heading: str, runs: Path) -> str:
    if row.kind == DIFFERENCE:
        parts = "\n".join(_told(table, part, metric, heading, runs) for part in row.parts)
        return f"{table.title}, {_name(row)}, {metric.replace('_', ' ')}: {row.cells[metric].text}, of\n{parts}"
    lines = [f"{table.title}, {_name(row)}, {metric.replace('_', ' ')}: {row.cells[metric].text}"]
    lines += [f"  block: {heading}"] if heading else []
    if row.group is None:
        return "\n".join([*lines, f"  not measured here: {row.source}"])
    lines.append(f"  {row.source}")
    for place, trial in sorted(row.group.trials.items(), key=lambda item: item[0]):
        lines.append(trial_provenance(runs, place, trial, metric))
    return "\n".join(lines)
