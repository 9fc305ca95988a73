"""Asked to stop, a fine-tuning saves and leaves; killed in any way, it ends as if nothing had been."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm

from pretrain.common.errors import Killed, UserError
from pretrain.common.signals import EXIT_CODES
from pretrain.data import loader_processes
from transfer.finetuning import evaluate, finetune, one_process, processes, trainer
from transfer.finetuning.finetune import Request

PATIENCE = 240  # seconds


def words(request: Request) -> list[str]:
    """The command line of `request`."""
    said = [sys.executable, "-P", "-m", "transfer", "finetune"]
    for name in ("task", "weights", "data", "output", "scale", "architecture", "device", "fit", "num_gpus"):
        if getattr(request, name):
            said += [f"--{name.replace('_', '-')}", str(getattr(request, name))]
    for override in request.overrides:
        said += ["--set", override]
    return said


def stopped(request: Request, number: int) -> tuple[int, str]:
    """Start `request` on its own and send it a signal when its first checkpoint is there; (exit code, stderr)."""
    process = subprocess.Popen(words(request), stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + PATIENCE
    while not Path(request.output, "last_checkpoint").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def end(output: Path) -> dict:
    return torch.load(output / "model_final.pth", weights_only=True)["model"]


def assert_equal_ends(one: Path, other: Path) -> None:
    ends = [end(one), end(other)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.slow
def test_kill_9__in_the_middle_of_an_accumulated_run_leaves_no_trace(thin_request: Callable, tmp_path: Path) -> None:
    more = ("SOLVER.IMS_PER_BATCH=4", "SOLVER.MAX_ITER=9", "SOLVER.STEPS=5,")
    whole, parts = (thin_request(tmp_path / name, "coco", *more, fit="accumulate=2") for name in ("whole", "parts"))
    expected = finetune.finetune(whole)
    assert (expected["images_at_once"], expected["batch_norm_images"], expected["fit"]) == (2, 2, "accumulate")
    code, _ = stopped(parts, signal.SIGKILL)
    assert code == -signal.SIGKILL and not (tmp_path / "parts/model_final.pth").exists()
    found = finetune.finetune(parts)
    assert_equal_ends(tmp_path / "whole", tmp_path / "parts")
    assert found["metrics"] == expected["metrics"]


@pytest.mark.slow
def test_sigterm__to_two_accumulating_processes(thin_request: Callable, tmp_path: Path) -> None:
    more = ("SOLVER.IMS_PER_BATCH=4", "SOLVER.MAX_ITER=20", "SOLVER.STEPS=15,")
    whole, parts = (thin_request(tmp_path / name, "coco", *more, fit="accumulate=2", num_gpus=2)
                    for name in ("whole", "parts"))
    code, said = stopped(parts, signal.SIGTERM)
    assert code == 143 and "of 20, saved; run the same command again to resume" in said
    assert "Traceback" not in said and not (tmp_path / "parts/model_final.pth").exists()
    result = finetune.finetune(parts)
    assert (result["batch_norm_images"], result["processes"]) == (2, 2)
    finetune.finetune(whole)
    assert_equal_ends(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("number", [signal.SIGTERM, *(pytest.param(number, marks=pytest.mark.slow)
                                                      for number in (signal.SIGINT, signal.SIGUSR2))])
def test_stop__saves_after_the_step_and_goes_on_from_there(
    number: int, thin_request: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture) -> None:
    request = thin_request(tmp_path, "coco", "TEST.PRECISE_BN.ENABLED=False", "DATALOADER.NUM_WORKERS=1")
    children = []

    class Signal(trainer.Progress):
        def before_step(self) -> None:
            if self.trainer.iter == 2:
                children.extend(multiprocessing.active_children())
                signal.raise_signal(number)
                for child in children:
                    os.kill(child.pid, number)  # as when a whole group is told

    before = [signal.getsignal(each) for each in EXIT_CODES]
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "Progress", Signal)
        with pytest.raises(SystemExit) as left:
            finetune.finetune(request)
    assert left.value.code == EXIT_CODES[number]
    assert len(children) == 1 and not multiprocessing.active_children()
    assert [signal.getsignal(each) for each in EXIT_CODES] == before
    assert "stopped after iteration 3 of 4, saved; run the same command again to resume" in capsys.readouterr().err
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    assert "Exception" not in (tmp_path / "log.txt").read_text()
    begun = []
    monkeypatch.setattr(trainer.AccumulatingTrainer, "run_step", lambda self: begun.append(self.iter))
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: {})
    finetune.finetune(request)
    assert begun == [3]


def test_loader__that_is_killed_is_one_line(thin_request: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                            ) -> None:
    class Kill(trainer.Progress):
        def before_step(self) -> None:
            if self.trainer.iter == 1:
                for child in multiprocessing.active_children():
                    child.kill()
                time.sleep(5)  # the signal that a child has died comes here

    monkeypatch.setattr(trainer, "Progress", Kill)
    text = (r"^a loader process died \(DataLoader worker .*\): the memory may be too small for 1 "
            r"\(--set DATALOADER.NUM_WORKERS\); run the same command again to resume$")
    with pytest.raises(Killed, match=text):
        finetune.finetune(thin_request(tmp_path, "coco", "DATALOADER.NUM_WORKERS=1"))
    assert not multiprocessing.active_children()


def test_loader__shared_memory_that_is_too_small_is_told_before_the_start(
    thin_request: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_processes, "free_shared_memory", lambda: 10_000)
    monkeypatch.setattr(trainer.AccumulatingTrainer, "run_step", None)
    text = (r"^shared memory is too small: expected 0\.\d MB free in /dev/shm for 1 loader processes with batches of "
            r"0\.\d MB, found 0\.0 MB; use --set DATALOADER.NUM_WORKERS=0, or give the container more")
    with pytest.raises(UserError, match=text):
        finetune.finetune(thin_request(tmp_path, "coco", "DATALOADER.NUM_WORKERS=1"))


HANGS = """
import sys, time, multiprocessing
from transfer.finetuning import mapper
from pretrain.common import stalls
stalls.PATIENCE = 3.0
call = mapper.Mapper.__call__
def hang(self, record):
    if multiprocessing.parent_process() is not None:
        open(sys.argv[sys.argv.index("--output") + 1] + "/hangs", "w").close()
        time.sleep(1000)
    return call(self, record)
