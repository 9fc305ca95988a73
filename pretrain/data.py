"""Any folder of photographs as an endless, exactly repeatable stream of micro-batches of views.

The order of an epoch depends on (seed, epoch) alone, and the views of an image on (seed, epoch, image, view): a stream
that starts at step s gives what an uninterrupted one gives from step s on, with any number of loader processes.
Images that cannot be read are replaced by the next one, and reported in the batch.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretrain.config import Config, Numbers
from pretrain.errors import UserError
from pretrain.views import make_views

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jfif")
SMALLEST_SIDE = 16  # pixels; below it a view is a few source pixels enlarged
TERM_GRACE = 20  # seconds that a loader process goes on for after SIGTERM
REPLACEMENTS = 10  # unreadable images in a row after which a folder is given up


class UnreadableImage(Exception):
    """One image that cannot be used; the message says why."""


@dataclass
class Batch:
    """One micro-batch of a process: V views, B images, S side in pixels.

    views: groups of one size, the global group first, each (V, B, 3, S, S) uint8.
    boxes: for each group (V, B, 4) fractions of the source image. sizes: (B, 2) width and height in source pixels.
    names: the images' paths. unreadable: {path: reason} of the images that were replaced.
    """

    views: list[Tensor]
    boxes: list[Tensor]
    sizes: Tensor
    names: list[str]
    unreadable: dict[str, str]

    def pin_memory(self) -> "Batch":
        return Batch([v.pin_memory() for v in self.views], [b.pin_memory() for b in self.boxes],
                     self.sizes.pin_memory(), self.names, self.unreadable)


def list_images(folder: str | Path) -> list[str]:
    """Paths of all images below a folder, relative to it and sorted; nested or flat, hidden entries left out."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"image folder {folder} does not exist: expected a folder of images, nested or flat")
    found = []
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.relpath(os.path.join(root, name), folder) for name in files
                  if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not found:
        raise UserError(f"no images in {folder}: expected files that end in {' '.join(SUFFIXES)}, "
                        "found none at any depth")
    return sorted(found)


def read_image(path: str | Path) -> Image.Image:
    """An image file as RGB; raises `UnreadableImage`."""
    try:
        with Image.open(path) as image:
            # 16-bit grey ("I" in older Pillow): PIL would clip to white instead of scaling.
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            rgb = image.convert("RGB")
    except FileNotFoundError:
        raise UnreadableImage("the file is gone") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"cannot be decoded: {' '.join(str(error).split())}") from None
    if min(rgb.size) < SMALLEST_SIDE:
        raise UnreadableImage(f"{rgb.width} x {rgb.height} pixels, expected at least {SMALLEST_SIDE} a side")
    return rgb


class ViewDataset(Dataset):
    """Maps (epoch, image number) to the views of that image."""

    def __init__(self, folder: str | Path, names: list[str], numbers: Numbers) -> None:
        self.folder, self.names, self.numbers = Path(folder), names, numbers

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: tuple[int, int]) -> tuple[list[np.ndarray], np.ndarray, tuple[int, int], str, dict]:
        epoch, index = item
        unreadable: dict[str, str] = {}
        for attempt in range(REPLACEMENTS):
            number = (index + attempt) % len(self.names)
            name = self.names[number]
            try:
                image = read_image(self.folder / name)
            except UnreadableImage as error:
                unreadable[name] = str(error)
                continue
            pixels, boxes = make_views(image, self.numbers, epoch, number)
            return pixels, boxes, image.size, name, unreadable
        first, why = next(iter(unreadable.items()))
        raise UserError(f"{len(unreadable)} images in a row cannot be read in {self.folder}, "
                        f"the first is {first} ({why})")

    def __getitems__(self, items: list[tuple[int, int]]) -> list | UserError:
        """What the loader asks for. An error travels as a value: raised in a loader process it would come back as the
        text of a traceback."""
        try:
            return [self[item] for item in items]
        except UserError as error:
            return error

    def collate(self, items: list | UserError) -> Batch | UserError:
        """Stack the items of a micro-batch, view-major."""
        if isinstance(items, UserError):
            return items
        split = [range(self.numbers.global_views),
                 range(self.numbers.global_views, self.numbers.global_views + self.numbers.local_views)]
        views, boxes = [], []
        for group in split:
            if len(group):
                views.append(torch.from_numpy(np.stack([[item[0][v] for item in items] for v in group])))
                boxes.append(torch.from_numpy(np.stack([[item[1][v] for item in items] for v in group])))
        unreadable: dict[str, str] = {}
        for item in items:
            unreadable |= item[4]
        return Batch(views, boxes, torch.tensor([item[2] for item in items], dtype=torch.float32),
                     [item[3] for item in items], unreadable)


