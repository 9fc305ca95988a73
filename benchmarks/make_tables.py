"""Reported and measured results -> markdown tables. Needs pandas and tabulate, nothing else.

    python benchmarks/make_tables.py [--results DIR] [--reported DIR] [--include-demo] [--strict]

Reads results/reported/*.csv (what papers print) and results/runs/*.json (what was measured here), writes
results/tables/*.md and prints them. The same input gives the same bytes. Works from any folder.
"""

import argparse
import csv
import re
import sys
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):  # run as a file: the packages are found from the root, not from this folder
    sys.path[:] = [str(ROOT)] + [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks"]

from benchmarks.measured import DEMO, OTHER_PROTOCOL, OWN_DATA, PAPER, Group, distinctions, group_results  # noqa: E402
from benchmarks.paper_tables import TABLES  # noqa: E402
from benchmarks.results import each_result  # noqa: E402
from benchmarks.sentinels import RANDOM, Expectations, below_random, outside, read_expected  # noqa: E402
from pretrain.atomic import write_text  # noqa: E402
from pretrain.errors import UserError, run_cli  # noqa: E402

EXPECTED = ROOT / "results" / "expected.csv"
LOOK_AGAIN = "(!)"
REPORTED_COLUMNS = ["table", "method", "epochs", "metric", "value", "source"]
MISSING = "-"
BLOCK_NOTES = {
    OTHER_PROTOCOL: "Measured here on the paper's data, but not as the paper did it: not comparable with its rows.",
    OWN_DATA: "Measured here on other data than the paper's: not comparable with its rows.",
    DEMO: "A few iterations, as a rule on small generated images: these rows show that the pipeline runs "
          "and say nothing about quality.",
}
HOW_MEASURED = "Measured rows: mean ± sample standard deviation over n trials; n=1 is a single run, no error bar."
KNOWN_NOISE = " Single runs on COCO are known to vary by about 0.3 AP."
DIFFERENCE = (" \"Measured - paper\" is the difference of the unrounded mean to the paper's row of the same method "
              "and epochs.")


@dataclass(frozen=True)
class ReportedRow:
    """One row as a paper prints it; values in percent by metric."""

    method: str
    epochs: int | None
    values: dict[str, Decimal]
    source: str


def read_reported(folder: Path) -> dict[str, list[ReportedRow]]:
    """Rows of each table in the files' order. UserError for a file that is not what it should be."""
    files = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("."))
    reported = {path.stem: _read_reported_file(path) for path in files}
    absent = [name for name, table in TABLES.items() if table.in_poster and name not in reported]
    if absent:
        found = ", ".join(path.name for path in files) or "no CSV file"
        raise UserError(f"expected {', '.join(f'{name}.csv' for name in absent)} in {folder}, found {found}; "
                        "pass --reported DIR or restore them")
    return reported


def _read_reported_file(path: Path) -> list[ReportedRow]:
    if path.stem not in TABLES:
        raise UserError(f"expected a file named after a table ({', '.join(TABLES)}), found {path}; rename or move it")
    metrics = TABLES[path.stem].metrics
    rows: dict[tuple[str, int | None], ReportedRow] = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != REPORTED_COLUMNS:
            raise UserError(f"expected the columns {','.join(REPORTED_COLUMNS)} in {path}, "
                            f"found {','.join(reader.fieldnames or [])}; restore the file")
        for entry in reader:
            try:
                epochs = int(entry["epochs"]) if entry["epochs"] else None
                value = Decimal(entry["value"])
                known = entry["table"] == path.stem and entry["metric"] in metrics and 0 <= value <= 100
            except (InvalidOperation, TypeError, ValueError):
                known, epochs = False, None
            row = ReportedRow(entry["method"], epochs, {}, entry["source"]) if known else None
            if row is not None:
                row = rows.setdefault((row.method, row.epochs), row)
            if row is None or entry["metric"] in row.values:
                raise UserError(f"expected a percentage of {', '.join(metrics)}, each once a row, in {path}, line "
                                f"{reader.line_num}, found {','.join(map(str, entry.values()))}; restore the file")
            row.values[entry["metric"]] = value
    return list(rows.values())


