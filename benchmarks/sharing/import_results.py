"""`python -m benchmarks import FILE`: a bundle of this suite, or metrics made elsewhere, into results/."""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.records import coco_results
from benchmarks.records.imported import from_metrics_json, write_imported
from benchmarks.records.record_kinds import KINDS, parse_members, put
from benchmarks.records.results import EPOCHS, TEXT, read_sealed
from benchmarks.sharing.bundle import read_archive
from pretrain import ROOT
from pretrain.common.errors import UserError
from transfer.tasks import TASKS, Task


def build_parser() -> argparse.ArgumentParser:
    """The options of `python -m benchmarks import`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks import",
        description="Reads a bundle (.tar.gz), detectron2's metrics.json, or a COCO result file with its annotations. "
                    "Metrics made elsewhere get rows of their own, marked as imported.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR",
                        help="where to (default: the project's results/)")
    parser.add_argument("--method", metavar="NAME", help="the row's name; not for a bundle")
    parser.add_argument("--task", choices=list(TASKS), help="the table; not for a bundle")
    parser.add_argument("--epochs", type=int, metavar="N", help="of the pretraining (default: not stated)")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="ground truth of a COCO result file")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Import the file; returns the exit code."""
    options = build_parser().parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # names may hold letters that the terminal's encoding lacks
    if not options.file.is_file():
        raise UserError(f"{options.file}: no such file")
    if options.results.exists() and not options.results.is_dir():
        raise UserError(f"--results {options.results}: expected a folder, found a file")
    with open(options.file, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        if options.method or options.task or options.epochs is not None or options.annotations:
            raise UserError("a bundle brings its own names: leave out --method, --task, --epochs and --annotations")
        return _bundle(options.file, options.results)
    if not options.method or not options.task:
        raise UserError(f"{options.file} is no bundle: metrics made elsewhere need --method NAME and --task "
                        f"{'|'.join(TASKS)}")
    for option, value, (expected, holds) in (("--method", options.method, TEXT), ("--epochs", options.epochs, EPOCHS)):
        if not holds(value):
            raise UserError(f"{option} {value!r}: expected {expected.removesuffix(' or null')}")
    if options.annotations is not None and not options.annotations.is_file():
        raise UserError(f"--annotations {options.annotations}: no such file")
    task = TASKS[options.task]
    metrics = _metrics(options.file, options.annotations, task)
    path = write_imported(options.results / "imported", options.file, task, options.method, options.epochs, metrics,
                          options.annotations)
    shown = []
    for column in task.columns:
        value = metrics.get(column.metric)
        shown.append(f"{column.name} {'-' if value is None else f'{value:.1f}'}")
    print(f"{options.method}: {', '.join(shown)}\nwrote {path}; its row is marked as imported")
    return 0


def _metrics(path: Path, annotations: Path | None, task: Task) -> dict[str, float | None]:
    try:
        is_list = isinstance(json.loads(path.read_bytes()), list)
    except (ValueError, RecursionError):  # a metrics.json is one object a line
        is_list = False
    if not is_list:
        if annotations is not None:
            raise UserError(f"--annotations goes with a COCO result file, a JSON list; {path} is none")
        return from_metrics_json(path, task)
    if annotations is None:
        raise UserError(f"{path} is a COCO result file: give the ground truth with --annotations FILE")
    return coco_results.evaluate(path, annotations, task)


def _bundle(path: Path, folder: Path) -> int:
    """Copy the records of a bundle, all or none; those that are here already are left alone."""
    try:
        records = parse_members(read_archive(path))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}; nothing was imported") from None
    if not any(records.values()):
        raise UserError(f"{path} holds no results: expected {', '.join(KINDS)} in it; nothing was imported")
    new: dict[str, dict[str, dict]] = {}
    for name, kind in KINDS.items():
        here = read_sealed(folder / name, kind.parse)[0]
        before, figures = {record["digest"] for record in here}, {kind.file_name(one): _figures_of(one) for one in here}
        new[name] = {kind.file_name(record): record for record in records[name] if record["digest"] not in before
                     and not (name != "runs" and figures.get(kind.file_name(record)) == _figures_of(record))}
        taken = [file for file in new[name] if (folder / name / file).exists()]
        if taken:
            raise UserError(f"{len(taken)} {'results' if name == 'runs' else name} of {path} are here already with "
                            f"other content, first {taken[0]}: move yours away, or import into another folder with "
                            "--results DIR; nothing was imported")
    written: list[Path] = []
    try:
        for name, files in new.items():
            for file, record in files.items():
                put(folder, name, record)
                written.append(folder / name / file)
    except OSError:  # a full disk
        for path in written:
            path.unlink(missing_ok=True)
        raise
    results, all_results = len(new["runs"]), len(records["runs"])
    more = [f", {len(new[name])} of {len(records[name])} {name}" for name in KINDS if name != "runs" and records[name]]
    print(f"imported {results} of {all_results} results{''.join(more)} into {folder} ({all_results - results} results "
          "were there)")
    return 0


def _figures_of(record: dict) -> dict:
    """A record without when and by whom it was made, which differ between two imports of the same file."""
    return {key: value for key, value in record.items()
            if key not in ("digest", "imported", "made", "tool_version", "anonymous")}
