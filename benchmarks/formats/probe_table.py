"""Probes of frozen backbones: a table of their own, never mixed with fine-tuned metrics.

Metrics stand in one table only when data, protocol and architecture are the same.
"""

import hashlib
import html
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.formats.latex_table import FITTED, LATEX, LATEX_PREAMBLE
from benchmarks.formats.latex_text import escape_latex
from benchmarks.formats.render import HTML, MARKDOWN, Look
from benchmarks.records.results import canonical, ended
from benchmarks.tables.shown_text import MISSING, epochs_text, percent
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
        "matched locations of two views. Baselines come from the same runs. A metric below the better random network "
        "is named.")


def probes_text(probes: list[dict]) -> str:
    """Markdown of all probes, a block for each dataset, protocol and architecture."""
    parts = [f"## {TITLE}", NOTE]
    for heading, frame in _blocks(probes, MARKDOWN):
        parts += [f"### {heading}", frame.to_markdown(index=False, tablefmt="pipe", disable_numparse=True,
                                                      colalign=ALIGNMENT)]
    return "\n\n".join(parts) + "\n"


def probes_html(probes: list[dict]) -> str:
    """The same as a piece of HTML, in the classes of `render.html_text`."""
    parts = [f"<section id=\"probes\">\n<h2>{TITLE}</h2>\n<p>{html.escape(NOTE)}</p>"]
    for heading, frame in _blocks(probes, replace(HTML, bold="<strong>{}</strong>")):
        parts += [f"<h3>{heading}</h3>", frame.to_html(index=False, border=0, escape=False)]
    return "\n".join(parts) + "\n</section>\n"


def probes_latex(probes: list[dict]) -> str:
    """The same as LaTeX tables with booktabs' rules."""
    parts = [LATEX_PREAMBLE]
    note = f" {escape_latex(NOTE)}"
    for heading, frame in _blocks(probes, LATEX):
        frame.columns = [escape_latex(name) for name in frame.columns]
        text = frame.to_latex(index=False, escape=False, column_format=f"l{'r' * (len(COLUMNS) + 1)}l")
        parts.append(f"\\begin{{table*}}\n\\centering\n\\footnotesize\n{FITTED.format(text)}"
                     f"\\caption{{{TITLE}. {heading}.{note}}}\n\\end{{table*}}\n")
        note = ""  # under the first table alone
    return "\n".join(parts)


def _blocks(probes: list[dict], look: Look) -> Iterator[tuple[str, "pd.DataFrame"]]:
    """(heading, table) of each dataset, protocol and architecture, all text escaped."""
    import pandas as pd

    for heading, members in probe_blocks(probes):
        yield look.escape(heading), pd.DataFrame(
            _rows(members, look), columns=["Method", "Epochs", *COLUMNS, "Source"], dtype=object)


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
    for members in sorted(blocks.values(), key=lambda members: _heading(members[0])):
        newest = {}
        for probe in sorted(members, key=ended):
            newest[probe["method"], probe["epochs"], probe["weights"]["file_sha256"]] = probe
        found.append((_heading(members[0]), sorted(newest.values(), key=_order)))
    return found


def _order(probe: dict) -> tuple:
    return probe["method"], probe["epochs"] is not None, probe["epochs"], ended(probe)


def probe_name(probe: dict) -> str:
    """The method as its row names it."""
    return f"DEMO {probe['method']}" if probe["demo"] else probe["method"]


def _heading(probe: dict) -> str:
    data, protocol = probe["dataset"], probe["protocol"]
    probed = data.get("probed") or {"train": data["train"]["images"], "val": data["val"]["images"]}
    annotations = hashlib.sha256(canonical([data["train"], data["val"]]).encode("ascii")).hexdigest()[:8]
    text = (f"{probe['task']}, {len(data['classes'])} classes, "
            f"{probed['train']} training and {probed['val']} evaluation images (annotations {annotations}); "
            f"{probe['weights']['architecture']} {protocol.get('layer', '')}, shorter side {protocol.get('side', '-')}"
            f", batch norm {protocol.get('batch_norm', '-')}, seed {probe['seed']}")
    label = data.get("label") or data.get("name")
    if label:
        text = f"{label}, {text}"
    return f"Demo: {text}" if probe["demo"] else text


def _rows(members: list[dict], look: Look) -> list[list[str]]:
    rows: list[list[str]] = []
    for probe in members:
        weights, below = probe["weights"], _below(probe)
        source = "probe, random weights"
        if weights["file_sha256"]:
            source = f"probe, weights {weights['file_sha256'][:8]}"
        if weights.get("pretraining"):
            pretraining = weights["pretraining"]
            source += f", pretraining {pretraining['seed']} of recipe {pretraining['recipe_sha256'][:8]}"
        if below:
            source += "; " + look.bold.format(look.escape(f"below random init: {', '.join(below)}"))
        rows.append([look.escape(probe_name(probe)), epochs_text(probe["epochs"]), *_cells(probe["metrics"]), source])
    methods = {row[0] for row in rows}
    for probe in members:
        for name, metrics in sorted(probe["baselines"].items()):
            if look.escape(name) not in methods:
                rows.append([look.escape(name), MISSING, *_cells(metrics), "baseline"])
    # Runs that agree make one row; those that do not are both seen.
    return [row for number, row in enumerate(rows) if row not in rows[:number]]


def _below(probe: dict) -> list[str]:
    """The columns in which a probe is below the better random network."""
    if probe["method"] in RANDOM:
        return []
    found = []
    for column, metric in COLUMNS.items():
        value = probe["metrics"].get(metric)
        for name in RANDOM:
            random = probe["baselines"].get(name, {}).get(metric)
            if None not in (value, random) and value < random and column not in found:
                found.append(column)
    return found


def _cells(metrics: dict) -> list[str]:
    return [percent(metrics.get(metric)) for metric in COLUMNS.values()]
