"""All tables: read from results/, written as markdown, LaTeX, HTML and CSV, printed."""

import argparse
import importlib
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.formats.csv_table import csv_frame
from benchmarks.formats.latex_table import latex
from benchmarks.formats.markdown import markdown
from benchmarks.formats.terminal_table import terminal
from benchmarks.formats.why import why
from benchmarks.records import comparisons, imported
from benchmarks.records.expected_values import read_expected
from benchmarks.records.imported import read_known
from benchmarks.records.paper_tables import unknown_task
from benchmarks.records.probe_results import read_probes
from benchmarks.records.reported import read_reported
from benchmarks.records.results import PROVES_NOTHING, current, each_file, problems_of
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


@dataclass
class Tables:
    """All tables; one line per result file left out, and how many demo results are not shown.

    `probes` are those of frozen backbones that are shown; `hidden_predictions` hashes of the
    predictions of results that are not.
    """

    tables: list[TableModel] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    hidden: int = 0
    probes: list[dict] = field(default_factory=list)
    hidden_predictions: set[str] = field(default_factory=set)

    def shown(self) -> str:
        """The poster's tables and those with measured rows: plain text for a terminal, else
        markdown."""
        texts = []
        for table in with_probes(self.tables, self.probes):
            if table.is_printed() and not table.in_poster:
                continue
            if sys.stdout.isatty():
                texts.append(terminal(table, shutil.get_terminal_size().columns))
            else:
                texts.append(markdown(table))
        return "\n".join(texts)

    def show(self) -> None:
        """Print them, how many demo results are not among them, and what was left out."""
        print(self.shown())
        if self.hidden:
            print(f"{self.hidden} demo result{'s' * (self.hidden > 1)} left out; --include-demo shows them")
        sys.stdout.flush()
        for problem in self.problems:
            print(f"warning: left out {problem}", file=sys.stderr)


def read_tables(
    results: Path, reported: Path, include_demo: bool = False, against: str | None = None
) -> Tables:
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
    found = Tables(problems=problems)
    groups, replaced = group_results(_shown_runs(results / "runs", include_demo, found))
    theirs, wrong = read_known(
        results / "imported", imported.validate, "metrics", "import them again")
    compared, wrong_compared = read_known(
        results / "comparisons", comparisons.validate, "outcome", "compare again")
    found.problems += replaced + wrong + wrong_compared
    _note_without_place(compared, groups, found)

    expected = read_expected(EXPECTED)
    if groups and not theirs and all(group.block[0] == OWN_DATA for group in groups):
        rows = {}  # no paper measured on such data: its rows say nothing beside ours
    for name, task in TASKS.items():
        known = Known(task, rows.get(task.table.name, []), [group for group in groups if group.example["task"] == name],
                      expected, [row for row in theirs if row["task"] == name], compared)
        if known.reported or known.groups or known.imported:
            found.tables.append(build_table(known))
    add_differences(found.tables, against)
    probes, wrong = read_probes(results / "probes")
    found.problems += wrong
    for probe in probes:
        if include_demo or not probe["demo"]:
            found.probes.append(probe)
        else:
            found.hidden += 1
    return found


def _shown_runs(folder: Path, include_demo: bool, found: Tables) -> Iterator[tuple[Path, dict]]:
    """Yield the results of a folder that are shown, read one by one; what is not shown is noted in
    `found`."""
    for path, stored, reason in each_file(folder, problems_of):
        if stored is None:
            found.problems.append(f"{path.name}: {reason}")
            continue
        result = current(stored)
        if result["task"] not in TASKS:
            found.problems.append(f"{path.name}: {unknown_task(result['task'])}")
        elif include_demo or not (result["demo"] or result["scale"] in PROVES_NOTHING):
            yield path, result
        else:
            found.hidden += 1
            if result.get("predictions"):
                found.hidden_predictions.add(result["predictions"]["sha256"])


def _note_without_place(compared: list[dict], groups: list[Group], found: Tables) -> None:
    """Note in `found` each comparison that no block can show, or that only waits for demo results
    to be shown."""
    blocks: dict[tuple, list[Group]] = defaultdict(list)
    for group in groups:
        blocks[group.example["task"], group.block].append(group)
    for one in compared:
        name = comparisons.file_name(one)
        if any(one["task"] == task and stands_in(one, members) for (task, _), members in blocks.items()):
            continue
        if found.hidden_predictions.intersection(one["predictions_sha256"]):
            found.hidden += 1
        elif stands_in(one, groups):
            found.problems.append(f"{name}: its two results stand in different blocks, which are not compared")
        else:
            found.problems.append(f"{name}: not both of its results are among those shown")


def write_tables(tables: list[TableModel], folder: Path, probes: Sequence[dict] = ()) -> None:
    """Each table, and that of the probes, as .md, .tex and .html; all in tables.md, every value in
    tables.csv.

    UserError when `folder` is a file.
    """
    _check_is_folder(folder)
    tables = with_probes(tables, probes)
    formats: dict[str, Callable[[TableModel], str]] = {".md": markdown, ".tex": latex}
    try:
        from benchmarks.formats.html_table import html_text
        formats[".html"] = html_text
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "markupsafe"):
            raise
        print("no .html files: they need jinja2, which is not installed")
    for ending, written in formats.items():
        for table in tables:
            write_text(folder / f"{table.name}{ending}", written(table))
    texts = [markdown(table) for table in tables]
    write_text(folder / "tables.md", "# Tables\n\n" + "\n".join(texts))
    write_text(folder / "tables.csv", csv_frame(tables).to_csv(index=False))


def with_probes(tables: Sequence[TableModel], probes: Sequence[dict]) -> list[TableModel]:
    """The tables, and that of the probes where there are some."""
    if not probes:
        return list(tables)
    return [*tables, probe_table(list(probes))]


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
    parser.add_argument("--include-demo", action="store_true",
                        help="show demo results too, in blocks of their own")
    parser.add_argument("--strict", action="store_true",
                        help="exit with 1 when a result file had to be left out")
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
    for line in contrasts:
        print(line)
    print(f"written: {options.results / 'tables'}")
    if options.figure:
        from benchmarks.formats.dot_plot import write_figure
        print(f"written: {', '.join(map(str, write_figure(found.tables, options.figure)))}")
    return int(options.strict and bool(found.problems))
