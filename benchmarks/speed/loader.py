"""clove speed loader: images per second of one core, ours against PIL and torchvision.

Three sides take turns in one process with one thread: the reference; ours with finished views
(uint8); ours with views that are only cut, whose colours the training device applies. The ratios
are medians over the turns, so that a noisy machine slows down both sides of each. Then the same
through one DataLoader process. Without --photos the photographs are made: 500 x 375 pixels, about
90 kB each.
"""

import argparse
import functools
import io
import itertools
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.speed import machine, reference_loader
from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError
from pretrain.config import load_config
from pretrain.data.batches import ViewDataset, list_images, make_loader
from pretrain.data.images import ImageList
from pretrain.data.pixels import JPEG_DECODER
from pretrain.distributed import Process
from pretrain.options.shared_options import Train

REFERENCE, FINISHED, CUT = "reference", "finished views", "cut views"
SIDES = (REFERENCE, FINISHED, CUT)
TURN = 8  # images of one side before the next one's turn
BATCH, LOADER_BATCHES = 16, 6  # images in a batch and batches in a turn, through a loader process
PHOTO_SIZE = (500, 375)  # width, height


def make_photo(rng: np.random.Generator) -> bytes:
    """A JPEG whose spectrum falls as that of photographs does, so that it takes as long to
    decode."""
    width, height = PHOTO_SIZE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1

    def clouds(fall: float) -> np.ndarray:
        noise = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
        picture = np.fft.irfft2(noise / frequency**fall, (height, width))
        return picture / picture.std()

    light = clouds(1.2)
    channels = [128 + rng.normal() * 15 + 45 * light + 22 * clouds(1.6) for _ in range(3)]
    file = io.BytesIO()
    Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8)).save(file, "jpeg", quality=90)
    return file.getvalue()


@contextmanager
def photographs(folder: Path | None, count: int = 32) -> Iterator[ImageList]:
    """The photographs of a folder, or made ones in a temporary folder."""
    if folder is not None:
        images = list_images(folder)
        if type(images) is not ImageList:
            raise UserError(f"{folder} holds shards: the reference reads a folder of images")
        yield images
        return
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as made:
        for number in range(count):
            (Path(made) / f"{number:03d}.jpg").write_bytes(make_photo(rng))
        yield list_images(made)


def in_process(images: ImageList) -> dict[str, Callable[[], float]]:
    """For each side: seconds that the next `TURN` images take."""
    reference = reference_loader.ReferenceDataset([images.folder / name for name in images])
    finished = ViewDataset(images, replace(Train(), colour_on="loader"))
    cut = ViewDataset(images, replace(Train(), colour_on="device"))
    loads: dict[str, Callable[[int], object]] = {
        REFERENCE: lambda number: reference[number % len(images)],
        FINISHED: lambda number: finished[divmod(number, len(images))],
        CUT: lambda number: cut[divmod(number, len(images))],
    }

    def seconds(load: Callable[[int], object], numbers: Iterator[int]) -> float:
        start = time.perf_counter()
        for number in itertools.islice(numbers, TURN):
            load(number)
        return time.perf_counter() - start

    turns = {}
    for side, load in loads.items():
        turns[side] = functools.partial(seconds, load, itertools.count())
        turns[side]()  # imports, tables, caches
    return turns


def through_loader(images: ImageList) -> dict[str, Callable[[], float]]:
    """For each side: seconds that one loader process takes for `LOADER_BATCHES` batches after the
    first."""
    batch = min(BATCH, len(images))

    def reference() -> Iterable:
        paths = [images.folder / name for name in images]
        rows = torch.arange((LOADER_BATCHES + 1) * batch).remainder(len(paths)).view(-1, batch).tolist()
        return DataLoader(reference_loader.ReferenceDataset(paths), batch_sampler=rows, num_workers=1,
                          collate_fn=reference_loader.collate)

    def ours(place: str) -> Iterable:
        values = {"batch_size": batch, "device_batch": batch, "colour_on": place, "workers": 1}
        config = load_config(None, values)
        return make_loader(images, config, range(LOADER_BATCHES + 1), Process(0, 1, torch.device("cpu")))

    def seconds(make: Callable[[], Iterable]) -> float:
        batches = iter(make())
        next(batches)
        start = time.perf_counter()
        for _ in range(LOADER_BATCHES):
            next(batches)
        return time.perf_counter() - start

    return {REFERENCE: lambda: seconds(reference), FINISHED: lambda: seconds(lambda: ours("loader")),
            CUT: lambda: seconds(lambda: ours("device"))}


def alternate(sides: dict[str, Callable[[], float]], images: int, seconds: float) -> dict[str, list[float]]:
    """Images per second of each side in each turn, for about `seconds` and at least three turns. A
    side takes a turn of `images` images and returns the seconds it took."""
    speeds = defaultdict(list)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(speeds[REFERENCE]) < 3:
        for side, turn in sides.items():
            speeds[side].append(images / turn())
    return speeds


def summary(speeds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median images per second, and median ratio to the reference of the same turn."""
    summaries = {}
    for side, values in speeds.items():
        ratio = np.median(np.divide(values, speeds[REFERENCE]))
        summaries[side] = {"images_per_second": statistics.median(values), "ratio": float(ratio)}
    return summaries


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="clove speed loader", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path,
                        help="a folder of images (default: made photographs)")
    parser.add_argument("--seconds", type=float, default=30.0,
                        help="for each of the two parts (default 30)")
    parser.add_argument("--output", type=Path,
                        help="a JSON file to write the results to (default: none)")
    args = parser.parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # OpenCV has one already, see pretrain.data.augment
    try:
        with photographs(args.photos) as images:
            kilobytes = statistics.mean(len(images.read(number)) for number in range(min(len(images), 100))) / 1000
            parts = {"one core": alternate(in_process(images), TURN, args.seconds),
                     "one loader process": alternate(through_loader(images), LOADER_BATCHES * min(BATCH, len(images)),
                                                     args.seconds)}
    finally:
        torch.set_num_threads(threads)
    record = {"benchmark": "loader", "machine": machine.describe(), "jpeg_decoder": JPEG_DECODER,
              "photographs": {"count": len(images), "mean_kilobytes": round(kilobytes, 1),
                              "folder": str(args.photos) if args.photos else None},
              "parts": {}, "turns": {}}
    for part, speeds in parts.items():
        record["parts"][part] = summary(speeds)
        record["turns"][part] = len(speeds[REFERENCE])
    print(text(record))
    if args.output:
        write_text(args.output, json.dumps(record, indent=2) + "\n")
    return 0


def text(record: dict[str, Any]) -> str:
    """The record as people read it."""
    described, photos = record["machine"], record["photographs"]
    lines = [f"{described['cpu']}, {described['cores']} cores, Python {described['python']}, "
             + ", ".join(f"{name} {version or 'absent'}" for name, version in described["versions"].items()),
             f"{photos['count']} photographs of {photos['mean_kilobytes']} kB on average, 2 views "
             f"of 224 and 6 of 96 pixels; our JPEG decoder: {record['jpeg_decoder']}"]
    for part, sides in record["parts"].items():
        lines.append(f"{part}, median of {record['turns'][part]} turns:")
        for side, found in sides.items():
            lines.append(f"  {side:<15} {found['images_per_second']:7.1f} images/s   "
                         f"{found['ratio']:5.2f} x")
    return "\n".join(lines)
