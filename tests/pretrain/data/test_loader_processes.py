"""Shared memory that is too small is told before the start; loaders that die or fall silent are one line."""

import os
import shlex
import subprocess
import sys
import time

import pytest

from pretrain.common.errors import UserError
from pretrain.data import loader_processes
from pretrain.data.loader_processes import check_shared_memory, problem


@pytest.mark.parametrize(("free", "workers", "refused"), [
    (99, 2, True), (100, 2, False), (0, 0, False), (None, 2, False)])
def test_shared_memory__all_batches_that_may_be_ready_must_fit(free, workers, refused, monkeypatch):
    """Two processes, each with two batches of two loaders and one in hand, of ten bytes: 100."""
    monkeypatch.setattr(loader_processes, "free_shared_memory", lambda: free)
    if refused:
        with pytest.raises(UserError, match="^shared memory is too small: expected 0.0 MB free in /dev/shm for 4"):
            check_shared_memory(10, workers, 1, 2, "--workers 0")
    else:
        check_shared_memory(10, workers, 1, 2, "--workers 0")


def test_train__shared_memory_that_is_too_small_is_told_before_the_start(photos, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(loader_processes, "free_shared_memory", lambda: 400_000)
    done = cli(photos, tmp_path, workers=2)  # 2 of 48 and 1 of 32 pixels, 4 images: 67,584 bytes; 2 * 2 + 2 of them
    assert done.returncode == 2 and done.stderr.count("error: ") == 1
    assert ("error: shared memory is too small: expected 0.4 MB free in /dev/shm for 2 loader processes with batches "
            "of 0.1 MB, found 0.4 MB; use --workers 0, or give the container more (docker run --shm-size=4g)"
            ) in done.stderr
    assert not (tmp_path / "metrics.jsonl").exists()
    assert cli(photos, tmp_path, workers=0, epochs=1).returncode == 0


def test_problem__silence_names_the_deadline_and_the_memory(monkeypatch):
    monkeypatch.setattr(loader_processes, "free_shared_memory", lambda: 3_000_000)
    assert str(problem(RuntimeError("DataLoader timed out after\n5 seconds"), 2, "--workers 0")) == (
        "the loader processes gave no images in time (DataLoader timed out after 5 seconds, --loader-timeout, /dev/shm "
        "has 3 MB free): the disk of the images hangs, or shared memory is full; look at both or use --workers 0, then "
        "run the same command again to resume")
    assert problem(RuntimeError("something else"), 2, "--workers 0") is None


HANGS = """
import pretrain.data.images
read = pretrain.data.images.ImageList.read
def hang(self, number):
    import multiprocessing, time
    if multiprocessing.parent_process() is not None:
        time.sleep(1000)
    return read(self, number)
pretrain.data.images.ImageList.read = hang
"""


@pytest.mark.slow
def test_train__loaders_that_fall_silent_end_the_run_in_one_line(photos, run_pretrain, tmp_path):
    """They hang in a read, ignore SIGTERM, and are gone with the run."""
    since = time.monotonic()
    done = run_pretrain(photos, tmp_path, prelude=HANGS, workers=1, loader_timeout=2)
    assert done.returncode == 137 and "Traceback" not in done.stderr and done.stderr.count("error: ") == 1
    text = "error: the loader processes gave no images in time (DataLoader timed out after 2 seconds, --loader-timeout"
    assert text in done.stderr
    assert time.monotonic() - since < 120


RAISES = """
import pretrain.trainer
def fail(self, number, batches):
    raise ValueError("a step of an objective of one's own")
pretrain.trainer.Trainer.step = fail
"""


def test_train__a_traceback_ends_the_run_at_once_although_its_loaders_outlive_sigterm(photos, run_pretrain, tmp_path):
    since = time.monotonic()
    done = run_pretrain(photos, tmp_path, prelude=RAISES, workers=1)
    assert done.returncode == 1 and "ValueError: a step of an objective of one's own" in done.stderr
    assert time.monotonic() - since < 120 < loader_processes.TERM_GRACE


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small /dev/shm")
def test_train__with_a_shared_memory_of_one_megabyte(photos, environment, tiny_words, tmp_path):
    words = shlex.join([sys.executable, "-P", "-m", "pretrain", "--data", str(photos), "--output", str(tmp_path),
                        *tiny_words(workers=2, global_size=192)])
    done = subprocess.run(["unshare", "-m", "bash", "-c", f"mount -t tmpfs -o size=1m tmpfs /dev/shm && exec {words}"],
                          env=environment, capture_output=True, text=True, timeout=120)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 2 and "shared memory is too small" in done.stderr and "--workers 0" in done.stderr
    assert "Traceback" not in done.stderr
