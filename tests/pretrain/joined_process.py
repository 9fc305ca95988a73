"""One process of the distributed tests: does everything that is compared and saves it. Not a test itself.

Arguments: folder of photographs, folder for results, the configuration as JSON. torchrun's variables say who it is.
Everything but the image boxes is in float64, so that a difference is a mistake and not rounding.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double

from pretrain import distributed, train  # noqa: E402 - after the switch to float64
from pretrain.common.signals import stop_signals  # noqa: E402
from pretrain.config import Config, load_config  # noqa: E402
from pretrain.data.batches import list_images, make_loader  # noqa: E402
from pretrain.distributed import Process  # noqa: E402


def steps(process: Process, photos: Path, config: Config) -> dict:
    """Two optimizer steps of the trainer, each of two accumulated micro-batches."""
    names = list_images(photos)
    trainer = train.Trainer(config, process, 4, 2)
    loader = make_loader(names, config, range(2), process)
    results, grads = [], []
    for step in range(2):
        results.append(trainer.step(step + 1, [next(loader) for _ in range(trainer.accumulation)]))
        grads.append({name: value.grad.clone() for name, value in trainer.student.named_parameters()})
    return {"results": results, "grads": grads, "student": trainer.student.state_dict(),
            "teacher": trainer.objective.follower.state_dict()}


def own_statistics(process: Process, photos: Path, config: Config) -> dict:
    """The same, with batch norm that sees its own process's share only: must be told from the above."""
    synchronise = distributed.synchronise_batch_norm
    distributed.synchronise_batch_norm = lambda module, _: module
    try:
        return steps(process, photos, config)
    finally:
        distributed.synchronise_batch_norm = synchronise


def runs(process: Process, photos: Path, folder: Path, config: Config) -> dict:
    """Whole runs: uninterrupted, stopped by a signal that one process alone receives, started again from scratch."""
    done = {}
    train.train(config, photos, folder / "whole", process)
    step = train.Trainer.step

    def stopping(self: train.Trainer, number: int, batches: list) -> dict:
        if number == 2 and process.rank == process.world - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, batches)

    train.Trainer.step = stopping
    try:
        with stop_signals() as stop:
            train.train(config, photos, folder / "stopped", process, stop)
    except train.Stopped as stopped:
        done["stopped"] = (str(stopped), stopped.exit_code)
    train.Trainer.step = step
    train.train(config, photos, folder / "stopped", process)

    distributed.barrier()
    if process.is_main:  # as if it had been killed after its first probe and before its first checkpoint
        (folder / "whole" / "backbone.safetensors").rename(folder / "first.safetensors")
        (folder / "whole" / "done.json").unlink()
        for path in (folder / "whole" / "checkpoints").iterdir():
            path.unlink()
    distributed.barrier()
    train.train(config, photos, folder / "whole", process)
    return done


def main() -> None:
    for figure in ("draw_curves", "draw_views", "draw_run"):
        setattr(train, figure, lambda *_: None)
    photos, folder, given = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    process = distributed.start("cpu")
    config = load_config(None, given | {"batch_size": 8, "device_batch": 4 // process.world})
    result = {"steps": steps(process, photos, config)}
    if process.world > 1:
        result["own_statistics"] = own_statistics(process, photos, config)
        few = load_config(None, given | {"epochs": 2, "checkpoint_every": 100})
        result["runs"] = runs(process, photos, folder, few)
    torch.save(result, folder / f"{process.rank}_of_{process.world}.pt")
    distributed.stop()


main()
