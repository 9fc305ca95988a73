"""A full disk ends a fine-tuning in one line, without a word of logs, TensorBoard or other processes."""

import errno
import logging
import os
import shlex
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.common import errors
from pretrain.common.errors import UserError
from tests.transfer.finetuning.test_processes import words
from transfer.finetuning import one_process

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")


def test_logged__a_full_disk_is_left_to_what_is_written_beside_it(capsys: pytest.CaptureFixture) -> None:
    with one_process.logged(Path("/dev/full")):
        logging.getLogger("detectron2").warning("a line")
    assert capsys.readouterr() == ("", "")


def test_logged__a_name_that_is_no_utf8(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with one_process.logged(tmp_path / "log.txt"):
        logging.getLogger("detectron2").warning("left out %s", "caf\udce9.png")
    assert "left out caf\\udce9.png" in (tmp_path / "log.txt").read_text() and capsys.readouterr().err == ""


@pytest.mark.parametrize(("error", "said"), [(FULL, False), (ValueError("x"), True)])
def test_quiet_threads__leave_a_full_disk_to_the_main_thread(
    error: Exception, said: bool, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    errors.quiet_threads()
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert ("ValueError: x" in capsys.readouterr().err) == said


def test_one_line_errors__of_the_file_system_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a `UserError`, whose text the first process shows."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    text = "^No space left on device: x; free space or choose another folder, then run the same command again$"
    with pytest.raises(UserError, match=text), one_process.one_line_errors():
        raise FULL
    with pytest.raises(ConnectionResetError), one_process.one_line_errors():
        raise ConnectionResetError


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize(("processes", "size"), [(1, "40m"), (1, "20k"), (2, "40m")])
def test_finetune__on_a_full_disk_is_one_line(
    processes: int, size: str, thin_request: Callable, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    command = shlex.join(words(thin_request(tmp_path / "disk" / "run", num_gpus=processes)))
    mount = f"mount -t tmpfs -o size={size} tmpfs {tmp_path / 'disk'} && exec {command}"
    done = subprocess.run(["unshare", "-m", "bash", "-c", mount], capture_output=True, text=True, timeout=600)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(done.stderr)
    said = [line for line in done.stderr.splitlines() if "Rand init" not in line and "Warning" not in line]
    said = [line for line in said if line and not line.startswith("  warnings.warn")]
    assert done.returncode == 2 and len(said) == 1, done.stderr
    assert said[0].startswith("error: No space left on device: ") and said[0].endswith("run the same command again")