def table_text(name: str, reported: list[ReportedRow], groups: list[Group], expectations: Expectations) -> str:
    """One table in markdown: the paper's rows, measured ones under them, then a block per other kind of result."""
    table = TABLES[name]
    rows, remarks = _reported_rows(name, reported)
    blocks: dict[tuple, list[Group]] = {}
    for group in groups:
        blocks.setdefault(group.block, []).append(group)
    measured, more = _measured_rows(name, blocks.pop((PAPER, ""), []), reported, expectations)
    if measured:
        rows += [["**measured here**", *[""] * (len(table.metrics) + 2)], *measured]
    parts = [f"## {table.title}", _markdown(rows, table.metrics), *_remarks(remarks + more)]
    parts += [table.note] if table.note else []
    if groups:
        parts.append(HOW_MEASURED + (KNOWN_NOISE if "COCO" in table.data else "") + (DIFFERENCE if measured else ""))
    for (kind, heading), members in sorted(blocks.items(), key=lambda item: item[0]):
        rows, remarks = _measured_rows(name, members, reported, {})
        parts += [f"### {_plain(heading)}", BLOCK_NOTES[kind], _markdown(rows, table.metrics), *_remarks(remarks)]
    return "\n\n".join(parts) + "\n"


def _remarks(remarks: list[str]) -> list[str]:
    """The paragraph under a table that names the rows which need a second look."""
    return ["\n".join(f"- {LOOK_AGAIN} {remark}" for remark in remarks)] if remarks else []


def _reported_rows(name: str, reported: list[ReportedRow]) -> tuple[list[list[str]], list[str]]:
    rows, remarks = [], []
    random = _printed(reported, RANDOM, None)
    for row in reported:
        found = below_random(_printed(reported, row.method, row.epochs), random, TABLES[name].metrics)
        remarks += [f"{row.method} {_epochs(row.epochs)} as printed: {text}" for text in found]
        rows.append([row.method, _epochs(row.epochs),
                     *[_percent(row.values.get(metric)) for metric in TABLES[name].metrics],
                     f"paper ({row.source})" + (f" {LOOK_AGAIN}" if found else "")])
    return rows, remarks


def _printed(reported: list[ReportedRow], method: str, epochs: int | None) -> dict[str, float]:
    """The values of a paper's row; empty when it has none."""
    rows = [row for row in reported if (row.method, row.epochs) == (method, epochs)]
    return {metric: float(value) for row in rows for metric, value in row.values.items()}


def _measured_rows(name: str, groups: list[Group], reported: list[ReportedRow], expectations: Expectations
                   ) -> tuple[list[list[str]], list[str]]:
    """(rows, remarks on those that need a second look) of the results in one block."""
    metrics = TABLES[name].metrics
    places = {(row.method, row.epochs): place for place, row in reversed(list(enumerate(reported)))}
    first = {row.method: place for place, row in reversed(list(enumerate(reported)))}
    alike: dict[tuple, list[Group]] = {}
    for group in groups:
        example = group.example
        alike.setdefault((
            first.get(example["method"], len(reported)), example["method"],
            -1 if example["epochs"] is None else example["epochs"], _setting(group)), []).append(group)
    rows, remarks = [], []
    for key in sorted(alike):
        named = zip(distinctions(alike[key]), alike[key], strict=True)
        for distinction, group in sorted(named, key=lambda pair: pair[0]):
            method, epochs, kind = group.example["method"], group.example["epochs"], group.block[0]
            n = len(group.trials)
            cells = [group.cell(metric) for metric in metrics]
            source = f"{'demo' if kind == DEMO else 'measured'}, n={n}; " + _setting(group)
            source += f", {distinction}" if distinction else ""
            found = [] if kind == DEMO else _doubts(name, group, groups, reported, expectations)
            remarks += [_plain(f"{method} {_epochs(epochs)}, {source}: {text}") for text in found]
            rows.append([f"{'DEMO ' if kind == DEMO else ''}{_plain(method)}", _epochs(epochs),
                         *[_mean(cell, n) for cell in cells], _plain(source) + (f" {LOOK_AGAIN}" if found else "")])
            place = places.get((method, epochs))
            if kind == PAPER and place is not None:
                differences = [_difference(cell, reported[place].values.get(metric))
                               for cell, metric in zip(cells, metrics, strict=True)]
                rows.append([f"{_plain(method)}: measured - paper", _epochs(epochs), *differences, "difference"])
    return rows, remarks


def _doubts(name: str, group: Group, groups: list[Group], reported: list[ReportedRow], expectations: Expectations
            ) -> list[str]:
    """What the literature and random initialisation under the same setting say against a row."""
    metrics, method = TABLES[name].metrics, group.example["method"]
    values = group.means(metrics)
    found = outside(expectations, name, method, group.example["epochs"], group.example["heads"], values)
    if not method.startswith(RANDOM):
        same = [other for other in groups if other.example["method"] == RANDOM and _setting(other) == _setting(group)
                and other.example["weights"]["architecture"] == group.example["weights"]["architecture"]]
        if not same and group.block[0] == PAPER:
            printed = _printed(reported, RANDOM, None)
            found += [f"{text}, as the paper prints it" for text in below_random(values, printed, metrics)]
        for other in same:
            found += below_random(values, other.means(metrics), metrics)
    return found


