"""Any folder of images, or of shards, as a repeatable stream of micro-batches of views.

The order of an epoch depends on (seed, epoch) alone, and the views of an image on (seed, epoch,
image, view): a stream that starts at step s gives what an uninterrupted one gives from step s on,
with any number of loader processes. Images that cannot be read are replaced by the next one, and
reported in the batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretrain.common.errors import UserError, refuse
from pretrain.common.one_line import escaped
from pretrain.config import Config
from pretrain.data.images import SUFFIXES, ImageList, walk_images
from pretrain.data.loader_processes import check_shared_memory, deadline, set_deadline, start_worker
from pretrain.data.name_table import NameTable
from pretrain.data.order import EpochOrder
from pretrain.data.pixels import UnreadableImage
from pretrain.data.shards import ShardList, shard_paths
from pretrain.data.views import make_views
from pretrain.distributed import Process
from pretrain.options.shared_options import Train

REPLACEMENTS = 10  # unreadable images in a row that end a run, or the allowed share of them if that is more


@dataclass
class Batch:
    """One micro-batch of a process: V views, B images, S side in pixels.

    views: groups of one size, the global group first, each (V, B, 3, S, S) uint8. boxes: for each
    group (V, B, 4) fractions of the source image. sizes: (B, 2) width and height in source pixels.
    names: the images' paths. unreadable: {path: reason} of the images that were replaced. colours:
    for each group (V, B, 11), what `augment_batch` has still to apply; empty when the views are
    finished. labels: (B,) int64, places in `ImageList.classes`; None where the images have no
    labels.
    """

    views: list[Tensor]
    boxes: list[Tensor]
    sizes: Tensor
    names: list[str]
    unreadable: dict[str, str]
    colours: list[Tensor] = field(default_factory=list)
    labels: Tensor | None = None

    def pin_memory(self) -> "Batch":
        labels = None if self.labels is None else self.labels.pin_memory()
        return replace(self, views=_pinned(self.views), boxes=_pinned(self.boxes), colours=_pinned(self.colours),
                       sizes=self.sizes.pin_memory(), labels=labels)


def _pinned(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.pin_memory() for tensor in tensors]


class Item(NamedTuple):
    """One image's views; see `Batch`."""

    views: list[np.ndarray]
    boxes: np.ndarray
    size: tuple[int, int]
    name: str
    unreadable: dict[str, str]
    colours: np.ndarray
    label: int | None


def list_images(folder: str | Path, keep: Path | None = None, output: Path | None = None) -> ImageList:
    """All images below a folder, sorted by their path in it; nested or flat, without hidden
    entries. One with .tar files instead is a folder of WebDataset shards: all images in them,
    sorted by name. Raises `UserError` for both together, and for none.

    keep: a folder for the list, which is then read from its file there; without one it is held in
    memory. output: a folder that may not lie among the images."""
    folder = Path(folder)
    names = walk_images(folder, output)
    table = NameTable(names) if keep is None else NameTable.write(keep, "images", names)
    images, shards = ImageList(folder, table), shard_paths(folder)
    if not images and table.path:
        table.path.unlink()
    if shards and not images:
        images = ShardList(folder, keep)
    refuse((not images or (shards and table),
            f"{folder}: expected images that end in {' '.join(SUFFIXES)}, at any depth, or .tar shards of them, and "
            f"not both, found {len(images)} images ({', '.join(images[:3])}) and {len(shards)} .tar files; name "
            "another folder, or move one kind out"))
    return images


def open_list(folder: str | Path, table: NameTable) -> ImageList:
    """The images of a folder whose list another process has made."""
    return ShardList(folder, index=table) if table.has_rows else ImageList(folder, table)


class ViewDataset(Dataset):
    """Maps (epoch, image number) to the views of that image."""

    def __init__(self, images: ImageList, train: Train) -> None:
        self.images, self.train = images, train

    def __getitem__(self, item: tuple[int, int]) -> Item:
        epoch, index = item
        unreadable: dict[str, str] = {}
        most = max(REPLACEMENTS, int(self.train.max_corrupt_share * len(self.images)) + 1)
        for attempt in range(min(most, len(self.images))):
            number = (index + attempt) % len(self.images)
            try:
                pixels = self.images.pixels(number)
            except UnreadableImage as error:
                unreadable[self.images[number]] = str(error)
                continue
            views, boxes, colours = make_views(pixels, self.train, epoch, number)
            return Item(views, boxes, pixels.shape[1::-1], self.images[number], unreadable, colours,
                        self.images.label(number))
        first, why = next(iter(unreadable.items()))
        raise UserError(f"{len(unreadable)} images in a row cannot be read in {self.images.folder}, "
                        f"the first is {escaped(first)} ({why})")

    def __getitems__(self, items: list[tuple[int, int]]) -> list[Item] | UserError:
        """What the loader asks for. An error travels as a value: raised in a loader process it
        would come back as the text of a traceback."""
        try:
            return [self[item] for item in items]
        except UserError as error:
            return error

    def collate(self, items: list[Item] | UserError) -> Batch | UserError:
        """Stack the items of a micro-batch, view-major."""
        if isinstance(items, UserError):
            return items
        split = [range(self.train.global_views),
                 range(self.train.global_views, self.train.global_views + self.train.local_views)]
        stacked: dict[str, list[Tensor]] = {"views": [], "boxes": [], "colours": []}
        for group in filter(len, split):
            for part, groups in stacked.items():
                groups.append(_stack([[getattr(item, part)[v] for item in items] for v in group]))
        if self.train.colour_on == "loader":
            stacked["colours"] = []
        unreadable: dict[str, str] = {}
        for item in items:
            unreadable |= item.unreadable
        labels = torch.tensor([item.label for item in items]) if self.images.classes else None
        return Batch(sizes=torch.tensor([item.size for item in items], dtype=torch.float32),
                     names=[item.name for item in items], unreadable=unreadable, labels=labels, **stacked)


