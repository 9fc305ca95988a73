"""Where one cell of the probes' table comes from: `make_tables.py --why frozen_backbone_probes:ROW:COLUMN`."""

import difflib
from contextlib import suppress
from pathlib import Path

from benchmarks.records.probe_results import parse_probe
from benchmarks.records.results import json_files
from benchmarks.tables.probe_table import COLUMNS, NAME, TITLE, probe_blocks, probe_name
from benchmarks.tables.provenance_text import pretraining_line
from pretrain.common.errors import UserError


def why_probe(row: str, column: str, probes: list[dict], folder: Path) -> str:
    """The provenance of a figure in each block that has it; `folder` holds the probes' files.

    ROW is a method with or without its epochs, or a baseline, which is told of every probe that measured it. UserError
    when nothing fits.
    """
    metrics = {name.casefold(): metric for title, metric in COLUMNS.items() for name in (title, metric)}
    metric = metrics.get(column.casefold())
    if metric is None:
        raise UserError(f"--why: {NAME} has no column {column}; it has {', '.join(COLUMNS)}")
    files = {}
    for path in json_files(folder):
        with suppress(OSError, ValueError):  # a file that is no good stands in no table
            files[parse_probe(path.read_bytes())["digest"]] = path
    told, names = [], []
    for heading, members in probe_blocks(probes):
        for probe in members:
            for shown, asked, figures in _rows(probe):
                names.append(shown)
                if row.casefold() in asked:
                    told.append(_told(shown, column, figures.get(metric), heading, probe, files[probe["digest"]]))
    if not told:
        near = difflib.get_close_matches(row, names, n=1, cutoff=0.0)
        raise UserError(f"--why: {NAME} has no row {row}; the nearest is {near[0] if near else '-'}, "
                        f"all: {', '.join(dict.fromkeys(names))}")
    return "\n\n".join(told)


def _rows(probe: dict) -> list[tuple[str, set[str], dict]]:
    """(name, what it may be asked by, figures) of a probe's own row and of its baselines."""
    name, epochs = probe_name(probe), probe["epochs"]
    full = name if epochs is None else f"{name} {epochs}"
    return [(full, {name.casefold(), full.casefold()}, probe["metrics"]),
            *((baseline, {baseline.casefold()}, figures) for baseline, figures in sorted(probe["baselines"].items()))]


def _told(name: str, column: str, value: float | None, heading: str, probe: dict, path: Path) -> str:
    weights, data, code = probe["weights"], probe["dataset"], probe["code"]
    sha256 = weights["file_sha256"]
    told = {
        "file": f"{path}, digest {probe['digest'][:12]}",
        "probe": f"{probe_name(probe)}, {weights['architecture']}, {'sha256 ' + sha256[:12] if sha256 else 'random'}",
        **pretraining_line(weights),
        "data": f"{data['train']['images']} training and {data['val']['images']} evaluation images, annotations "
                f"{data['train']['annotations_sha256'][:12]} and {data['val']['annotations_sha256'][:12]}",
        "protocol": ", ".join(f"{key} {value}" for key, value in sorted(probe["protocol"].items())) + f", seed "
                    f"{probe['seed']}",
        "code": f"git {str(code.get('git_sha'))[:12]}{', with uncommitted changes' if code.get('dirty') else ''}",
        "versions": ", ".join(f"{package} {version}" for package, version in sorted(probe["versions"].items())),
        "when": f"{probe['started']} to {probe['ended']}, {probe['wall_seconds'] / 60:.1f} min",
    }
    lines = [f"{TITLE}, {name}, {column}: {'undefined' if value is None else f'{value:.3f}'}", f"  block: {heading}"]
    return "\n".join([*lines, *(f"    {key:<12} {text}" for key, text in told.items())])