def _setting(group: Group) -> str:
    return ", ".join([f"{group.example['heads']} heads", *group.departures])


def _epochs(epochs: int | None) -> str:
    return MISSING if epochs is None else str(epochs)


def _percent(value: Decimal | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


def _mean(cell: tuple[float, float | None, int] | None, n: int) -> str:
    if cell is None:
        return MISSING
    mean, deviation, defined = cell
    text = f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"
    return text if defined == n else f"{text} (n={defined})"


def _difference(cell: tuple[float, float | None, int] | None, value: Decimal | None) -> str:
    if cell is None or value is None:
        return MISSING
    text = f"{cell[0] - float(value):+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def _plain(text: str) -> str:
    """Text that markdown shows as it is: names come from users."""
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # inside a word it is no markup
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _markdown(rows: list[list[str]], metrics: tuple[str, ...]) -> str:
    import pandas as pd

    columns = ["Method", "Epochs", *[metric.replace("_", " ") for metric in metrics], "Source"]
    align = ["left", *["right"] * (len(metrics) + 1), "left"]
    return pd.DataFrame(rows, columns=columns, dtype=object).to_markdown(
        index=False, tablefmt="pipe", disable_numparse=True, colalign=align)


def make_tables(
    results: Path, reported: Path, include_demo: bool = False, tables: Path | None = None
) -> tuple[str, list[str], int]:
    """Write `tables`/*.md (default: `results`/tables).

    Returns the text to show, one line per file left out, and the number of demo results left out.

    `results` holds runs/ (which may be absent), `reported` the CSV files. UserError when either folder is wrong.
    """
    for folder, option in ((results, "--results"), (reported, "--reported")):
        if not folder.is_dir():
            raise UserError(f"expected a folder, found none at {folder}; pass {option} DIR")
    if not (results / "runs").is_dir() and any(results.glob("*.json")):
        raise UserError(f"expected a folder that holds runs/, found result files directly in {results}; "
                        "pass --results with the folder above it")
    rows = read_reported(reported)
    problems: list[str] = []
    hidden = 0

    def good():
        nonlocal hidden
        for path, result, reason in each_result(results / "runs"):
            if result is None:
                problems.append(f"{path.name}: {reason}")
            elif (result["demo"] or result["scale"] == "demo") and not include_demo:
                hidden += 1
            else:
                yield path, result

    groups, replaced = group_results(good())
    by_table: dict[str, list[Group]] = {}
    for group in groups:
        by_table.setdefault(group.example["table"], []).append(group)
    expectations = read_expected(EXPECTED)
    texts = {name: table_text(name, rows.get(name, []), by_table.get(name, []), expectations)
             for name in TABLES if name in rows or name in by_table}
    tables = tables or results / "tables"
    for name, text in texts.items():
        write_text(tables / f"{name}.md", text)
    write_text(tables / "tables.md", "# Tables\n\n" + "\n".join(texts.values()))
    shown = "\n".join(text for name, text in texts.items() if TABLES[name].in_poster or name in by_table)
    return shown, problems + replaced, hidden


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make_tables.py", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR",
                        help="folder with runs/*.json; the tables go to its tables/ (default: the project's results/)")
    parser.add_argument("--reported", type=Path, default=ROOT / "results" / "reported", metavar="DIR",
                        help="folder with the papers' figures, one CSV per table")
    parser.add_argument("--include-demo", action="store_true", help="show demo results too, in blocks of their own")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a result file had to be left out")
    options = parser.parse_args(arguments)
    try:
        import pandas  # noqa: F401
        import tabulate  # noqa: F401
    except ImportError as error:
        raise UserError(f"expected pandas and tabulate, found no {error.name}; run: "
                        f"{sys.executable} -m pip install pandas tabulate") from None
    shown, problems, hidden = make_tables(options.results, options.reported, options.include_demo)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    print(shown)
    if hidden:
        print(f"{hidden} demo result{'s' if hidden > 1 else ''} left out; --include-demo shows them")
    print(f"written: {options.results / 'tables'}")
    sys.stdout.flush()
    for problem in problems:
        print(f"warning: left out {problem}", file=sys.stderr)
    return 1 if problems and options.strict else 0


if __name__ == "__main__":
    run_cli(main)
