"""Where one cell of a table comes from: `make_tables.py --why TABLE:ROW:COLUMN`."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measured import Trial
from benchmarks.paper_tables import TABLES
from benchmarks.probe_table import NAME as PROBES
from benchmarks.probe_why import why_probe
from benchmarks.rows import DIFFERENCE, Row, TableModel, row_name
from pretrain.errors import UserError


def why(question: str, tables: list[TableModel], results: Path, probes: Sequence[dict] = ()) -> str:
    """The provenance of the cells that `question` names, as text; `results` holds runs/ and probes/.

    TABLE is a table's name, its task's, or a part of its name that fits one, ROW a method with or without its epochs
    ("CLoVE 200"), COLUMN a metric (AP_bb or "AP bb"). Differences are rows as well ("CLoVE 200: measured - paper"),
    and the probes a table. Several rows can have that name: each is told. UserError when nothing fits.
    """
    if question.count(":") < 2:
        raise UserError(f"--why {question}: expected TABLE:ROW:COLUMN, such as \"coco_keypoints:CLoVE 200:AP_kp\"")
    word, rest = question.split(":", 1)  # a row's name may have colons of its own
    asked, column = (part.strip() for part in rest.rsplit(":", 1))
    name = _table(word.strip(), [*(table.name for table in tables), *([PROBES] if probes else [])])
    if name == PROBES:
        return why_probe(asked, column, list(probes), results / "probes")
    table = next(table for table in tables if table.name == name)
    metric = column.replace(" ", "_")
    if metric not in table.metrics:
        raise UserError(f"--why {question}: {name} has no column {column}; it has {', '.join(table.metrics)}")
    rows = [(block, row) for block in table.blocks for row in block.rows]
    found = [(block, row) for block, row in rows if asked.casefold() in (_name(row).casefold(), row.method.casefold())]
    if not found:
        names = list(dict.fromkeys(_name(row) for _, row in rows))
        near = difflib.get_close_matches(asked, names, n=1, cutoff=0.0)
        raise UserError(f"--why {question}: {name} has no row {asked}; the nearest is {near[0] if near else '-'}, "
                        f"all: {', '.join(names)}")
    return "\n\n".join(_told(table, row, metric, block.heading, results / "runs") for block, row in found)


def _table(word: str, names: list[str]) -> str:
    word = next((name for name, table in TABLES.items() if table.task == word), word)
    fitting = [name for name in names if name == word] or [name for name in names if word and word in name]
    if len(fitting) != 1:
        none = f" ({PROBES}: no probe is shown)" if word and word in PROBES else ""
        raise UserError(f"--why: expected one table, found {len(fitting)} for {word!r}{none}; name one of "
                        f"{', '.join(fitting or names)}")
    return fitting[0]


def _name(row: Row) -> str:
    """A row's name with its epochs; those of a difference stand beside its method."""
    if row.kind != DIFFERENCE:
        return row_name(row.method, row.epochs)
    first = row.parts[0]
    return row_name(first.method, first.epochs) + row.method.removeprefix(first.method)


def _told(table: TableModel, row: Row, metric: str, heading: str, runs: Path) -> str:
    if row.kind == DIFFERENCE:
        parts = "\n".join(_told(table, part, metric, heading, runs) for part in row.parts)
        return f"{table.title}, {_name(row)}, {metric.replace('_', ' ')}: {row.cells[metric].text}, of\n{parts}"
    lines = [f"{table.title}, {_name(row)}, {metric.replace('_', ' ')}: {row.cells[metric].text}"]
    lines += [f"  block: {heading}"] if heading else []
    if row.group is None:
        return "\n".join([*lines, f"  not measured here: {row.source}"])
    lines.append(f"  {row.source}")
    for key, trial in sorted(row.group.trials.items(), key=lambda item: item[0]):
        lines.append(trial_provenance(runs, key, trial, metric))
    return "\n".join(lines)


def trial_provenance(runs: Path, key: tuple[int, int], trial: Trial, metric: str | None = None) -> str:
    """All that one evaluation is made of, as text; its file lies in `runs`. `metric`: the figure to begin with."""
    result = json.loads((runs / trial.file).read_bytes())
    weights, data, code = result["weights"], result["dataset"], result["code"]
    sha = weights.get("pkl_sha256") or weights.get("path_sha256")
    conversion = weights.get("conversion") or {}
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    told = {
        "file": f"{runs / trial.file}, digest {result['digest'][:12]}",
        "weights": f"{weights['method']}, {weights['architecture']}, {weights.get('branch') or 'no branch'}, "
                   f"{'sha256 ' + sha[:12] if sha else 'random'}",
        "certificate": f"{conversion.get('source', 'unnamed')}, {conversion['consumed']} tensors, source sha256 "
                       f"{str(conversion.get('source_sha256'))[:12]}" if conversion.get("consumed") else "none",
        "data": f"{data['train']['images']} training and {data['val']['images']} evaluation images, annotations "
                f"{data['train']['annotations_sha256'][:12]} and {data['val']['annotations_sha256'][:12]}",
        "protocol": f"{result['heads']} heads, scale {result['scale']}, {result['iterations']} iterations, config "
                    f"{result['config_sha256'][:12]}",
        "set by hand": ", ".join(result.get("overrides", [])) or "nothing",
        "code": f"git {str(code.get('git_sha'))[:12]}{', with uncommitted changes' if code.get('dirty') else ''}",
        "versions": versions,
        "hardware": hardware_text(result["hardware"]),
        "when": f"{result['started']} to {result['ended']}, {result['wall_seconds'] / 3600:.2f} h, peak memory "
                f"{result['peak_memory_mb']} MB",
    }
    figure = "" if metric is None else f": {_figure(trial.metrics[metric])}"
    lines = [f"  trial {key[0]}, seed {key[1]}{figure}", *(f"    {name:<12} {text}" for name, text in told.items())]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def hardware_text(found: str | dict) -> str:
    """Hardware as a result records it, in one line."""
    return found if isinstance(found, str) else ", ".join(f"{name} {value}" for name, value in sorted(found.items()))
