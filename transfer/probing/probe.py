"""Quick evaluation of a frozen backbone: k-NN and linear segmentation, matched-location retrieval -> probe.json.

Minutes instead of GPU-days. The same is measured on two random networks of the same architecture
and on the pixels alone, in the same run: a metric says something only beside these. Training images
teach, validation images are only measured.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from tabulate import tabulate

from pretrain import kernels
from pretrain.common.architectures import ARCHITECTURES, STANDARD
from pretrain.common.atomic import check_writable, write_text
from pretrain.common.errors import refuse
from pretrain.data.pixels import SIXTEEN_BIT, SixteenBit
from pretrain.distributed import present_device
from pretrain.options.shared_options import Train
from pretrain.watch.knn import NEIGHBOURS, TEMPERATURE
from pretrain.watch.probes import RetrievalProbe
from transfer.data import pixel_labels
from transfer.data.dataset import Dataset
from transfer.probing import frozen_features
from transfer.probing.measurement import (
    METRICS,
    RECALIBRATION_IMAGES,
    Examples,
    Measured,
    Protocol,
    measure,
    percent,
    recalibrate,
    retrieval,
)
from transfer.records.provenance import code_version, hardware, peak_memory_mb, versions
from transfer.settings import datasets, where
from transfer.settings.random_starts import PROBED_ZERO_GAMMA, RAND
from transfer.tasks import TASKS, Where

SCHEMA, KIND = 1, "probe"
LABELLED = tuple(name for name, task in TASKS.items() if task.pixel_labels)
RETRIEVAL_IMAGES = 64
PIXELS = "pixel statistics"


@dataclass(frozen=True)
class Request:
    """What to probe; `weights` as in `frozen_features.read_weights`."""

    weights: str
    data: str | Path | Where
    task: str
    protocol: Protocol = field(default_factory=Protocol)
    architecture: str = STANDARD  # of random weights
    branch: str | None = None
    trust: bool = False
    device: str | None = None
    sixteen_bit: SixteenBit = "shift"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Protocol()
    parser.add_argument("--weights", required=True, metavar="DIR|FILE",
                        help="folder that `convert` wrote, any checkpoint file, or random")
    where.add_arguments(parser, images=False, train_share=False)
    parser.add_argument("--task", required=True, choices=LABELLED, help="whose data it is")
    parser.add_argument("--output", metavar="DIR", help="for probe.json and probe.png (default: "
                                                        "only print)")
    parser.add_argument("--layer", choices=list(frozen_features.LAYERS), default=default.layer,
                        help="stage whose map is probed, under detectron2's name (default: "
                             "%(default)s)")
    parser.add_argument("--side", type=int, default=default.side, metavar="PIXELS",
                        help="shorter side of the images, a multiple of 32 (default: %(default)s)")
    parser.add_argument("--images", type=int, default=default.images, metavar="N",
                        help="images of each split, at most, evenly spaced (default: %(default)s)")
    parser.add_argument("--cells", type=int, default=default.cells, metavar="N",
                        help="cells to learn from, at most (default: %(default)s)")
    parser.add_argument("--batch-norm", choices=("recalibrated", "stored"), default=default.batch_norm,
                        help="statistics of batch norm: of these training images, or those of the "
                             "file (random networks have none of their own and are always "
                             "recalibrated; default: %(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, metavar="N",
                        help="draws the cells and the random networks (default: %(default)s)")
    parser.add_argument("--architecture", choices=tuple(ARCHITECTURES), default=STANDARD,
                        help="of random weights (default: %(default)s)")
    parser.add_argument("--branch", choices=("student", "teacher"), help="which network, where the file holds both")
    parser.add_argument("--trust", action="store_true", help="let the file run its own code; only "
                                                             "for files you know")
    parser.add_argument("--sixteen-bit", choices=SIXTEEN_BIT, default="shift",
                        help="how 16-bit images become 8-bit ones: by their high byte (refused "
                             "where no value is above 4095), or by each image's own range "
                             "(default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


def run(args: argparse.Namespace) -> int:
    protocol = Protocol(layer=args.layer, side=args.side, images=args.images, cells=args.cells,
                        batch_norm=args.batch_norm, seed=args.seed)
    request = Request(weights=args.weights, data=where.of(args), task=args.task, protocol=protocol,
                      architecture=args.architecture, branch=args.branch, trust=args.trust, device=args.device,
                      sixteen_bit=args.sixteen_bit)
    if args.output:
        refuse((Path(args.output).is_file(),
                f"expected a folder for --output, found the file {args.output}: name another one"))
        check_writable(Path(args.output))
    result, examples = probe(request)
    print(table(result))
    if args.output:
        from transfer.probing.probe_figure import draw

        output = Path(args.output)
        draw(examples, output / "probe.png")
        write_text(output / "probe.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
        print(f"wrote {output / 'probe.json'} and probe.png")
    return 0


def table(result: dict) -> str:
    """The metrics of the backbone and of its baselines as lines of text."""
    rows = {result["method"]: result["metrics"], **result["baselines"]}
    columns = {"": list(rows)}
    for name in METRICS:
        values = [row[name] for row in rows.values()]
        if values.count(None) < len(values):
            columns[name.replace("_", " ").replace("foreground", "fg").replace("background", "bg")] = values
    return tabulate(columns, headers="keys", tablefmt="plain", floatfmt=".1f", missingval="-")


def load_labels(dataset: Dataset, sixteen_bit: SixteenBit = "shift") -> pixel_labels.DenseData:
    """The pixel labels of a dataset that `datasets.find` has found and checked."""
    data = TASKS[dataset.task].pixel_labels(dataset)
    data.train.images.sixteen_bit = data.val.images.sixteen_bit = sixteen_bit
    return data


def probe(request: Request) -> tuple[dict, Examples]:
    """Measure a backbone and its baselines; returns probe.json's content and what its figure shows.

    Bit for bit the same on a CPU with the same number of threads. Raises `UserError`.
    """
    protocol, started = request.protocol, datetime.now(UTC).isoformat(timespec="seconds")
    clock, multiple = time.perf_counter(), pixel_labels.MULTIPLE
    refuse(
        (protocol.side < multiple or protocol.side % multiple,
         f"--side {protocol.side}: expected a multiple of {multiple} pixels"),
        (protocol.images < 2, f"--images {protocol.images}: expected at least 2"),
        (protocol.cells < 2, f"--cells {protocol.cells}: expected at least 2"),
        (protocol.seed < 0, f"--seed {protocol.seed}: expected at least 0"),
        (request.task not in LABELLED,
         f"unknown task '{request.task}': expected one of {', '.join(LABELLED)}"))
    device = torch.device(present_device(request.device))
    chosen = kernels.choose(device, search=False)
    weights = frozen_features.read_weights(request.weights, request.architecture, protocol.seed, request.branch,
                                           request.trust)
    dataset = datasets.find(request.data, request.task)
    data = load_labels(dataset, request.sixteen_bit)
    refuse((len(data.train) < 2,
            f"{len(data.train)} training image in {dataset.train.annotations}: expected at least 2, "
            "one of which chooses the regularisation of the linear classifier"))
    shared = pixel_labels.images_in_both(data)
    if shared:
        print(f"warning: {len(shared)} images are in train and in val ({shared[0]}): the metrics "
              "flatter every row", file=sys.stderr)
    measured, examples = _measure_all(weights, data, protocol, device)
    own, settings = weights.record["method"], asdict(protocol)
    if request.sixteen_bit != "shift":  # earlier records have no such key
        settings["sixteen_bit"] = request.sixteen_bit
    return {
        "schema": SCHEMA, "kind": KIND, "task": request.task, "method": own, "epochs": weights.record["epochs"],
        "metrics": measured[own].metrics,
        "baselines": {name: one.metrics for name, one in measured.items() if name != own},
        "details": {name: one.details for name, one in measured.items()},
        "protocol": {**settings,
                     "resolution": "pixels of the resized image, class scores upsampled bilinearly",
                     "neighbours": NEIGHBOURS, "temperature": TEMPERATURE,
                     "stride": frozen_features.LAYERS[protocol.layer],
                     "recalibration_images": RECALIBRATION_IMAGES, "retrieval_images": RETRIEVAL_IMAGES},
        "weights": weights.record,
        "dataset": {**datasets.describe(dataset), "labels": list(data.classes), "images_in_both": len(shared),
                    "probed": {"train": min(protocol.images, len(data.train)),
                               "val": min(protocol.images, len(data.val))}},
        "seed": protocol.seed, "threads": torch.get_num_threads(), "device": device.type, "kernels": chosen,
        "versions": versions(), "hardware": hardware(), "code": code_version(),
        "wall_seconds": round(time.perf_counter() - clock, 1), "peak_memory_mb": peak_memory_mb("cpu"),
        "started": started, "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }, examples


def _measure_all(weights: frozen_features.Weights, data: pixel_labels.DenseData, protocol: Protocol,
                 device: torch.device) -> tuple[dict[str, Measured], Examples]:
    """The backbone and its baselines by name: random networks of its architecture, and the pixels
    alone."""
    architecture, seed = weights.info.architecture, protocol.seed
    sources: dict[str, frozen_features.Weights | None] = {weights.record["method"]: weights}
    sources.setdefault(RAND.row, frozen_features.random_weights(architecture, seed))
    sources.setdefault(PROBED_ZERO_GAMMA, frozen_features.random_weights(architecture, seed, last_gamma=0.0))
    sources.setdefault(PIXELS, None)
    views = RetrievalProbe(data.val.images, min(RETRIEVAL_IMAGES, protocol.images), Train(), device)
    examples = Examples(data, protocol)
    measured = {}
    for name, source in sources.items():
        if source is None:
            features = frozen_features.PixelStatistics(protocol.layer).to(device)
        else:
            features = frozen_features.FrozenBackbone(source, protocol.layer).to(device)
            if source.record["file_sha256"] is None or protocol.batch_norm == "recalibrated":  # None: random weights
                recalibrate(features, data.train, protocol, name)
        measured[name] = measure(features, data, protocol, name, examples)
        measured[name].metrics["retrieval"] = percent(retrieval(features, views))
    return measured, examples