def steps_per_epoch(images: int, numbers: Numbers) -> int:
    """Optimizer steps in one pass; the incomplete last batch is left out, as in the released code."""
    if images < numbers.batch_size:
        raise UserError(f"batch_size {numbers.batch_size} needs at least as many images, found {images}: "
                        f"use a smaller batch_size, for example {max(images // 4, 1)}, or more images")
    return images // numbers.batch_size


def images_at_once(batch_size: int, device_batch: int, world: int) -> int:
    """Images that each of `world` processes takes through the network at once: the largest number up to device_batch
    that divides its share of batch_size. Raises `UserError` when there is none above half of device_batch."""
    if batch_size % world:
        raise UserError(f"batch_size must be a multiple of the number of processes, found {batch_size} and {world}")
    share = batch_size // world
    most = min(device_batch, share)
    at_once = max(number for number in range(1, most + 1) if share % number == 0)
    if 2 * at_once < most:
        raise UserError(f"batch_size {batch_size} over {world} processes leaves {share} images for each, which no "
                        f"number from {(most + 1) // 2} to {most} (device_batch) divides: choose another batch_size "
                        "or device_batch")
    return at_once


class MicroBatchOrder:
    """Sampler: for each optimizer step from `first_step` on, the micro-batches of one process.

    With M = at_once * world, micro-batch a of step s is perm[s*B + a*M : s*B + (a+1)*M], cut into equal runs for the
    ranks: the images of a step are the same for every world size.
    """

    def __init__(
        self, images: int, numbers: Numbers, at_once: int, first_step: int, last_step: int, rank: int, world: int
    ) -> None:
        self.images, self.numbers = images, numbers
        self.first_step, self.last_step = first_step, last_step
        self.rank, self.share, self.micro_batch = rank, at_once, at_once * world

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * (self.numbers.batch_size // self.micro_batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = steps_per_epoch(self.images, self.numbers)
        epoch, order = -1, np.empty(0)
        for step in range(self.first_step, self.last_step):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = np.random.default_rng([self.numbers.seed, epoch]).permutation(self.images)
            start = (step % per_epoch) * self.numbers.batch_size
            for micro in range(start, start + self.numbers.batch_size, self.micro_batch):
                mine = order[micro + self.rank * self.share:micro + (self.rank + 1) * self.share]
                yield [(epoch, int(index)) for index in mine]


def make_loader(
    folder: str | Path, names: list[str], config: Config, first_step: int, last_step: int, rank: int, world: int,
    pin: bool,
) -> Iterator[Batch]:
    """Micro-batches of one process from `first_step` to the end, in order."""
    dataset = ViewDataset(folder, names, config.numbers)
    workers = config.machine.workers
    at_once = images_at_once(config.numbers.batch_size, config.machine.device_batch, world)
    loader = DataLoader(
        dataset,
        batch_sampler=MicroBatchOrder(len(names), config.numbers, at_once, first_step, last_step, rank, world),
        collate_fn=dataset.collate,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # its own: starting a loader must not move the state that a checkpoint holds
    )
    return _batches(loader)


def _batches(loader: DataLoader) -> Iterator[Batch]:
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)  # the processes are the parallelism
    # Ctrl-C and Slurm signal the whole group: the training process decides, and needs its loaders to finish its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(TERM_GRACE))
