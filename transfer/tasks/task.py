"""What the field calls a task: data of one shape, a protocol to fine-tune on it, an evaluator, a table.

Standard library alone: benchmarks reads these facts where no detectron2 is installed. What needs more (how the data is
found, which evaluator runs) is a function that imports what it needs when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.evaluation import DatasetEvaluator

    from transfer.datasets import Dataset, Split
    from transfer.dense_labels import DenseData


@dataclass(frozen=True)
class Column:
    """A column of the table: `metric` is the key in a result, GROUP/NAME of what the evaluator gives."""

    name: str
    metric: str

    @property
    def group(self) -> str:
        """The evaluator's group, such as bbox: pycocotools' IoU type where that is the evaluator."""
        return self.metric.partition("/")[0]


@dataclass(frozen=True)
class Table:
    """The published table: what a measured row must match to stand beside the printed rows."""

    name: str  # of results/reported/NAME.csv
    title: str
    data: str
    classes: int
    train_images: int  # at least: counts differ with whether images without annotations are dropped
    val_images: int
    batch: int
    in_poster: bool = False
    note: str = ""


@dataclass(frozen=True)
class Schedule:
    """Length of a fine-tuning and the iterations at which the rate drops."""

    iterations: int
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Where:
    """Where a dataset lies: a folder in the task's layout, or files that lie otherwise."""

    folder: Path
    train_annotations: Path | None = None
    val_annotations: Path | None = None
    images: Path | None = None
    train_share: float = 1.0  # of the training images: a fixed subset, chosen by a hash of their names


@dataclass(frozen=True)
class Task:
    """Everything that the suite knows of one task. Tuples and mappings have the default first."""

    name: str
    title: str  # a few words for help texts
    table: Table
    columns: tuple[Column, ...]
    folders: tuple[str, ...]  # options and folders of DETECTRON2_DATASETS for its data: the first that is given wins
    layout: str  # what its data looks like in a folder DIR; it ends an error message
    config: str | Mapping[str, Any]  # file in transfer/configs, the path of one, or values over such a file, _BASE_
    heads: tuple[str, ...]
    schedules: Mapping[str, Schedule]
    seconds: float  # an iteration of the protocol's batch on 8 V100
    official: str  # whose code computes the metrics

    find: Callable[[Where], Dataset] = None  # found and checked; `UserError` for what is wrong
    load: Callable[[Dataset, Split, str], tuple[Callable[[], list[dict]], dict[str, Any]]] = None
    # ^ (dataset, split, "train" or "val") -> (what reads detectron2's records, metadata that its evaluator wants)
    configure: Callable[[CfgNode, Dataset], None] = None  # what follows from the data: MASK_ON, classes, sigmas
    evaluator: Callable[[str, CfgNode], DatasetEvaluator] = None  # of a registered dataset
    # A few train and val images as a dataset in the same layout:
    excerpt: Callable[[Dataset, Path, int, int], None] = None

    solvers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # beside the one that all methods share
    demo_layout: str | None = None  # folder of the demo's data that it takes; None: not in the demo
    pixel_labels: Callable[[Dataset], DenseData] | None = None  # a class for every pixel, for the probes
    place: int = 100  # in lists and tables; equal ones follow by name

    @property
    def iterations(self) -> int:
        """Length of the published schedule."""
        return next(iter(self.schedules.values())).iterations

    @property
    def default_heads(self) -> str:
        """The head family of the published protocol."""
        return self.heads[0]

    @property
    def default_schedule(self) -> str:
        """The name of the published schedule."""
        return next(iter(self.schedules))
