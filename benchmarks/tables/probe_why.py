"""Where one cell of the probes' table comes from: `make_tables.py --why frozen_backbone_probes:ROW:COLUMN`."""

from contextlib import suppress
from pathlib import Path

from benchmarks.records.probe_results import parse_probe
from benchmarks.records.results import json_files
from benchmarks.tables.probe_table import COLUMNS, NAME, TITLE, probe_blocks, probe_name
from benchmarks.tables.provenance_text import (
    code_text,
    data_text,
    facts_text,
    hash_text,
    items_text,
    pretraining_line,
    value_text,
)
from benchmarks.tables.shown_text import nearest, row_name
from pretrain.common.errors import UserError


def why_probe(row: str, column: str, probes: list[dict], folder: Path) -> str:
    """The provenance of a metric in each block that has it; `folder` holds the probes' files.

    ROW is a method with or without its epochs, or a baseline, reported for every probe that
    measured it. UserError when nothing fits.
    """
    metrics = {}
    for title, metric in COLUMNS.items():
        metrics |= {title.casefold(): metric, metric: metric}
    if column.casefold() not in metrics:
        raise UserError(f"--why: {NAME} has no column {column}; it has {', '.join(COLUMNS)}")
    files = {}
    for path in json_files(folder):
        with suppress(OSError, ValueError):  # a damaged file stands in no table
            files[parse_probe(path.read_bytes())["digest"]] = path
    found, names = [], []
    for heading, members in probe_blocks(probes):
        for probe in members:
            method = probe_name(probe)
            rows = [(method, row_name(method, probe["epochs"]), probe["metrics"])]
            for name, values in sorted(probe["baselines"].items()):
                rows.append((name, name, values))
            for plain, name, values in rows:
                names.append(name)
                if row.casefold() in (plain.casefold(), name.casefold()):
                    value = value_text(values.get(metrics[column.casefold()]))
                    lines = [f"{TITLE}, {name}, {column}: {value}", f"  block: {heading}"]
                    found.append(facts_text(lines, _facts(probe, files[probe["digest"]])))
    if not found:
        raise UserError(f"--why: {NAME} has no row {row}; {nearest(row, names)}")
    return "\n\n".join(found)


def _facts(probe: dict, path: Path) -> dict[str, str]:
    """What a probe is made of, in words."""
    weights = probe["weights"]
    return {
        "file": f"{path}, digest {probe['digest'][:12]}",
        "probe": f"{probe_name(probe)}, {weights['architecture']}, {hash_text(weights['file_sha256'])}",
        **pretraining_line(weights),
        "data": data_text(probe["dataset"]),
        "protocol": f"{items_text(probe['protocol'])}, seed {probe['seed']}",
        "code": code_text(probe["code"]),
        "versions": items_text(probe["versions"]),
        "when": f"{probe['started']} to {probe['ended']}, {probe['wall_seconds'] / 60:.1f} min",
    }
