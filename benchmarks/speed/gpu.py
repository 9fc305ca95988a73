"""Images a second and memory on a GPU: `python -m benchmarks.speed gpu`; writes results/speed/<name of the GPU>.json.

For each batch and precision, plain and compiled: steps on one batch that stays where it is ("synthetic"), and with
--photos steps fed by the loader of the pretraining ("loader").
"""

import argparse
import itertools
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.speed.step import STEPS, made_batch
from pretrain import distributed
from pretrain.atomic import write_text
from pretrain.config import Config, load_config
from pretrain.data import Batch, list_images, make_loader
from pretrain.errors import UserError
from pretrain.trainer import Trainer
from transfer.provenance import code_version, hardware

FOLDER = Path(__file__).resolve().parent.parent.parent / "results" / "speed"
MODES = {"fp32": ("fp32", False), "bf16": ("bf16", False), "bf16 compiled": ("bf16", True)}


def configuration(batch: int, mode: str, workers: int, device: str = "cuda") -> Config:
    """The full network and views (2 x 224 + 6 x 96) at one batch."""
    precision, compiled = MODES[mode]
    return load_config(None, {"precision": precision, "compile": compiled, "batch_size": batch, "device_batch": batch,
                              "workers": workers, "device": device})


def batches(config: Config, photos: Path | None, steps: int) -> Iterator[Batch]:
    """One pinned synthetic batch again and again, or what the loader gives."""
    if photos is None:
        return itertools.repeat(made_batch(config).pin_memory())
    return iter(make_loader(list_images(photos), config, 0, steps, 0, 1, True))


def measure(config: Config, source: Iterator[Batch], warmup: int, steps: int) -> dict[str, float | int]:
    """Images a second over `steps`, share of that time spent waiting for the loader, peak of allocated memory in GB."""
    trainer = Trainer(config, distributed.start(config.runtime.device), STEPS, 1000)
    for number in range(warmup):
        trainer.step(number, [next(source)])
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    waited, started = 0.0, time.perf_counter()
    for number in range(warmup, warmup + steps):
        asked = time.perf_counter()
        batch = next(source)
        waited += time.perf_counter() - asked
        trainer.step(number, [batch])
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return {"images_per_second": round(steps * config.train.batch_size / seconds, 1),
            "loader_wait": round(waited / seconds, 4),
            "peak_gb": round(torch.cuda.max_memory_allocated() / 2 ** 30, 2)}


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write; 2 where there is no GPU."""
    parser = argparse.ArgumentParser("python -m benchmarks.speed gpu", description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128, 256], help="images a step")
    parser.add_argument("--modes", nargs="+", choices=sorted(MODES), default=list(MODES))
    parser.add_argument("--photos", type=Path, help="folder of images: measure with the loader too")
    parser.add_argument("--workers", type=int, default=8, help="loader processes")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=FOLDER)
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("error: no GPU: expected one that torch sees (nvidia-smi), found none; nothing is measured",
              file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name()
    record = {"gpu": name, "hardware": hardware(), "torch": torch.__version__, "code": code_version(),
              "views": "2 x 224 + 6 x 96", "architecture": "resnet50", "steps": options.steps,
              "photos": options.photos is not None, "workers": options.workers, "rows": []}
    path = options.output / f"{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}.json"
    sources = [("synthetic", None)] + ([("loader", options.photos)] if options.photos else [])
    for batch, mode, (source, photos) in itertools.product(options.batches, options.modes, sources):
        config = configuration(batch, mode, options.workers)
        row = {"batch": batch, "mode": mode, "source": source, **_measured(config, photos, options)}
        record["rows"].append(row)
        print(json.dumps(row), flush=True)
        options.output.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")
    return 0


def _measured(config: Config, photos: Path | None, options: argparse.Namespace) -> dict[str, float | str]:
    """`measure`, or that the memory is too small."""
    try:
        source = batches(config, photos, options.warmup + options.steps)
        return measure(config, source, options.warmup, options.steps)
    except torch.cuda.OutOfMemoryError:
        return {"failed": "out of memory"}
    except UserError as error:
        return {"failed": str(error)}
    finally:
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
