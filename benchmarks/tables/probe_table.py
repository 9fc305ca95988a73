"""Probes of frozen backbones: a table of their own, never mixed with fine-tuned metrics.

Metrics stand in one table only when data, protocol and architecture are the same.
"""

import hashlib
from collections import defaultdict

from benchmarks.records.results import canonical, ended
from benchmarks.tables.shown_text import number_text, row_name
from benchmarks.tables.table_model import LOOK_AGAIN, MEASURED, Block, Cell, Row, TableModel
from benchmarks.tables.trial_groups import dataset_name
from transfer.settings.random_starts import PROBED_ZERO_GAMMA, RAND

TITLE, NAME = "Frozen-backbone probes", "frozen_backbone_probes"
# Column -> metric, percent.
COLUMNS = {"k-NN mIoU": "knn_miou", "linear mIoU": "linear_miou", "k-NN fg AUC": "knn_foreground_auc",
           "linear fg AUC": "linear_foreground_auc", "retrieval": "retrieval"}
RANDOM = (RAND.row, PROBED_ZERO_GAMMA)
NOTE = ("Nothing is fine-tuned: features are frozen, batch norm as stated. mIoU over the classes of the evaluation "
        "labels, background included, per pixel; fg AUC: background against everything else, per cell; retrieval: "
        "matched locations of two views. Baselines come from the same runs. A metric below the better random network "
        "is named.")


def probe_table(probes: list[dict]) -> TableModel:
    """The table of all probes, a block for each dataset, protocol and architecture."""
    blocks = []
    for heading, members in probe_blocks(probes):
        block = Block(heading, "")
        rows = [_probe_row(probe, block) for probe in members]
        methods = {row.method for row in rows}
        for probe in members:
            for name, metrics in sorted(probe["baselines"].items()):
                if name not in methods:
                    rows.append(Row(MEASURED, name, None, _cells(metrics), "baseline"))
        for row in rows:
            # Runs that agree make one row; those that do not are both seen.
            if row not in block.rows:
                block.rows.append(row)
        blocks.append(block)
    return TableModel(NAME, TITLE, tuple(COLUMNS), False, blocks, [NOTE])


def probe_blocks(probes: list[dict]) -> list[tuple[str, list[dict]]]:
    """(heading, probes in the order of their rows) of each dataset, protocol and architecture.

    Of the same weights probed again only the later one.
    """
    blocks: dict[str, list[dict]] = defaultdict(list)
    for probe in probes:
        data = probe["dataset"]
        same = [probe["task"], probe["protocol"], probe["weights"]["architecture"], data["classes"],
                data["train"]["annotations_sha256"], data["val"]["annotations_sha256"], probe["demo"]]
        blocks[canonical(same)].append(probe)
    found = []
    for members in blocks.values():
        newest = {}
        for probe in sorted(members, key=ended):
            newest[probe["method"], probe["epochs"], probe["weights"]["file_sha256"]] = probe
        in_order = sorted(newest.values(), key=lambda probe: (
            probe["method"], probe["epochs"] is not None, probe["epochs"], ended(probe)))
        found.append((_heading(members[0]), in_order))
    return sorted(found, key=lambda block: block[0])


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
    if dataset_name(probe):
        text = f"{dataset_name(probe)}, {text}"
    return f"Demo: {text}" if probe["demo"] else text


def _probe_row(probe: dict, block: Block) -> Row:
    """The row of a probe's own backbone; what is below the random networks becomes a remark of the
    block."""
    weights, below = probe["weights"], _below(probe)
    source = "probe, random weights"
    if weights["file_sha256"]:
        source = f"probe, weights {weights['file_sha256'][:8]}"
    if weights.get("pretraining"):
        pretraining = weights["pretraining"]
        source += f", pretraining {pretraining['seed']} of recipe {pretraining['recipe_sha256'][:8]}"
    name = probe_name(probe)
    if below:
        title = row_name(name, probe["epochs"])
        block.remarks.append(f"{LOOK_AGAIN} {title}, {source}: below random init: {', '.join(below)}")
        source += f" {LOOK_AGAIN}"
    return Row(MEASURED, name, probe["epochs"], _cells(probe["metrics"]), source)


def _below(probe: dict) -> list[str]:
    """The columns in which a probe is below the better random network."""
    found = []
    for column, metric in COLUMNS.items():
        value, random = probe["metrics"].get(metric), []
        for name in RANDOM:
            random.append(probe["baselines"].get(name, {}).get(metric))
        known = [one for one in random if one is not None]
        if probe["method"] not in RANDOM and value is not None and known and value < max(known):
            found.append(column)
    return found


def _cells(metrics: dict) -> dict[str, Cell]:
    return {name: Cell(number_text(metrics.get(metric)), metrics.get(metric)) for name, metric in COLUMNS.items()}