mapper.Mapper.__call__ = hang
from pretrain.common.errors import run_cli
from transfer.__main__ import main
run_cli(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR2, 75), (None, 137)])
def test_loader__that_hangs_ends_with_a_signal_or_its_deadline(number: int | None, code: int, thin_request: Callable,
                                                              tmp_path: Path) -> None:
    own = words(thin_request(tmp_path, "coco", "DATALOADER.NUM_WORKERS=1"))[4:]
    own += [] if number else ["--loader-timeout", "3"]
    process = subprocess.Popen([sys.executable, "-P", "-c", HANGS, *own], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "hangs").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    since = time.monotonic()
    if number:
        process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == code and "Traceback" not in said, said
    assert time.monotonic() - since < 60
    if not number:
        assert said.count("error: ") == 1 and "error: the loader processes gave no images in time" in said


def _ended(folder: Path) -> None:
    if comm.get_rank():
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()


@pytest.mark.slow
def test_start__a_process_that_the_system_ends_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Killed, match="one of 2 processes was killed: run the same command again to resume|"
                                        "another process of this run has ended") as error:
        processes.start(_in_one_line, 2, tmp_path, device="cpu")
    assert "\n" not in str(error.value)


def _aborted() -> None:
    if comm.get_rank():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.abort()
    time.sleep(60)


@pytest.mark.slow
def test_start__a_process_that_nccl_aborts_is_a_stall() -> None:
    with pytest.raises(Killed) as error:
        processes.start(_aborted, 2, device="cpu")
    assert str(error.value) == ("one of 2 processes was aborted, as NCCL does with one that waited in vain for another "
                                "one (--collective-timeout): run the same command again to resume")


def _in_one_line(folder: Path) -> None:
    with one_process.one_line_errors():
        _ended(folder)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR2, 75)])
def test_leaving__outside_of_the_training_at_once(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left, processes.leaving():
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert left.value.code == code and signal.getsignal(number) is before


def _leave(code: int) -> None:
    sys.exit(code)


def _mistake() -> None:
    raise UserError("expected this, found that")


@pytest.mark.slow
def test_start__exit_codes_and_errors_of_several_processes() -> None:
    with pytest.raises(SystemExit) as left:
        processes.start(_leave, 2, 75, device="cpu")
    assert left.value.code == 75
    with pytest.raises(UserError, match="^expected this, found that$"):
        processes.start(_mistake, 2, device="cpu")


GPU_IN_EVERY_PROCESS = """
import os
import torch
torch.cuda.is_available = lambda: os.environ.get("CUDA_VISIBLE_DEVICES") != ""
torch.cuda.device_count = lambda: int(torch.cuda.is_available())
"""


def _gpus_seen(folder: Path) -> None:
    backend = torch.distributed.get_backend()
    (folder / f"{comm.get_rank()}").write_text(f"{backend} {torch.cuda.is_available()}")


@pytest.mark.slow
def test_start__two_processes_on_the_cpu_of_a_machine_with_one_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(GPU_IN_EVERY_PROCESS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    processes.start(_gpus_seen, 2, tmp_path, device="cpu")
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["gloo False", "gloo False"]
    with pytest.raises(Exception, match="AssertionError"):  # detectron2's: two processes, one GPU
        processes.start(_gpus_seen, 2, tmp_path, device="cuda")


@pytest.mark.parametrize("before", [None, "0,1"])
@pytest.mark.parametrize(("device", "inside"), [("cpu", ""), ("cuda", "as before")])
def test_start__processes_on_cpus_see_no_gpu(
    device: str, inside: str, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, seen = "CUDA_VISIBLE_DEVICES", []
    monkeypatch.delenv(name)
    if before:
        monkeypatch.setenv(name, before)
    monkeypatch.setattr(processes, "launch", lambda *_, **__: seen.append(os.environ.get(name)))
    processes.start(_mistake, 2, device=device)
    assert seen == ([before] if inside else [""]) and os.environ.get(name) == before


def test_choose_device__cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes.choose_device(None, 1) == "cpu"
    with pytest.raises(UserError, match="--device cuda: torch sees no GPU here; use --device cpu"):
        processes.choose_device("cuda", 1)
    with pytest.raises(UserError, match="--num-gpus 0: expected 1 to"):
        processes.choose_device(None, 0)
