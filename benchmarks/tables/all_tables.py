"""All tables: read from results/, written as markdown, LaTeX, HTML and CSV, printed."""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.records.comparisons import read_comparisons
from benchmarks.records.imported import read_imported
from benchmarks.records.paper_tables import unknown_task
from benchmarks.records.probe_results import read_probes
from benchmarks.records.reported import read_reported
from benchmarks.records.results import PROVES_NOTHING, each_result
from benchmarks.tables.comparison_places import without_place
from benchmarks.tables.contrasts import contrast_lines
from benchmarks.tables.differences import with_differences
from benchmarks.tables.probe_table import NAME as PROBES
from benchmarks.tables.probe_table import probes_html, probes_latex, probes_text
from benchmarks.tables.render import csv_frame, html_text, latex, markdown
from benchmarks.tables.suspicious_rows import read_expected
from benchmarks.tables.table_rows import IMPORTED, MEASURED, TableModel, build_table
from benchmarks.tables.trial_groups import OWN_DATA, Group, group_results
from benchmarks.tables.why import why
from pretrain import ROOT
from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError
from transfer.records.code_hash import finetuning_sha256
from transfer.tasks import TASKS

DESCRIPTION = "Reported and measured results -> markdown, LaTeX, HTML and CSV."
EXPECTED = ROOT / "results" / "expected.csv"


@dataclass(frozen=True)
class Tables:
    """All tables; one line per result file left out, and how many demo results are not shown.

    `probes` are those of frozen backbones that are shown.
    """

    tables: list[TableModel]
    problems: list[str]
    hidden: int
    probes: list[dict] = field(default_factory=list)

    def shown(self) -> str:
        """The poster's tables and those with measured rows, as markdown."""
        shown = [markdown(table) for table in self.tables if table.in_poster
                 or any(row.kind in (MEASURED, IMPORTED) for block in table.blocks for row in block.rows)]
        return "\n".join([*shown, *filter(None, [probes_text(self.probes)])])


def read_tables(results: Path, reported: Path, include_demo: bool = False, against: str | None = None) -> Tables:
    """All tables of `results` (holds runs/, which may be absent) and `reported` (the CSV files).

    `against`: the row that measured rows are compared with (default: the random start). UserError when either folder
    is wrong or `against` is no row.
    """
    for folder, option in ((results, "--results"), (reported, "--reported")):
        if not folder.is_dir():
            raise UserError(f"expected a folder, found none at {folder}; pass {option} DIR")
    if not (results / "runs").is_dir() and any(results.glob("*.json")):
        raise UserError(f"expected a folder that holds runs/, found result files directly in {results}; "
                        "pass --results with the folder above it")
    for name in ("runs", "probes", "imported", "comparisons"):
        _refuse_no_folder(results / name)
    rows, problems = read_reported(reported)
    hidden = 0
    hidden_predictions: set[str] = set()

    def good() -> Iterator[tuple[Path, dict]]:
        nonlocal hidden
        for path, result, reason in each_result(results / "runs"):
            if result is None:
                problems.append(f"{path.name}: {reason}")
            elif result["task"] not in TASKS:
                problems.append(f"{path.name}: {unknown_task(result['task'])}")
            elif (result["demo"] or result["scale"] in PROVES_NOTHING) and not include_demo:
                hidden += 1
                if result.get("predictions"):
                    hidden_predictions.add(result["predictions"]["sha256"])
            else:
                yield path, result

    groups, replaced = group_results(good())
    by_task: dict[str, list[Group]] = {}
    for group in groups:
        by_task.setdefault(group.example["task"], []).append(group)
    imported, more = read_imported(results / "imported")
    expectations = read_expected(EXPECTED)
    if groups and not imported and all(group.block[0] == OWN_DATA for group in groups):
        rows = {}  # no paper measured on such data: its rows say nothing beside ours
    comparisons, others = read_comparisons(results / "comparisons")
    nowhere, waiting = without_place(comparisons, groups, hidden_predictions)
    tables = []
    for name, task in TASKS.items():
        elsewhere = [row for row in imported if row.task == name]
        if task.table.name in rows or name in by_task or elsewhere:
            tables.append(build_table(task, rows.get(task.table.name, []), by_task.get(name, []), expectations,
                                      finetuning_sha256(name), elsewhere, comparisons))
    tables = with_differences(tables, against)
    probes, wrong = read_probes(results / "probes")
    chosen = [probe for probe in probes if include_demo or not probe["demo"]]
    hidden += len(probes) - len(chosen) + waiting
    return Tables(tables, problems + replaced + more + others + nowhere + wrong, hidden, chosen)


