"""Where one cell of a table comes from: `make_tables.py --why TABLE:ROW:COLUMN`."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.formats.layout import PAPER
from benchmarks.formats.provenance_text import (
    code_text,
    data_text,
    facts_text,
    hash_text,
    items_text,
    pretraining_line,
    trial_facts,
    value_text,
)
from benchmarks.records.probe_results import validate
from benchmarks.records.results import each_file
from benchmarks.tables.probe_table import COLUMNS, TITLE, probe_blocks, probe_name
from benchmarks.tables.probe_table import NAME as PROBES
from benchmarks.tables.shown_text import nearest, row_name, signed
from benchmarks.tables.table_model import Block, Row, TableModel
from pretrain.common.errors import refuse
from pretrain.common.plain_file import read_plain
from transfer.tasks import TASKS


def why(question: str, tables: list[TableModel], results: Path, probes: Sequence[dict] = ()) -> str:
    """The provenance of the cells that `question` names, as text; `results` holds runs/ and
    probes/.

    TABLE is a table's name, its task's, or a part of its name that fits one, ROW a method with or
    without its epochs ("CLoVE 200"), COLUMN a metric (AP_bb or "AP bb"), its difference to the
    paper ("AP bb - paper") or its paired difference ("AP bb - Rand init"). The probes are a table.
    Where several rows have that name all of them are reported. UserError when nothing fits.
    """
    refuse((question.count(":") < 2,
            f"--why {question}: expected TABLE:ROW:COLUMN, such as \"coco_keypoints:CLoVE 200:AP_kp\""))
    asked_table, rest = question.split(":", 1)  # a row's name may have colons of its own
    asked, column = map(str.strip, rest.rsplit(":", 1))
    names = [table.name for table in tables]
    if probes:
        names.append(PROBES)
    name = _table(asked_table.strip(), names)
    if name == PROBES:
        return _why_probe(asked, column, list(probes), results / "probes")
    table = tables[names.index(name)]
    # "AP bb - Rand init", the title of the differences.
    column, minus, other = column.partition(" - ")
    metric = column.replace(" ", "_")
    refuse((metric not in table.columns,
            f"--why {question}: {name} has no column {column}; it has {', '.join(table.columns)}"))
    found = []
    for block in table.blocks:
        for row in block.rows:
            if asked.casefold() in (row.name.casefold(), row.method.casefold()):
                found.append(_answers(table, block, row, metric, results / "runs"))
    refuse((not found,
            f"--why {question}: {name} has no row {asked}; "
            f"{nearest(asked, [row.name for row in table.rows()])}"))
    of_what = ""
    if minus:
        of_what = PAPER if other == PAPER else table.against or other
    texts = [answers[of_what] for answers in found if of_what in answers]
    refuse((not texts,
            f"--why {question}: {asked} is compared with no other row; ask for {metric}, its value"))
    refuse((minus and other.removesuffix(" [95 %]").casefold() not in (PAPER, table.against.casefold()),
            f"--why {question}: the rows of {name} are compared with {table.against}; for another one "
            "add --against ROW"))
    return "\n\n".join(texts)


def _answers(table: TableModel, block: Block, row: Row, metric: str, runs: Path) -> dict[str, str]:
    """Where a value comes from, under "", and its differences, under what it is compared with."""
    title = f"{table.title}, {row.name}, {metric.replace('_', ' ')}"
    heading = [f"  block: {block.heading}"] * bool(block.heading)
    value = [f"{title}: {row.cells[metric].text}", *heading, *_made_of(row, metric, runs)]
    answers = {"": "\n".join(value)}
    if row.paper:
        printed = [f"{title}: {row.paper.cells[metric].text}", *heading, *_made_of(row.paper, metric, runs)]
        of_both = [f"{title} - {PAPER}: {signed(row.minus_paper(metric))}, of", *value, *printed]
        answers[PAPER] = "\n".join(of_both)
    if row.differences:
        found = row.differences[metric]
        lines = [f"{title} - {found.against}: {found.text()}", *heading, *found.provenance(metric)]
        answers[found.against] = "\n".join(lines)
    return answers


def _table(asked: str, names: list[str]) -> str:
    if asked in TASKS:
        asked = TASKS[asked].table.name
    fitting = [name for name in names if asked and asked in name]
    if asked in names:
        fitting = [asked]
    no_probes = f" ({PROBES}: no probe is shown)" * (asked != "" and asked in PROBES)
    refuse((len(fitting) != 1,
            f"--why: expected one table, found {len(fitting)} for {asked!r}{no_probes}; name one of "
            f"{', '.join(fitting or names)}"))
    return fitting[0]


def _made_of(row: Row, metric: str, runs: Path) -> list[str]:
    if row.group is None:
        return [f"  not measured here: {row.source}"]
    texts = [f"  {row.source}"]
    for trial in row.group.trials:
        result = json.loads(read_plain(runs / trial.file))
        facts = {"file": f"{runs / trial.file}, digest {result['digest'][:12]}", **trial_facts(result)}
        title = f"  {trial.place.text()}: {value_text(trial.columns[metric])}"
        texts.append(facts_text([title], facts))
    return texts


def _why_probe(row: str, column: str, probes: list[dict], folder: Path) -> str:
    """The provenance of a metric in each block that has it; `folder` holds the probes' files.

    ROW is a method with or without its epochs, or a baseline, reported for every probe that
    measured it. UserError when nothing fits.
    """
    metrics = {}
    for title, metric in COLUMNS.items():
        metrics |= {title.casefold(): metric, metric: metric}
    refuse((column.casefold() not in metrics,
            f"--why: {PROBES} has no column {column}; it has {', '.join(COLUMNS)}"))
    files = {}
    for path, probe, _ in each_file(folder, validate):
        if probe:  # a damaged file stands in no table
            files[probe["digest"]] = path
    found, names = [], []
    for heading, members in probe_blocks(probes):
        for probe in members:
            method = probe_name(probe)
            rows = [(method, row_name(method, probe["epochs"]), probe["metrics"])]
            for name, values in sorted(probe["baselines"].items()):
                rows.append((name, name, values))
            for plain, name, values in rows:
                names.append(name)
                if row.casefold() in (plain.casefold(), name.casefold()):
                    value = value_text(values.get(metrics[column.casefold()]))
                    lines = [f"{TITLE}, {name}, {column}: {value}", f"  block: {heading}"]
                    found.append(facts_text(lines, _probe_facts(probe, files[probe["digest"]])))
    refuse((not found, f"--why: {PROBES} has no row {row}; {nearest(row, names)}"))
    return "\n\n".join(found)


def _probe_facts(probe: dict, path: Path) -> dict[str, str]:
    """What a probe is made of, in words."""
    weights = probe["weights"]
    return {
        "file": f"{path}, digest {probe['digest'][:12]}",
        "probe": f"{probe_name(probe)}, {weights['architecture']}, {hash_text(weights['file_sha256'])}",
        **pretraining_line(weights),
        "data": data_text(probe["dataset"]),
        "protocol": f"{items_text(probe['protocol'])}, seed {probe['seed']}",
        "code": code_text(probe["code"]),
        "versions": items_text(probe["versions"]),
        "when": f"{probe['started']} to {probe['ended']}, {probe['wall_seconds'] / 60:.1f} min",
    }
