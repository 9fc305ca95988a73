"""clove speed gpu: what this machine's GPU does, in minutes.

Twelve cells, each a rate and the peak of the GPU's memory: pretraining (images/s of the 200-epoch
recipe) at two batches in bf16 and fp32 with views that are there already, then through the loader,
with colours in it and on the GPU; fine-tuning (iterations/s of the published protocols, images that
are there already) of three tasks at 2 and 4 images. At last a short pretraining and a short
fine-tuning that must learn. All images are generated: real photographs take longer to load.
Writes a JSON file and a page. What does not fit into the minutes is left out, and named.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import gpu_cells, gpu_page, machine
from pretrain import PLACE
from pretrain.common.atomic import make_folder, write_text
from pretrain.common.errors import is_out_of_memory, refuse

Step = Callable[[], object]
WARM_UP, LEAST, MOST = 3, 3, 50  # steps of a cell: not timed, timed at least and at most
SECONDS = 15.0  # that a cell's steps are timed for, at most
FOLDER = PLACE / "results" / "speed"


@dataclass(frozen=True)
class Cell:
    """One measurement. `make()` is a context that gives a step, which does `work` of the unit."""

    name: str
    unit: str  # images/s or it/s
    work: int  # images, or 1 iteration
    make: Callable[[], Any]


def measured(cell: Cell, device: torch.device, seconds: float) -> dict[str, Any]:
    """Rate, peak memory (GB) and number of timed steps of a cell, timed for about `seconds`; or the `problem`."""
    record: dict[str, Any] = {"name": cell.name, "unit": cell.unit}
    on_gpu = device.type == "cuda"
    if on_gpu:
        gc.collect()  # of the cell before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        with cell.make() as step:
            taken = _timed(step, device, seconds)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return record | {"problem": "out of memory"}
    rates = sorted(cell.work / one for one in taken)
    memory = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
    return record | {"rate": statistics.median(rates), "smallest": rates[0], "largest": rates[-1],
                     "steps": len(rates), "peak_memory_gb": memory}


def _timed(step: Step, device: torch.device, seconds: float) -> list[float]:
    """Seconds of each step."""
    for _ in range(WARM_UP):
        step()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    wait = torch.cuda.synchronize if device.type == "cuda" else torch.cpu.synchronize
    while len(taken) < LEAST or (len(taken) < MOST and time.perf_counter() < end):
        wait()
        started = time.perf_counter()
        step()
        wait()
        taken.append(time.perf_counter() - started)
    return taken


def measure(
    cells: list[Cell], learn: dict[str, Callable[[], dict]], device: torch.device, minutes: float,
    save: Callable[[dict[str, list[dict]]], None],
) -> None:
    """{"cells": a record of each cell, "learns": a record of each of `learn`}, in their order, within about `minutes`.

    `save` gets what there is after each record: whatever ends the measurement, nothing measured is lost.
    """
    end = time.monotonic() + 60 * minutes
    found: dict[str, list[dict]] = {"cells": [], "learns": []}
    for number, cell in enumerate(cells):
        share = (end - time.monotonic()) / (len(cells) - number + 2 * len(learn))
        record = {"name": cell.name, "unit": cell.unit, "problem": "left out: no time"}
        if share >= 1:
            record = measured(cell, device, min(share / 2, SECONDS))
        found["cells"].append(record)
        print(gpu_page.line(record), flush=True)
        save(found)
    for name, work in learn.items():
        record = {"name": name, "problem": "left out: no time"}
        if time.monotonic() < end:
            record = {"name": name, **work()}
        found["learns"].append(record)
        print(gpu_page.learned(record), flush=True)
        save(found)


def cells_of(data: Path, device: torch.device, sizes: gpu_cells.Sizes) -> list[Cell]:
    """The twelve cells; generated images lie below `data`."""
    made = []
    for precision, images in product(("bf16", "fp32"), sizes.batches):
        make = partial(gpu_cells.pretraining, device, sizes, images, precision)
        made.append(Cell(f"pretraining, {precision}, {images} images at once", "images/s", images, make))
    images = sizes.batches[-1]
    for place in ("loader", "device"):
        make = partial(gpu_cells.loading, device, sizes, images, place, data / "photos")
        name = f"pretraining, bf16, {images} images at once, through the loader, colours on the {place}"
        made.append(Cell(name, "images/s", images, make))
    for task, images in product(gpu_cells.TASKS, (2, 4)):
        make = partial(gpu_cells.finetuning, device, sizes, task, images, data)
        made.append(Cell(f"fine-tuning, {task}, fp32, {images} images at once", "it/s", 1, make))
    return made


def run(device: torch.device, output: Path, minutes: float, sizes: gpu_cells.Sizes) -> tuple[Path, Path]:
    """Measure everything and write it as it comes; returns the JSON file and the page."""
    from benchmarks.demo import demo_data  # with shapely and pycocotools

    started = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"benchmark": "gpu", "started": started, "minutes": minutes, "device": device.type,
             "machine": machine.describe(), "cuda": torch.version.cuda}
    named = "-".join(about["machine"]["gpus"][:1] or ["cpu"]).lower().replace(" ", "-")
    make_folder(output)
    file, page = output / f"gpu-{named}-{started[:10]}.json", output / f"gpu-{named}-{started[:10]}.md"

    def save(found: dict[str, list[dict]]) -> None:
        write_text(file, json.dumps(about | found, indent=1) + "\n")
        write_text(page, gpu_page.page(about | found))

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = place / "data"
        demo_data.generate(data, photos=sizes.photos, train=8, val=2)
        learn = {}
        if sizes.learn:
            learn["pretraining"] = partial(gpu_cells.pretraining_learns, device, data, place / "pretraining")
            learn["fine-tuning"] = partial(gpu_cells.finetuning_learns, device, data, place / "fine-tuning")
        measure(cells_of(data, device, sizes), learn, device, minutes, save)
    return file, page


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("clove speed gpu", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--minutes", type=float, default=8.0,
                      help="for all of it, about (default: %(default)g)")
    made.add_argument("--output", type=Path, default=FOLDER, metavar="DIR",
                      help="folder of the two files (default: results/speed)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write."""
    args = parser().parse_args(argv)
    refuse((args.minutes <= 0, f"--minutes {args.minutes:g}: expected a number above 0"),
           (not torch.cuda.is_available(), "speed gpu: expected a GPU that torch can use, found "
                                           "none; run it on a machine with one, or look at "
                                           "`nvidia-smi` and the CUDA version of torch"))
    for path in run(torch.device("cuda", 0), args.output, args.minutes, gpu_cells.FULL):
        print(f"wrote {path}")
    return 0
