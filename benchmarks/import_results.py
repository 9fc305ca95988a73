"""`python -m benchmarks import FILE`: a bundle of this suite, or figures made elsewhere, into results/."""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.bundle import read_archive
from benchmarks.imported import SOURCES, from_coco_results, from_metrics_json, write_imported
from benchmarks.make_tables import ROOT
from benchmarks.probe_table import parse_probe, read_probes, write_probe
from benchmarks.results import EPOCHS, TEXT, file_name, parse_result, read_results, write_result
from pretrain.errors import UserError


def build_parser() -> argparse.ArgumentParser:
    """The options of `python -m benchmarks import`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks import",
        description="Reads a bundle (.tar.gz), detectron2's metrics.json, or a COCO result file with its annotations. "
                    "Figures made elsewhere get rows of their own, marked as imported.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR",
                        help="where to (default: the project's results/)")
    parser.add_argument("--method", metavar="NAME", help="the row's name; not for a bundle")
    parser.add_argument("--task", choices=sorted(SOURCES), help="the table; not for a bundle")
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
    with open(options.file, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        if options.method or options.task or options.epochs is not None or options.annotations:
            raise UserError("a bundle brings its own names: leave out --method, --task, --epochs and --annotations")
        return _bundle(options.file, options.results)
    if not options.method or not options.task:
        raise UserError(f"{options.file} is no bundle: figures made elsewhere need --method NAME and --task "
                        f"{'|'.join(sorted(SOURCES))}")
    for option, value, (expected, holds) in (("--method", options.method, TEXT), ("--epochs", options.epochs, EPOCHS)):
        if not holds(value):
            raise UserError(f"{option} {value!r}: expected {expected.removesuffix(' or null')}")
    if options.annotations is not None and not options.annotations.is_file():
        raise UserError(f"--annotations {options.annotations}: no such file")
    metrics = _figures(options.file, options.annotations, options.task)
    path = write_imported(options.results / "imported", options.file, options.task, options.method, options.epochs,
                          metrics, options.annotations)
    shown = ", ".join(f"{name} {'-' if value is None else f'{value:.1f}'}" for name, value in metrics.items())
    print(f"{options.method}: {shown}\nwrote {path}; its row is marked as imported")
    return 0


def _figures(path: Path, annotations: Path | None, task: str) -> dict[str, float | None]:
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
    return from_coco_results(path, annotations, task)


def _bundle(path: Path, folder: Path) -> int:
    """Copy the results and probes of a bundle, all or none; those that are here already are left alone."""
    results, probes, runs = [], [], folder / "runs"
    for name, content in read_archive(path).items():
        if name.startswith("probes/"):
            try:
                probes.append(parse_probe(content))
            except ValueError as error:
                raise UserError(f"{path}: {name} is no good probe ({error}); nothing was imported") from None
        if name.startswith("runs/"):
            result, reason = parse_result(content)
            if result is None:
                raise UserError(f"{path}: {name} is no good result ({reason}); nothing was imported")
            results.append(result)
    before = {result["digest"] for result in read_results(runs)[0]}
    new = {file_name(result): result for result in results if result["digest"] not in before}
    taken = [name for name in new if (runs / name).exists()]
    if taken:
        raise UserError(f"{len(taken)} results of {path} are here already with other content, first {taken[0]}: move "
                        "yours away, or import into another folder with --results DIR; nothing was imported")
    for result in new.values():
        write_result(runs, result)
    there = {probe["digest"] for probe in read_probes(folder / "probes")[0]}
    for probe in probes:
        if probe["digest"] not in there:
            write_probe(folder / "probes", probe)
    print(f"imported {len(new)} of {len(results)} results into {runs} ({len(results) - len(new)} were there)")
    return 0
