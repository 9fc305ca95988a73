"""All tables: read from results/, written as markdown, LaTeX, HTML and CSV, printed."""

import argparse
import importlib
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.formats.csv_table import csv_frame
from benchmarks.formats.latex_table import latex
from benchmarks.formats.markdown import markdown
from benchmarks.formats.terminal_table import terminal
from benchmarks.formats.why import why
from benchmarks.records.comparisons import Comparison, read_comparisons
from benchmarks.records.expected_values import read_expected
from benchmarks.records.imported import read_imported
from benchmarks.records.paper_tables import unknown_task
from benchmarks.records.probe_results import read_probes
from benchmarks.records.reported import read_reported
from benchmarks.records.results import PROVES_NOTHING, each_file, parse_result
from benchmarks.tables.differences import add_differences, contrast_lines
from benchmarks.tables.probe_table import probe_table
from benchmarks.tables.table_model import TableModel
from benchmarks.tables.table_rows import Known, build_table, stands_in
from benchmarks.tables.trial_groups import OWN_DATA, Group, group_results
from pretrain import PLACE, PRINTED
from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError, refuse
from transfer.tasks import TASKS

DESCRIPTION = "Reported and measured results -> markdown, LaTeX, HTML and CSV."
EXPECTED = PRINTED / "expected.csv"


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
        """The poster's tables and those with measured rows: plain text for a terminal, else markdown."""
        form = markdown
        if sys.stdout.isatty():
            form = partial(terminal, width=shutil.get_terminal_size().columns)
        tables = with_probes(self.tables, self.probes)
        return "\n".join(form(table) for table in tables if table.in_poster or not table.is_printed())

    def show(self) -> None:
        """Print them, how many demo results are not among them, and what was left out."""
        print(self.shown())
        if self.hidden:
            print(f"{self.hidden} demo result{'s' * (self.hidden > 1)} left out; --include-demo shows them")
        sys.stdout.flush()
        for problem in self.problems:
            print(f"warning: left out {problem}", file=sys.stderr)


def read_tables(results: Path, reported: Path, include_demo: bool = False, against: str | None = None) -> Tables:
    """All tables of `results` (holds runs/, which may be absent) and `reported` (the CSV files).

    `against`: the row that measured rows are compared with (default: the random start). UserError
    when either folder is wrong or `against` is not a row.
    """
    refuse(
        (not results.is_dir(), f"expected a folder, found none at {results}; pass --results DIR"),
        (not reported.is_dir(), f"expected a folder, found none at {reported}; pass --reported DIR"),
        (not (results / "runs").is_dir() and any(results.glob("*.json")),
         f"expected a folder that holds runs/, found result files directly in {results}; pass --results with the "
         "folder above it"))
    for name in ("runs", "probes", "imported", "comparisons"):
        _check_is_folder(results / name)
    rows, problems = read_reported(reported)
    runs = Runs(results / "runs", include_demo)
    groups, replaced = group_results(runs)
    imported, wrong_imported = read_imported(results / "imported")
    comparisons, wrong_comparisons = read_comparisons(results / "comparisons")
    nowhere, waiting = _without_place(comparisons, groups, runs.hidden_predictions)
    all_probes, wrong_probes = read_probes(results / "probes")
    problems += runs.problems + replaced + wrong_imported + wrong_comparisons + nowhere + wrong_probes

    expectations = read_expected(EXPECTED)
    if groups and not imported and all(group.block[0] == OWN_DATA for group in groups):
        rows = {}  # no paper measured on such data: its rows say nothing beside ours
    tables = []
    for name, task in TASKS.items():
        known = Known(task, rows.get(task.table.name, []), [group for group in groups if group.example["task"] == name],
                      expectations, [row for row in imported if row.task == name], comparisons)
        if known.reported or known.groups or known.imported:
            tables.append(build_table(known))
    probes = [probe for probe in all_probes if include_demo or not probe["demo"]]
    hidden = runs.hidden + len(all_probes) - len(probes) + waiting
    add_differences(tables, against)
    return Tables(tables, problems, hidden, probes)


