"""The images of a fine-tuning: which ones a step sees, and how they are cropped and flipped.

Both depend on (seed, process, place in the order) alone, so that a killed run resumes with the very
batches that an uninterrupted one would have had, with any number of loader processes.
"""

import itertools
import logging
import random
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import print_instances_class_histogram
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Subset

from pretrain.common.errors import refuse
from pretrain.data.loader_processes import check_shared_memory, deadline, start_worker
from transfer.finetuning.mapper import UNUSABLE, Mapper

NO_LOADERS = "--set DATALOADER.NUM_WORKERS=0"
UNREADABLE_SHARE = 0.01  # of the training images: above, the run stops
Records = Subset | list[dict]  # detectron2's
Draw = tuple[int, int]  # place in the order of this process, index of the record


class Batches:
    """Endless batches of this process: detectron2's shuffled order, put together by wide and tall
    images.

    `wide[i]`: whether image i is wider than tall. `skip`: batches that this process has already
    had. `repeats[i]`: how often image i comes in one round of all images, on average; None for
    once.
    """

    def __init__(
        self, wide: list[bool], size: int, seed: int, skip: int, repeats: torch.Tensor | None = None
    ) -> None:
        self.wide, self.size, self.skip = wide, size, skip
        if repeats is None:
            self.order = TrainingSampler(len(wide), seed=seed)
        else:
            self.order = RepeatFactorTrainingSampler(repeats, seed=seed)

    def __iter__(self) -> Iterator[list[Draw]]:
        return itertools.islice(self._all(), self.skip, None)

    def _all(self) -> Iterator[list[Draw]]:
        waiting: dict[bool, list[Draw]] = {True: [], False: []}
        for draw in enumerate(self.order):
            group = waiting[self.wide[draw[1]]]
            group.append(draw)
            if len(group) == self.size:
                yield list(group)
                group.clear()


class MappedRecords(Dataset):
    """Records through detectron2's training mapper, with new random choices for each place in the
    order.

    An image that cannot be read is named in the log and replaced by another one; above a share of
    1 % (and more than one) the run stops with a `UserError`: then the dataset is broken.
    """

    def __init__(self, cfg: CfgNode, records: Records, seed: int) -> None:
        self.mapper, self.seed = Mapper(cfg, is_train=True), [seed, comm.get_rank()]
        self.records = records
        self.unreadable: set[str] = set()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: Draw) -> dict:
        place, index = draw
        chance = np.random.default_rng([*self.seed, place])
        # detectron2's augmentations draw from numpy's and Python's global generators.
        np.random.seed(int(chance.integers(2**32)))
        random.seed(int(chance.integers(2**63)))
        while True:
            record = self.records[index]
            try:
                return self.mapper(record)
            except UNUSABLE as error:
                name, why = record["file_name"], str(error).strip().replace("\n", " ")
            logging.getLogger("detectron2").warning("left out %s: %s", name, why)
            self.unreadable.add(name)
            refuse((len(self.unreadable) > max(1, UNREADABLE_SHARE * len(self)),
                    f"{len(self.unreadable)} of {len(self)} training images cannot be read, among them {name} ({why}): "
                    f"expected at most {UNREADABLE_SHARE:.0%}; replace them (log.txt names all)"))
            index = int(chance.integers(len(self)))


def train_loader(cfg: CfgNode, workers: int, seed: int, skip: int = 0) -> Iterable[list[dict]]:
    """Endless batches of this process in the order of `seed`, after the first `skip` of them."""
    records, wide, largest = usable(cfg)
    if not cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        wide = [False] * len(wide)
    size = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    check_shared_memory(size * largest, workers, 2, comm.get_local_size(), NO_LOADERS)
    repeats = None
    if cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        repeats = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, cfg.DATALOADER.REPEAT_THRESHOLD, cfg.DATALOADER.REPEAT_SQRT)
    return DataLoader(
        MappedRecords(cfg, records, seed), batch_sampler=Batches(wide, size, seed, skip, repeats),
        num_workers=workers, collate_fn=list, worker_init_fn=start_worker, timeout=deadline(workers),
        generator=torch.Generator())  # its own: starting a loader must not move the global state


def usable(cfg: CfgNode) -> tuple[Subset, list[bool], int]:
    """The training records that detectron2 would keep, whether each image is wider than tall, and the
    bytes of the largest one as the loaders hand it over.

    They stay in the one block of memory of detectron2's catalog: a list of all as objects would cost ten times as much.
    """
    name, = cfg.DATASETS.TRAIN
    packed = DatasetCatalog.get(name)
    points = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    places, wide, largest = [], [], 0
    for place in range(len(packed)):
        record = packed[place]
        if keeps(record, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, points):
            places.append(place)
            wide.append(record["width"] > record["height"])
            largest = max(largest, bytes_of(record, cfg))
    refuse((not places,
            f"none of the {len(packed)} training images has an object to learn from: expected at least one, or a "
            "larger --train-share"))
    records = Subset(packed, places)
    print_instances_class_histogram(records, MetadataCatalog.get(name).thing_classes)  # into the log
    return records, wide, largest


def bytes_of(record: dict, cfg: CfgNode) -> int:
    """Of an image, and of its masks where they are bitmaps, at the largest size of the training."""
    short, long = sorted((record["width"], record["height"]))
    scale = min(max(cfg.INPUT.MIN_SIZE_TRAIN) / short, cfg.INPUT.MAX_SIZE_TRAIN / long)
    bitmaps = cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "bitmask"
    channels = 3 + (len(record["annotations"]) if bitmaps else 0)
    return round(channels * short * long * scale**2)


def keeps(record: dict, filter_empty: bool, min_keypoints: int) -> bool:
    """detectron2's filters of one image: it has more than crowds, and enough labelled keypoints."""
    rows = record["annotations"]
    if filter_empty and all(row.get("iscrowd", 0) for row in rows):
        return False
    labelled = sum(flag > 0 for row in rows for flag in row.get("keypoints", ())[2::3])
    return labelled >= min_keypoints
