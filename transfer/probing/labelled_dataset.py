"""The pixel labels of a dataset, for the tasks that have some."""

from pretrain.data.pixels import SixteenBit
from transfer import tasks
from transfer.data.dataset import Dataset
from transfer.data.pixel_labels import DenseData

TASKS = tuple(name for name, task in tasks.TASKS.items() if task.pixel_labels)


def load(dataset: Dataset, sixteen_bit: SixteenBit = "shift") -> DenseData:
    """The labels of a dataset that `datasets.find` has found and checked."""
    data = tasks.get(dataset.task).pixel_labels(dataset)
    data.train.images.sixteen_bit = data.val.images.sixteen_bit = sixteen_bit
    return data