def _without_place(comparisons: list[Comparison], groups: list[Group], hidden: set[str]
                   ) -> tuple[list[str], int]:
    """(one line for each comparison that no block can show, how many only wait for demo results to
    be shown).

    `hidden`: hashes of the predictions of results that are not shown.
    """
    blocks: dict[tuple, list[Group]] = defaultdict(list)
    for group in groups:
        blocks[group.example["task"], group.block].append(group)
    lines, waiting = [], 0
    for one in comparisons:
        if any(one.task == task and stands_in(one, members) for (task, _), members in blocks.items()):
            continue
        if one.predictions & hidden:
            waiting += 1
        elif stands_in(one, groups):
            lines.append(f"{one.file}: its two results stand in different blocks, which are not compared")
        else:
            lines.append(f"{one.file}: not both of its results are among those shown")
    return lines, waiting


@dataclass
class Runs:
    """The results of a folder that are shown, read one by one; what is not shown is noted on the
    way."""

    folder: Path
    include_demo: bool
    problems: list[str] = field(default_factory=list)
    hidden: int = 0
    hidden_predictions: set[str] = field(default_factory=set)

    def __iter__(self) -> Iterator[tuple[Path, dict]]:
        for path, result, reason in each_file(self.folder, parse_result):
            if result is None:
                self.problems.append(f"{path.name}: {reason}")
            elif result["task"] not in TASKS:
                self.problems.append(f"{path.name}: {unknown_task(result['task'])}")
            elif self.include_demo or not (result["demo"] or result["scale"] in PROVES_NOTHING):
                yield path, result
            else:
                self.hidden += 1
                if result.get("predictions"):
                    self.hidden_predictions.add(result["predictions"]["sha256"])


def write_tables(tables: list[TableModel], folder: Path, probes: Sequence[dict] = ()) -> None:
    """Each table, and that of the probes, as .md, .tex and .html; all in tables.md, every value in
    tables.csv.

    UserError when `folder` is a file.
    """
    _check_is_folder(folder)
    tables = with_probes(tables, probes)
    for ending, written in _formats().items():
        for table in tables:
            write_text(folder / f"{table.name}{ending}", written(table))
    write_text(folder / "tables.md", "# Tables\n\n" + "\n".join(map(markdown, tables)))
    write_text(folder / "tables.csv", csv_frame(tables).to_csv(index=False))


def _formats() -> dict[str, Callable[[TableModel], str]]:
    """What writes a table, by the ending of its file; HTML where jinja2 is installed."""
    formats = {".md": markdown, ".tex": latex}
    try:
        from benchmarks.formats.html_table import html_text
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "markupsafe"):
            raise
        print("no .html files: they need jinja2, which is not installed")
        return formats
    return {**formats, ".html": html_text}


def with_probes(tables: Sequence[TableModel], probes: Sequence[dict]) -> list[TableModel]:
    """The tables, and that of the probes where there are some."""
    return [*tables, *([probe_table(list(probes))] if probes else [])]


def _check_is_folder(path: Path) -> None:
    """UserError for a path that exists and is not a folder: read as an empty one it would hide what
    was measured."""
    refuse((os.path.lexists(path) and not path.is_dir(),
            f"expected a folder at {path}, or nothing, found something else; move it away or pass another --results "
            "DIR"))


def build_parser() -> argparse.ArgumentParser:
    """The options of `python benchmarks/make_tables.py`."""
    parser = argparse.ArgumentParser(prog="clove tables", description=DESCRIPTION)
    parser.add_argument("--results", type=Path, default=PLACE / "results", metavar="DIR",
                        help="folder with runs/*.json; the tables go to its tables/ (default: the project's results/)")
    parser.add_argument("--reported", type=Path, default=PRINTED / "reported", metavar="DIR",
                        help="folder with the papers' metrics, one CSV per table")
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
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = build_parser().parse_args(arguments)
    needed = ["pandas", "tabulate"]
    if options.figure:
        needed.append("matplotlib")
    try:
        for name in needed:
            importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"expected {' and '.join(needed)}, found no {error.name}; run: "
                        f"{sys.executable} -m pip install {' '.join(needed)}") from None
    if options.results == PLACE / "results":
        options.results.mkdir(exist_ok=True)  # outside a checkout there is none at first
    found = read_tables(options.results, options.reported, options.include_demo, options.against)
    if options.why is not None:
        print(why(options.why, found.tables, options.results, found.probes))
        return 0
    contrasts = contrast_lines(found.tables, options.contrast)
    write_tables(found.tables, options.results / "tables", found.probes)
    found.show()
    print("".join(f"{line}\n" for line in contrasts), end="")
    print(f"written: {options.results / 'tables'}")
    if options.figure:
        from benchmarks.formats.dot_plot import write_figure
        print(f"written: {', '.join(map(str, write_figure(found.tables, options.figure)))}")
    return int(options.strict and bool(found.problems))
