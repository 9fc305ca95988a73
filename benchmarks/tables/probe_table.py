"""Probes of frozen backbones: a table of their own, never mixed with fine-tuned metrics.

Metrics stand in one table only when data, protocol and architecture are the same.
"""

import hashlib
import html
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from benchmarks.records.results import canonical
from benchmarks.tables.latex_text import escape_latex
from benchmarks.tables.render import LATEX_PREAMBLE, escape_markdown
from transfer.settings.random_starts import PROBED_ZERO_GAMMA, RAND

if TYPE_CHECKING:
    import pandas as pd

TITLE, NAME = "Frozen-backbone probes", "frozen_backbone_probes"
# Column -> metric, percent.
COLUMNS = {"k-NN mIoU": "knn_miou", "linear mIoU": "linear_miou", "k-NN fg AUC": "knn_foreground_auc",
           "linear fg AUC": "linear_foreground_auc", "retrieval": "retrieval"}
ALIGNMENT = ["left", *["right"] * (len(COLUMNS) + 1), "left"]
RANDOM = (RAND.row, PROBED_ZERO_GAMMA)
NOTE = ("Nothing is fine-tuned: features are frozen, batch norm as stated. mIoU over the classes of the evaluation "
        "labels, background included, per pixel; fg AUC: background against everything else, per cell; retrieval: "
        "matched locations of two views. Baselines come from the same runs. A figure below the better random network "
        "is named.")


def probes_text(probes: list[dict]) -> str:
    """Markdown of all probes, a block for each dataset, protocol and architecture; empty without probes."""
    parts = [f"## {TITLE}", NOTE]
    for heading, frame in _blocks(probes, escape_markdown, "**{}**".format):
        parts += [f"### {heading}", frame.to_markdown(index=False, tablefmt="pipe", disable_numparse=True,
                                                      colalign=ALIGNMENT)]
    return "\n\n".join(parts) + "\n" if probes else ""


def probes_html(probes: list[dict]) -> str:
    """The same as a piece of HTML, in the classes of `render.html_text`."""
    parts = [f"<section id=\"probes\">\n<h2>{TITLE}</h2>\n<p>{html.escape(NOTE)}</p>"]
    for heading, frame in _blocks(probes, html.escape, "<strong>{}</strong>".format):
        parts += [f"<h3>{heading}</h3>", frame.to_html(index=False, border=0, escape=False)]
    return "\n".join(parts) + "\n</section>\n" if probes else ""


def probes_latex(probes: list[dict]) -> str:
    """The same as LaTeX tables with booktabs' rules."""
    parts = [LATEX_PREAMBLE]
    for number, (heading, frame) in enumerate(_blocks(probes, escape_latex, r"\textbf{{{}}}".format)):
        frame.columns = [escape_latex(name) for name in frame.columns]
        said = f"{TITLE}. {heading}." + (f" {escape_latex(NOTE)}" if number == 0 else "")
        layout = "".join(side[0] for side in ALIGNMENT)
        parts.append("\\begin{table}\n\\centering\n\\small\n" + frame.to_latex(
            index=False, escape=False, column_format=layout) + f"\\caption{{{said}}}\n\\end{{table}}\n")
    return "\n".join(parts) if probes else ""


def _blocks(probes: list[dict], escape: Callable[[str], str], strong: Callable[[str], str]
            ) -> Iterator[tuple[str, "pd.DataFrame"]]:
    """(heading, table) of each dataset, protocol and architecture, all text escaped."""
    import pandas as pd

    for heading, members in probe_blocks(probes):
        yield escape(heading), pd.DataFrame(
            _rows(members, escape, strong), columns=["Method", "Epochs", *COLUMNS, "Source"], dtype=object)


def probe_blocks(probes: list[dict]) -> list[tuple[str, list[dict]]]:
    """(heading, probes in the order of their rows) of each dataset, protocol and architecture.

    Of the same weights probed again only the later one.
    """
    blocks: dict[str, list[dict]] = {}
    for probe in probes:
        data = probe["dataset"]
        same = [probe["task"], probe["protocol"], probe["weights"]["architecture"], data["classes"],
                data["train"]["annotations_sha256"], data["val"]["annotations_sha256"], probe["demo"]]
        blocks.setdefault(canonical(same), []).append(probe)
    found = []
    for members in sorted(blocks.values(), key=_heading):
        newest = {}
        for probe in sorted(members, key=lambda probe: probe["ended"]):
            newest[probe["method"], probe["epochs"], probe["weights"]["file_sha256"]] = probe
        found.append((_heading(members), sorted(newest.values(), key=lambda probe: (
            probe["method"], -1 if probe["epochs"] is None else probe["epochs"], probe["ended"]))))
    return found


def probe_name(probe: dict) -> str:
    """The method as its row names it."""
    return f"{'DEMO ' if probe['demo'] else ''}{probe['method']}"


def _heading(members: list[dict]) -> str:
    probe = members[0]
    data, protocol = probe["dataset"], probe["protocol"]
    probed = data.get("probed", {name: data[name]["images"] for name in ("train", "val")})
    number = hashlib.sha256(canonical([data["train"], data["val"]]).encode("ascii")).hexdigest()[:8]
    label = data.get("label") or data.get("name")
    name = f"{label}, " if label else ""
    return (f"{'Demo: ' if probe['demo'] else ''}{name}{probe['task']}, {len(data['classes'])} classes, "
            f"{probed['train']} training and {probed['val']} evaluation images (annotations {number}); "
            f"{probe['weights']['architecture']} {protocol.get('layer', '')}, shorter side {protocol.get('side', '-')}"
            f", batch norm {protocol.get('batch_norm', '-')}, seed {probe['seed']}")


def _rows(members: list[dict], escape: Callable[[str], str], strong: Callable[[str], str]) -> list[list[str]]:
    rows: dict[tuple, list[str]] = {}
    for probe in members:
        weights = probe["weights"]["file_sha256"]
        below = _below(probe)
        source = f"probe, weights {weights[:8]}" if weights else "probe, random weights"
        pretraining = probe["weights"].get("pretraining")
        if pretraining:
            source += f", pretraining {pretraining['seed']} of recipe {pretraining['recipe_sha256'][:8]}"
        source += f"; {strong(escape('below random init: ' + ', '.join(below)))}" if below else ""
        cells = [escape(probe_name(probe)), "-" if probe["epochs"] is None else str(probe["epochs"]),
                 *_cells(probe["metrics"]), source]
        rows[tuple(cells)] = cells
    taken = {row[0] for row in rows.values()}
    for probe in members:
        for name, metrics in sorted(probe["baselines"].items()):
            cells = [escape(name), "-", *_cells(metrics), "baseline"]
            if cells[0] not in taken:
                rows[tuple(cells)] = cells  # runs that agree make one row; those that do not are both seen
    return list(rows.values())


def _below(probe: dict) -> list[str]:
    if probe["method"] in RANDOM:
        return []
    found = []
    for column, metric in COLUMNS.items():
        others = [probe["baselines"][name].get(metric) for name in RANDOM if name in probe["baselines"]]
        others = [value for value in others if value is not None]
        value = probe["metrics"].get(metric)
        if others and value is not None and value < max(others):
            found.append(column)
    return found


def _cells(metrics: dict) -> list[str]:
    values = [metrics.get(metric) for metric in COLUMNS.values()]
    return ["-" if value is None else f"{value:.1f}" for value in values]