def _stack(rows: list[list[np.ndarray]]) -> Tensor:
    """V lists of B arrays of one shape -> (V, B, ...); each is copied once, np.stack copies nested
    lists twice."""
    stacked = np.empty((len(rows), len(rows[0]), *rows[0][0].shape), rows[0][0].dtype)
    for places, arrays in zip(stacked, rows, strict=True):
        for place, array in zip(places, arrays, strict=True):
            place[...] = array
    return torch.from_numpy(stacked)


def steps_per_epoch(images: int, train: Train) -> int:
    """Optimizer steps in one pass; the incomplete last batch is left out, as in the released
    code."""
    refuse((images < train.batch_size,
            f"batch_size {train.batch_size} needs at least as many images, found {images}: use a smaller batch_size, "
            f"for example {max(images // 4, 1)}, or more images"))
    return images // train.batch_size


def images_at_once(batch_size: int, device_batch: int, world: int) -> int:
    """Images that each of `world` processes takes through the network at once: the largest number
    up to device_batch that divides its share of batch_size. Raises `UserError` when batch_size has
    no equal shares, or the number is below half of device_batch."""
    share, rest = divmod(batch_size, world)
    most = min(device_batch, share)
    at_once = most
    while at_once and share % at_once:
        at_once -= 1
    refuse((rest or 2 * at_once < most,
            f"batch_size {batch_size} over {world} processes: expected equal shares that a number from "
            f"{(most + 1) // 2} to {most} (device_batch) divides, found {batch_size / world:g} images each; choose "
            "another batch_size or device_batch"))
    return at_once


class MicroBatchOrder:
    """Sampler: for each optimizer step of `steps`, the micro-batches of one process.

    With B the batch size and M = at_once * world, micro-batch a of step s is order[s*B + a*M : s*B
    + (a+1)*M] of the epoch's order, cut into equal runs for the ranks: the images of a step are
    the same for every world size.
    """

    def __init__(self, images: int, train: Train, at_once: int, steps: range, process: Process) -> None:
        self.images, self.train, self.steps = images, train, steps
        self.rank, self.share, self.micro_batch = process.rank, at_once, at_once * process.world

    def __len__(self) -> int:
        return len(self.steps) * (self.train.batch_size // self.micro_batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = steps_per_epoch(self.images, self.train)
        for step in self.steps:
            epoch, within = divmod(step, per_epoch)
            order = EpochOrder(self.images, self.train.seed, epoch)
            start = within * self.train.batch_size
            for micro in range(start, start + self.train.batch_size, self.micro_batch):
                mine = order[range(micro + self.rank * self.share, micro + (self.rank + 1) * self.share)]
                yield [(epoch, index) for index in mine.tolist()]


def check_loaders(config: Config, process: Process, on_this_machine: int) -> None:
    """Raise `UserError` when shared memory is too small for the loaders of so many processes."""
    train, workers = config.train, config.runtime.workers
    at_once = images_at_once(train.batch_size, config.runtime.device_batch, process.world)
    pixels = train.global_views * train.global_size**2 + train.local_views * train.local_size**2
    held = 2  # the one that is copied, and the next
    if process.device.type == "cpu":  # no copy: those of this step and of the next
        held = 2 * train.batch_size // (at_once * process.world)
    check_shared_memory(3 * pixels * at_once, workers, held, on_this_machine, "--workers 0")


def make_loader(images: ImageList, config: Config, steps: range, process: Process) -> Iterator[Batch]:
    """Micro-batches of one process for the optimizer steps `steps`, in order."""
    dataset = ViewDataset(images, config.train)
    at_once = images_at_once(config.train.batch_size, config.runtime.device_batch, process.world)
    set_deadline(config.runtime.loader_timeout)
    loader = DataLoader(
        dataset,
        batch_sampler=MicroBatchOrder(len(images), config.train, at_once, steps, process),
        collate_fn=dataset.collate,
        num_workers=config.runtime.workers,
        timeout=deadline(config.runtime.workers),
        pin_memory=process.device.type == "cuda",
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # its own: starting a loader must not move the state that a checkpoint holds
    )
    return _batches(loader)


def _batches(loader: DataLoader) -> Iterator[Batch]:
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
