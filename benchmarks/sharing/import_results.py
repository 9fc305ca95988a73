"""`clove import FILE`: a bundle of this suite, or metrics made elsewhere, into results/."""

import argparse
import json
from pathlib import Path

from benchmarks.records import coco_results
from benchmarks.records.imported import from_metrics_json, write_imported
from benchmarks.records.record_kinds import KINDS, Records, parse_members, put
from benchmarks.records.results import EPOCHS, TEXT, read_sealed
from benchmarks.sharing.bundle import read_archive
from benchmarks.tables.shown_text import number_text
from pretrain import PLACE
from pretrain.common.errors import UserError, refuse
from transfer.annotations import plain_coco
from transfer.settings.where import add_crowds_as_objects
from transfer.tasks import TASKS

# Differ between two imports of one file.
MADE_ANEW = ("digest", "imported", "made", "tool_version", "anonymous")


def build_parser() -> argparse.ArgumentParser:
    """The options of `clove import`."""
    parser = argparse.ArgumentParser(
        prog="clove import",
        description="Reads a bundle (.tar.gz), detectron2's metrics.json, or a COCO result file with its annotations. "
                    "Metrics made elsewhere get rows of their own, marked as imported.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--results", type=Path, default=PLACE / "results", metavar="DIR",
                        help="where to (default: the project's results/)")
    parser.add_argument("--method", metavar="NAME", help="the row's name; not for a bundle")
    parser.add_argument("--task", choices=list(TASKS), help="the table; not for a bundle")
    parser.add_argument("--epochs", type=int, metavar="N", help="of the pretraining (default: not stated)")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="ground truth of a COCO result file")
    add_crowds_as_objects(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Import the file; returns the exit code."""
    options = build_parser().parse_args(arguments)
    refuse(
        (not options.file.exists(), f"{options.file}: file not found"),
        (options.file.exists() and not options.file.is_file(),
         f"{options.file}: expected a file, found a folder, a FIFO or a device; name the bundle itself"),
        (options.results.exists() and not options.results.is_dir(),
         f"--results {options.results}: expected a folder, found a file"))
    with open(options.file, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        named = options.method or options.task or options.epochs is not None or options.annotations
        refuse((named, "a bundle brings its own names: leave out --method, --task, --epochs and --annotations"))
        _import_bundle(options.file, options.results)
    else:
        _import_metrics(options)
    return 0


def _import_metrics(options: argparse.Namespace) -> None:
    """Metrics made elsewhere become one file, and a row of its own."""
    file, annotations, task = options.file, options.annotations, TASKS.get(options.task)
    try:
        is_list = isinstance(json.loads(file.read_bytes()), list)
    except (ValueError, RecursionError):  # a metrics.json is one object a line
        is_list = False
    refuse(
        (not options.method or not task, f"{file} is not a bundle: metrics made elsewhere need --method NAME and "
                                         f"--task {'|'.join(TASKS)}"),
        (not TEXT[1](options.method), f"--method {options.method!r}: expected {TEXT[0]}"),
        (not EPOCHS[1](options.epochs), f"--epochs {options.epochs}: expected an integer from 0"),
        (annotations is not None and not annotations.is_file(), f"--annotations {annotations}: file not found"),
        (annotations is not None and not is_list,
         f"--annotations goes with a COCO result file: expected a JSON list, found none in {file}"),
        (annotations is None and is_list,
         f"{file} is a COCO result file: pass the ground truth with --annotations FILE"))
    if is_list:
        metrics = coco_results.evaluate(file, annotations, task, options.crowds_as_objects)
    else:
        metrics = from_metrics_json(file, task)
    row = {"task": task.name, "method": options.method, "epochs": options.epochs, "metrics": metrics}
    identity = annotations and plain_coco.sha256(annotations, options.crowds_as_objects)
    path = write_imported(options.results / "imported", row, file, identity)
    shown = [f"{column.name} {number_text(metrics.get(column.metric))}" for column in task.columns]
    print(f"{options.method}: {', '.join(shown)}\nwrote {path}; its row is marked as imported")


def _import_bundle(path: Path, folder: Path) -> None:
    """Copy the records of a bundle, all or none; those that are here already are left alone."""
    members = read_archive(path)
    try:
        records = parse_members(members)
    except ValueError as error:
        raise UserError(f"{path}: {error}; nothing was imported") from None
    refuse((not any(records.values()),
             f"{path} holds no results: expected {', '.join(KINDS)} in it; nothing was imported"))
    new: Records = {}
    for name, kind in KINDS.items():
        here, new[name], taken = {}, [], []
        for record in read_sealed(folder / name, kind.check)[0]:
            here[kind.file_name(record)] = _content(record)
        for record in records[name]:
            file = kind.file_name(record)
            if here.get(file) == _content(record):
                continue
            new[name].append(record)
            if (folder / name / file).exists():
                taken.append(file)
        refuse((taken, f"{len(taken)} {kind.plural} of {path} are here already with other content, "
                       f"first {', '.join(taken[:1])}: move yours away, or import into another folder with "
                       "--results DIR; nothing was imported"))
    written: list[Path] = []
    try:
        for name, several in new.items():
            for record in several:
                written.append(put(folder, name, record))
    except OSError:  # a full disk
        for file in written:
            file.unlink(missing_ok=True)
        raise
    counts = []
    for name, kind in KINDS.items():
        if name == "runs" or records[name]:
            counts.append(f"{len(new[name])} of {len(records[name])} {kind.plural}")
    print(f"imported {', '.join(counts)} into {folder} ({len(records['runs']) - len(new['runs'])} results were there)")


def _content(record: dict) -> dict:
    """A record without when and by whom it was made."""
    content = dict(record)
    for key in MADE_ANEW:
        content.pop(key, None)
    return content
