"""`clove report`: its options, and the values of the page, which html/page.html lays out. It runs nothing."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from benchmarks.formats.all_tables import read_tables, with_probes
from benchmarks.formats.html_table import html_text, render
from benchmarks.report import charts, side_by_side, stages, summary
from benchmarks.report.provenance import measured
from pretrain import PLACE, PRINTED, __version__
from pretrain.common.atomic import write_text
from pretrain.common.errors import refuse


def build_parser() -> argparse.ArgumentParser:
    """The options of `clove report`."""
    parser = argparse.ArgumentParser(
        prog="clove report",
        description="One self-contained HTML page: summary, intervals, tables, curves, images, provenance.")
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="folder of a run: stages in it, results in its results/ "
                             "(default: the project's output/ and results/)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="folder that holds runs/, where it is another one")
    parser.add_argument("--file", type=Path, metavar="FILE", help="the page (default: report.html beside the tables)")
    parser.add_argument("--include-demo", action="store_true", help="show demo results too")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    options = build_parser().parse_args(arguments)
    output = options.output or PLACE / "output"
    results = options.results or (output / "results" if options.output else PLACE / "results")
    refuse((not results.is_dir(),
            f"expected a folder of results, found none at {results}; pass --output or --results DIR"))
    path = options.file or results / "tables" / "report.html"
    refuse((path.is_dir(),
            f"--file {path}: expected the name of the page, found a folder; pass {path / 'report.html'}"))
    write_text(path, page(output, results, options.include_demo, path))
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def page(output: Path, results: Path, include_demo: bool = False, path: Path | None = None) -> str:
    """The HTML of the whole report. `output` holds the stages' folders and may be absent; `path`:
    where the page will lie, for its links (default: beside the tables)."""
    found = read_tables(results, PRINTED / "reported", include_demo)
    problems = list(found.problems)
    shown = [table for table in found.tables if not table.is_printed()]
    tables = summary.shortened(shown or found.tables)
    made = measured(found.tables, tables, results / "runs")
    finished = stages.stage_folders(output)
    roots = [output, results]
    if output.absolute().parent == results.absolute().parent:  # as in the project
        roots.append(output.absolute().parent)
    link = links(path or results / "tables" / "report.html", roots)
    more = {}
    for row, facts in made["rows"].items():
        more[row] = Markup(render("facts.html", facts=facts, link=link, runs=results / "runs"))
    values = {
        "tables": tables, "probes": with_probes([], found.probes), "html_text": html_text, "more": more,
        "lines": summary.lines(tables), "plots": summary.plots(tables),
        "pretrainings": stages.pretrainings(finished, problems), "finetunings": stages.finetunings(finished, problems),
        "comparisons": side_by_side.comparisons(finished, problems), "figures": stages.figures(finished, problems),
    }
    text = "\n".join(problems)
    for place in (results.absolute(), results, output.absolute(), output):  # of this machine
        text = text.replace(f"{place}{os.sep}", "")
    return render("page.html", made=made, nothing=not shown, models=len(found.probes), hidden=found.hidden,
                  problems=text.splitlines(), link=link, folders=finished, charts=charts, output=output,
                  version=__version__, **values)


def links(page: Path, roots: list[Path]) -> Callable[[Path], str]:
    """What makes the address of a file for the page, with / at the end of a folder's; "" where it
    or the page lies outside of `roots`: a relative path from elsewhere would name folders that are
    nobody's business."""
    folder = page.absolute().parent

    def link(path: Path) -> str:
        path = path.absolute()
        for root in roots:
            if folder.is_relative_to(root.absolute()) and path.is_relative_to(root.absolute()):
                return quote(os.path.relpath(path, folder)) + "/" * path.is_dir()
        return ""

    return link