def write_tables(tables: list[TableModel], folder: Path, probes: list[dict] | None = None) -> None:
    """Each table, and that of the probes, as .md, .tex and .html; all in tables.md, every figure in tables.csv.

    UserError when `folder` is a file.
    """
    _refuse_no_folder(folder)
    for table in tables:
        for ending, text in ((".md", markdown(table)), (".tex", latex(table)), (".html", html_text(table))):
            write_text(folder / f"{table.name}{ending}", text)
    if probes:
        for ending, made in ((".md", probes_text), (".tex", probes_latex), (".html", probes_html)):
            write_text(folder / f"{PROBES}{ending}", made(probes))
    texts = [*map(markdown, tables), *([probes_text(probes)] if probes else [])]
    write_text(folder / "tables.md", "# Tables\n\n" + "\n".join(texts))
    write_text(folder / "tables.csv", csv_frame(tables).to_csv(index=False))


def _refuse_no_folder(path: Path) -> None:
    """UserError for a path that is there and no folder: read as an empty one it would hide what was measured."""
    if os.path.lexists(path) and not path.is_dir():
        raise UserError(f"expected a folder at {path}, or nothing, found something else; move it away or pass another "
                        "--results DIR")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make_tables.py", description=DESCRIPTION)
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR",
                        help="folder with runs/*.json; the tables go to its tables/ (default: the project's results/)")
    parser.add_argument("--reported", type=Path, default=ROOT / "results" / "reported", metavar="DIR",
                        help="folder with the papers' figures, one CSV per table")
    parser.add_argument("--against", metavar="ROW",
                        help="row that the others are compared with, paired (default: detectron2's random start)")
    parser.add_argument("--contrast", action="append", default=[], metavar="\"ROW - OTHER ROW\"",
                        help="print the paired difference of two rows on each dataset; may be repeated: p is then "
                             "corrected for all of them")
    parser.add_argument("--figure", type=Path, metavar="FILE",
                        help="draw each method's mean with its 95 %% interval into FILE.svg and FILE.png")
    parser.add_argument("--include-demo", action="store_true", help="show demo results too, in blocks of their own")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a result file had to be left out")
    parser.add_argument("--why", metavar="TABLE:ROW:COLUMN",
                        help="print where a cell comes from, such as \"keypoints:CLoVE 200:AP_kp\"; writes nothing")
    options = parser.parse_args(arguments)
    wanted = ["pandas", "tabulate"] + (["matplotlib"] if options.figure else [])
    try:
        for name in wanted:
            importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"expected {' and '.join(wanted)}, found no {error.name}; run: "
                        f"{sys.executable} -m pip install {' '.join(wanted)}") from None
    found = read_tables(options.results, options.reported, options.include_demo, options.against)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    if options.why is not None:
        print(why(options.why, found.tables, options.results, found.probes))
        return 0
    contrasts = contrast_lines(found.tables, options.contrast)
    write_tables(found.tables, options.results / "tables", found.probes)
    print(found.shown())
    if found.hidden:
        print(f"{found.hidden} demo result{'s' if found.hidden > 1 else ''} left out; --include-demo shows them")
    for line in contrasts:
        print(line)
    print(f"written: {options.results / 'tables'}")
    if options.figure:
        from benchmarks.tables.dot_plot import write_figure
        print(f"written: {', '.join(map(str, write_figure(found.tables, options.figure)))}")
    sys.stdout.flush()
    for problem in found.problems:
        print(f"warning: left out {problem}", file=sys.stderr)
    return 1 if found.problems and options.strict else 0
