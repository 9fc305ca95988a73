"""clove preflight: two iterations, an evaluation of two images and a save, on this
machine.

The whole dataset is read and checked as a fine-tuning does it; then the fine-tuning itself runs
on a few of its images (`Task.excerpt`), from random weights, with the batch, the processes and
the device of the real one. A broken dataset or evaluator, a full disk and a batch that does not
fit the memory show in minutes and not after 90,000 iterations.
"""

import argparse
import contextlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

from pretrain.common.atomic import write_text
from pretrain.common.errors import refuse
from transfer import tasks
from transfer.finetuning import finetune
from transfer.records.provenance import hardware
from transfer.settings import datasets
from transfer.settings.random_starts import RAND

ITERATIONS, TRAIN, VAL = 2, 16, 2
PASSED, WORK = "preflight.json", "work"
SHORT = (f"SOLVER.MAX_ITER={ITERATIONS}", "SOLVER.STEPS=()", "SOLVER.CHECKPOINT_PERIOD=1",
         f"TEST.PRECISE_BN.NUM_ITER={ITERATIONS}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    finetune.add_task_arguments(parser)
    parser.add_argument("--output", required=True, metavar="DIR",
                        help=f"a folder of its own, for {PASSED}; the logs of one that failed stay there")


def run(args: argparse.Namespace) -> int:
    found = preflight(finetune.Request.of(args, weights=RAND.weights))
    print(f"preflight of {found['task']} passed in {found['seconds']:.0f} s: {found['iterations']} iterations of "
          f"{found['images_per_batch']} images, {found['evaluated']} evaluated, a save; peak "
          f"{found['peak_memory_mb'] / 1024:.1f} GB")
    return 0


def preflight(request: finetune.Request) -> dict:
    """A short try of `request`; writes preflight.json into its output and returns the content.

    Raises what `finetune.finetune` raises; a run that failed stays in OUTPUT/work, for its log.txt.
    """
    started, output = time.monotonic(), Path(request.output)
    refuse((output.is_dir() and any(path.name not in (PASSED, WORK) for path in output.iterdir()),
            f"{output} holds other files: a preflight needs a folder of its own"))
    work = output / WORK
    shutil.rmtree(work, ignore_errors=True)  # of one that failed
    (output / PASSED).unlink(missing_ok=True)
    dataset = datasets.find(request.data, request.task)
    try:
        tasks.get(request.task).excerpt(dataset, work / "data", TRAIN, VAL)
        short = replace(request, data=work / "data", output=work / "run",
                        overrides=(*request.overrides, *SHORT))
        found = finetune.finetune(short)
    finally:
        if not (work / "run").exists():  # refused before it began: nothing to look at
            shutil.rmtree(work, ignore_errors=True)
            with contextlib.suppress(OSError):
                output.rmdir()
    record = {"task": request.task, "passed": True, "iterations": found["iterations"],
              "images_per_batch": found["config"]["SOLVER"]["IMS_PER_BATCH"],
              "evaluated": found["dataset"]["val"]["images"], "peak_memory_mb": found["peak_memory_mb"],
              "seconds": round(time.monotonic() - started, 1), "hardware": hardware()}
    shutil.rmtree(work)
    write_text(output / PASSED, json.dumps(record, indent=1) + "\n")
    return record
