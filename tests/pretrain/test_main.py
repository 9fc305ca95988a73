"""The command line of a pretraining: what goes wrong around the loop is one line; a signal from outside is obeyed."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import pretrain.distributed
import pretrain.train
from pretrain.__main__ import parse, run
from pretrain.common.errors import UserError
from pretrain.distributed import Process


def test_run__a_process_that_is_gone_is_one_line(photos, tiny, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:1234")

    monkeypatch.setattr(pretrain.train, "train", broken)
    monkeypatch.setattr(pretrain.distributed, "start", lambda *_: Process(1, 2, torch.device("cpu")))
    with pytest.raises(UserError, match="another process of this run has ended: see its own message"):
        run(tiny(), photos, tmp_path, lambda: 0)


def test_run__a_process_that_never_comes_is_one_line(photos, tiny, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("[../unbound_buffer.cc:84] Timed out waiting\n60000ms for recv operation to complete")

    monkeypatch.setattr(pretrain.train, "train", broken)
    text = (r"^this process waited in vain for another one \(.*Timed out waiting 60000ms for recv operation to "
            r"complete; --collective-timeout\): it hangs, was stopped or was never started; end it, then run the")
    with pytest.raises(UserError, match=text):
        run(tiny(), photos, tmp_path, lambda: 0)
    text = "^stopped when another process had ended, so nothing was saved after the newest checkpoint; run the same"
    with pytest.raises(pretrain.train.Stopped, match=text) as stopped:
        run(tiny(), photos, tmp_path, lambda: 75)
    assert stopped.value.exit_code == 75


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_run__too_little_memory_is_one_line(photos, tiny, tmp_path, monkeypatch, error):
    def broken(*_):
        raise error

    monkeypatch.setattr(pretrain.train, "train", broken)
    with pytest.raises(UserError, match="the machine has too little memory for this network and batch: use a smaller"):
        run(tiny(), photos, tmp_path, lambda: 0)


def test_command_line__output_that_nobody_reads_is_no_success(environment):
    code = "from pretrain.common.errors import run_cli\ndef main():\n    raise BrokenPipeError\nrun_cli(main)"
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (141, b"", b"")


@pytest.mark.parametrize("option", ["--data", "--output"])
def test_command_line__an_empty_folder_name_is_refused(option, tmp_path, capsys):
    words = {"--data": str(tmp_path), "--output": str(tmp_path)} | {option: ""}
    with pytest.raises(SystemExit) as left:
        parse([word for pair in words.items() for word in pair])
    assert left.value.code == 2
    assert f"argument {option}: expected a folder, found an empty argument: a variable that is not set?" in \
        capsys.readouterr().err


@pytest.mark.slow
def test_command_line__a_signal_from_outside_is_obeyed(photos, environment, tiny_words, tmp_path):
    child = subprocess.Popen([sys.executable, "-P", "-m", "pretrain", "--data", str(photos), "--output", str(tmp_path),
                              *tiny_words(epochs=200)], env=environment, stderr=subprocess.PIPE, text=True,
                             start_new_session=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / "checkpoints").is_dir():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGTERM)
    _, error = child.communicate(timeout=300)
    assert child.returncode == 143
    assert "run the same command again to resume" in error
