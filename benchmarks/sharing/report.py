"""`clove report`: everything that was measured on one page that needs no network.

Tables with the provenance of each measured row behind a click, curves of the pretrainings, losses
and early metrics of the fine-tunings, the images that the stages left, and the environments. A
reader of files: it runs nothing.
"""

import argparse
import base64
import html
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from markupsafe import Markup

from benchmarks.formats.all_tables import read_tables
from benchmarks.formats.html_table import html_text
from benchmarks.formats.provenance_text import hardware_text, items_text, trial_provenance
from benchmarks.records.paper_tables import main_columns
from benchmarks.records.results import read_results
from benchmarks.tables.probe_table import probe_table
from benchmarks.tables.table_model import IMPORTED, Row, TableModel
from pretrain import PLACE, PRINTED
from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError
from pretrain.common.fields import is_number
from pretrain.common.json_lines import read_entries
from transfer.tasks import TASKS

# What a stage's folder may hold, in the order shown, with its caption.
IMAGES = {
    "curves.png": "curves of the pretraining",
    "views.png": "views of an image and their matched cells",
    "show.png": "views, positive cells, hardest negatives, attention",
    "probe.png": "what the frozen backbone's probe predicts",
    "predictions.png": "ground truth and predictions",
}
WIDEST = 1400  # pixels: images are shrunk to this
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1340px; margin: 2em auto; padding: 0 1em; color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: 3px 10px; text-align: right; }
th { border-top: 2px solid #222; border-bottom: 1px solid #222; }
td { white-space: nowrap; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
td:first-child, td:last-child { white-space: normal; min-width: 12em; }
tr.printed { color: #666; } tr.measured { background: #eef6ee; } tr.difference { color: #555; font-size: 90%; }
tr.divider td { border-top: 1px solid #222; } table tr:last-child td { border-bottom: 2px solid #222; }
ul.doubts { color: #a33; } details pre { font-size: 12px; white-space: pre-wrap; text-align: left; background: #f6f6f6;
padding: 8px; } figure { margin: 1em 0; } figure img { max-width: 100%; border: 1px solid #ddd; }
figcaption { color: #555; } nav a { margin-right: 1em; } .scroll { overflow-x: auto; }
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of `clove report`."""
    parser = argparse.ArgumentParser(
        prog="clove report",
        description="One self-contained HTML page: tables, curves, images, provenance, environments.")
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
    if not results.is_dir():
        raise UserError(f"expected a folder of results, found none at {results}; pass --output or --results DIR")
    path = options.file or results / "tables" / "report.html"
    if path.is_dir():
        raise UserError(f"--file {path}: expected the name of the page, found a folder; pass {path / 'report.html'}")
    write_text(path, page(output, results, options.include_demo))
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def page(output: Path, results: Path, include_demo: bool = False) -> str:
    """The HTML of the whole report. `output` holds the stages' folders and may be absent."""
    found = read_tables(results, PRINTED / "reported", include_demo)

    def provenance(row: Row) -> str:
        return "\n".join(trial_provenance(results / "runs", place, trial) for place, trial in row.group.trials.items())

    shown = [table for table in found.tables if any(row.group or row.kind == IMPORTED for row in table.rows())]
    tables = ""
    if not shown:
        tables = "<p>Nothing has been measured yet: these are printed metrics.</p>"
    for table in shown or found.tables:
        more = {id(row): Markup(f"<pre>{html.escape(provenance(row))}</pre>") for row in table.rows() if row.group}
        tables += html_text(table, more)
    probes, left_out = "", ""
    if found.probes:
        probes = html_text(probe_table(found.probes))
    stages, problems = stage_folders(output), list(found.problems)
    finetunings, images = "".join(_finetuning_figures(stages, problems)), "".join(_images(stages, problems))
    if problems:
        items = "".join(f"<li>{html.escape(problem)}</li>" for problem in problems)
        left_out = f"<ul class=\"doubts\">{items}</ul>"
    sections = {"Tables": tables, "Figure": _dot_plot(shown), "Probes": probes, "Left out": left_out,
                "Fine-tunings": finetunings, "Images": images,
                "Environments": _environments(results)}
    sections = {title: text for title, text in sections.items() if text}
    links = " ".join(f'<a href="#{title}">{title}</a>' for title in sections)
    body = "".join(f'<h2 id="{title}">{title}</h2>\n{text}\n' for title, text in sections.items())
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>CLoVE suite: report</title>\n'
            f'<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>CLoVE suite: report</h1>\n'
            f"<nav>{links}</nav>\n{body}</body>\n</html>\n")


def stage_folders(output: Path) -> list[tuple[str, Path]]:
    """(name, folder) of every finished stage in `output`, in the order in which they ended."""
    stamps = []
    for path in output.glob("*/stage.json"):
        with suppress(OSError, ValueError, KeyError):  # a stage that is just being written has nothing to show yet
            stamp = json.loads(path.read_text(encoding="utf-8"))
            stamps.append((stamp["ended"], stamp["name"], path.parent))
    return [(name, folder) for _, name, folder in sorted(stamps)]


def _images(stages: list[tuple[str, Path]], problems: list[str]) -> Iterator[str]:
    """The figures of each stage; one that cannot be read is added to `problems`."""
    for name, folder in stages:
        for file, caption in IMAGES.items():
            if (folder / file).is_file():
                try:
                    yield _figure(_embedded(folder / file), f"{name}: {caption}")
                except (OSError, ValueError, SyntaxError) as error:  # of PIL
                    problems.append(f"{file} of {name}: {type(error).__name__}: {str(error).partition('/')[0]}")


def _dot_plot(tables: list[TableModel]) -> str:
    from benchmarks.formats.dot_plot import dot_plot, saved

    figure = dot_plot(tables)
    if figure is None:
        return ""
    source = "data:image/svg+xml;base64," + base64.b64encode(saved(figure, "svg")).decode("ascii")
    return _figure(source, "mean of each method with its 95 % interval, and its paired difference")


def _figure(source: str, caption: str) -> str:
    text = html.escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>\n'


def _embedded(path: Path) -> str:
    """An image as a data address, no wider than WIDEST; WebP is a third of the PNG."""
    from PIL import Image

    with Image.open(path) as stored:
        image = stored.convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _finetuning_figures(stages: list[tuple[str, Path]], problems: list[str]) -> Iterator[str]:
    """One figure a task: the loss of each of its runs, and their early metrics where some were
    taken. A run whose files cannot be read is added to `problems`."""
    runs: dict[str, list[tuple[str, list[dict]]]] = {}
    for name, folder in stages:
        if (folder / "metrics.json").is_file() and (folder / "request.json").is_file():
            try:
                task = json.loads((folder / "request.json").read_text(encoding="utf-8"))["task"]
                runs.setdefault(str(task), []).append((name, read_entries(folder / "metrics.json")))
            except (OSError, ValueError, KeyError, TypeError) as error:
                problems.append(f"the curves of {name}: {type(error).__name__} in request.json or metrics.json")
    for task, members in sorted(runs.items()):
        yield _figure(_drawn(members, early_keys(task)), f"{task}: loss and early metrics over iterations")


def early_keys(task: str) -> dict[str, str]:
    """{key that early evaluations write it under: name} of each main column of a task; none for a
    task not known here."""
    if task not in TASKS:
        return {}
    metrics = {column.name: column.metric for column in TASKS[task].columns}
    return {f"early/{metrics[name]}": name for name in main_columns(TASKS[task])}


def _drawn(members: list[tuple[str, list[dict]]], early: dict[str, str]) -> str:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    logged = set()
    for _, entries in members:
        logged.update(*entries)
    drawn = {"total_loss": "training loss"}
    for key, name in early.items():
        if key in logged:
            drawn[key] = f"{name} (percent)"
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axis, (key, title) in zip(axes, drawn.items(), strict=True):
        for label, entries in members:
            places, values = [], []
            for entry in entries:
                if is_number(entry.get(key)) and is_number(entry.get("iteration")):
                    places.append(entry["iteration"])
                    values.append(entry[key])
            axis.plot(places, values, label=label, marker="." if len(values) < 40 else "")
        axis.set_xlabel("iteration")
        axis.set_title(title, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _environments(results: Path) -> str:
    """Every distinct environment that gave a result, with how many."""
    counts: Counter[str] = Counter()
    for result in read_results(results / "runs")[0]:
        versions = {name: version for name, version in result["versions"].items() if version}
        code = str(result["code"].get("git_sha"))[:12]
        if result["code"].get("dirty"):
            code += " with changes"
        counts[f"{items_text(versions)}; {hardware_text(result['hardware'])}; code {code}"] += 1
    return "".join(f"<p>{count} result{'s' * (count > 1)}: {html.escape(text)}</p>\n"
                   for text, count in sorted(counts.items()))
