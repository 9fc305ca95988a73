"""A fine-tuning that resumes notices images that changed; its processes notice that they differ."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.utils import comm

from benchmarks.demo import demo_data
from pretrain.common.errors import UserError
from tests.transfer.resolved import resolve
from transfer.finetuning import processes
from transfer.records.same_run import SameRun
from transfer.settings import datasets


@pytest.fixture
def data(tmp_path: Path) -> Path:
    demo_data.generate(tmp_path / "demo", photos=1, train=3, val=2)
    return tmp_path / "demo" / "coco"


def same_run(data: Path, output: Path, resumes: bool, **changes: object) -> SameRun:
    dataset = datasets.find(data, "coco")
    datasets.register(dataset)
    cfg = resolve(dataset, "2fc", "demo", tuple(f"{name}={value}" for name, value in changes.items()))
    cfg.defrost()
    cfg.OUTPUT_DIR = str(output)
    output.mkdir(exist_ok=True)
    return SameRun(cfg, "coco", resumes)


def test_same_run__images_that_changed_under_their_names(data: Path, tmp_path: Path) -> None:
    same_run(data, tmp_path / "out", resumes=False).check()
    same_run(data, tmp_path / "out", resumes=True).check()
    first = min((data / "images").iterdir())
    os.utime(first, ns=(0, first.stat().st_mtime_ns + 1))
    record, = (tmp_path / "out").glob("*.stamps")
    text = (rf"^1 of 3 images have changed since the run in {tmp_path / 'out'} began \(another size: 0, another "
            rf"modification time: 1\), the first is {first}: bring the old ones back, choose another --output, or "
            rf"remove {record} to go on")
    with pytest.raises(UserError, match=text):
        same_run(data, tmp_path / "out", resumes=True)
    record.unlink()
    same_run(data, tmp_path / "out", resumes=True)


def differing(data: Path, folder: Path) -> None:
    rank = comm.get_rank()
    same_run(data, folder / str(rank), False, **{"SOLVER.CHECKPOINT_PERIOD": 5 + rank}).check()


@pytest.mark.slow
def test_same_run__processes_with_different_configs(data: Path, tmp_path: Path) -> None:
    host = socket.gethostname()
    text = (rf"^processes 0 on {host} and 1 on {host} were started with different options \(.*"
            r"SOLVER.CHECKPOINT_PERIOD 5 and 6.*\): expected the same command everywhere$")
    with pytest.raises(UserError, match=text):
        processes.start(differing, 2, data, tmp_path, device="cpu")


@pytest.mark.slow
def test_finetune__resumes_only_on_the_images_that_it_began_with(thin_request: Callable, data: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from transfer.finetuning import finetune, trainer

    class Interrupt(trainer.Progress):
        def after_step(self) -> None:
            if self.trainer.iter == 2:
                raise KeyboardInterrupt

    request = replace(thin_request(tmp_path / "out"), data=data)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "Progress", Interrupt)
        with pytest.raises(KeyboardInterrupt):
            finetune.finetune(request)
    first = min((data / "images").iterdir())
    os.utime(first, ns=(0, first.stat().st_mtime_ns + 1))
    with pytest.raises(UserError, match="1 of 3 images have changed since the run"):
        finetune.finetune(request)
    next((tmp_path / "out").glob("*.stamps")).unlink()
    assert finetune.finetune(request)["iterations"] == 4
