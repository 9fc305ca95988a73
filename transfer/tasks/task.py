"""What the field calls a task: data of one shape, a protocol to fine-tune on it, an evaluator, a table.

Standard library alone: benchmarks reads these facts where no detectron2 is installed. What needs
more (how the data is found, which evaluator runs) is a function that imports what it needs when it
is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.data.dataset import Reader, Where

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.evaluation import DatasetEvaluator

    from transfer.data.dataset import Dataset
    from transfer.data.pixel_labels import DenseData


@dataclass(frozen=True)
class Column:
    """A column of the table: `metric` is the key in a result, GROUP/NAME of what the evaluator
    gives."""

    name: str
    metric: str

    @property
    def group(self) -> str:
        """The evaluator's group, such as bbox: pycocotools' IoU type where that is the evaluator.
        """
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


V100_GPUS = 8  # of `Task.seconds` and `Task.memory_gb`


@dataclass(frozen=True)
class Schedule:
    """Length of a fine-tuning and the iterations at which the rate drops."""

    iterations: int
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """Everything that the suite knows of one task. Tuples and mappings have the default first.

    `half` is "train" or "val". What a function finds wrong with the data it raises as a `UserError`
    of one line.
    """

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

    # The data, found and checked:
    find: Callable[[Where], Dataset]
    # One half of it: what reads detectron2's records, and metadata for detectron2's catalog, such
    # as its evaluator wants. category_ids in it, one for each class, are the ids of kept
    # predictions (default: detectron2's own).
    load: Callable[[Dataset, str], tuple[Reader, dict[str, Any]]]
    # The evaluator of its validation half, which is registered. It returns {group: {name: percent}}
    # on the first process, as detectron2's do, NaN for what is undefined; GROUP/NAME are the
    # metrics of a result:
    evaluator: Callable[[Dataset, CfgNode], DatasetEvaluator]
    # (dataset, new folder, images of train, of val): a few of its images as a dataset in the same
    # layout, for a preflight: those with most objects, by heapq.nlargest:
    excerpt: Callable[[Dataset, Path, int, int], None]

    # What of the config follows from the data, beside the number of classes: mask head, keypoints.
    configure: Callable[[CfgNode, Dataset], None] | None = None
    # A class for every pixel, for the probes; None: there is no probe on its data.
    pixel_labels: Callable[[Dataset], DenseData] | None = None

    memory_gb: float = 0.0  # of each of those V100; 0: not known
    named_files: bool = False  # whether its annotations are one file for each half, which `Where` may name
    solvers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # beside the one that all methods share
    demo_layout: str | None = None  # folder of the demo's data that it takes; None: not in the demo
    place: int = 100  # in lists and tables; equal ones follow by name

    @property
    def iterations(self) -> int:
        """Length of the published schedule."""
        return next(iter(self.schedules.values())).iterations

    def v100_hours(self, iterations: float) -> float:
        """GPU-hours of so many iterations of the published batch."""
        return iterations * self.seconds * V100_GPUS / 3600

    @property
    def default_heads(self) -> str:
        """The head family of the published protocol."""
        return self.heads[0]

    @property
    def default_schedule(self) -> str:
        """The name of the published schedule."""
        return next(iter(self.schedules))
