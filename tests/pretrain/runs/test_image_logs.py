"""The images that a run names: each once, also over a restart, and too many that cannot be read end it."""

from types import SimpleNamespace

import pytest
import torch

from pretrain.common.errors import UserError
from pretrain.distributed import Process
from pretrain.runs.image_logs import UnreadableLog, note_nonfinite

MAIN = Process(0, 1, torch.device("cpu"))


def test_nonfinite__names_the_images_of_a_step_once(tmp_path):
    """A killed run meets its last steps again."""
    for step in (2, 12, 2, 12, 1):
        log = note_nonfinite(tmp_path, MAIN, step, [f"{step}.png", "b.png"])
    assert log == tmp_path / "nonfinite.log" and log.read_text().splitlines() == [
        "step 2: 2.png", "step 2: b.png", "step 12: 12.png", "step 12: b.png", "step 1: 1.png", "step 1: b.png"]


@pytest.mark.parametrize(("share", "bad", "processes", "stops"), [
    (0.1, 6, 2, False), (0.1, 7, 2, True), (0.1, 6, 1, False), (0.001, 1, 1, False), (0.001, 2, 1, True),
    (0, 1, 1, True)])
def test_unreadable__the_share_is_of_all_images_for_every_process(tmp_path, share, bad, processes, stops):
    log = UnreadableLog(tmp_path, Process(1, processes, torch.device("cpu")), 64, share)
    batch = SimpleNamespace(unreadable={f"a: {number}.png": "cannot be decoded: x" for number in range(bad)})
    if stops:
        most = f"expected at most a share of {share:g}"
        with pytest.raises(UserError, match=f"^{bad} of 64 images cannot be read, {most} "):
            log.note(batch)
    else:
        log.note(batch)
    assert len(log.known) == bad


def test_unreadable__is_known_after_a_restart_and_written_once(tmp_path):
    batch = SimpleNamespace(unreadable={"a.png": "cannot be decoded: x: y", "caf\udce9.png": "the file is gone"})
    for _ in range(2):
        log = UnreadableLog(tmp_path, MAIN, 64, 0.5)
        log.note(batch)
        assert log.known == batch.unreadable
    assert log.path == tmp_path / "unreadable.log"
    assert log.path.read_bytes() == b"a.png: cannot be decoded: x: y\ncaf\xe9.png: the file is gone\n"


def test_unreadable__a_line_that_a_kill_cut_off_is_read(tmp_path):
    (tmp_path / "unreadable.log").write_text("a.png: the file is gone\nb.p")
    assert UnreadableLog(tmp_path, MAIN, 64, 0.5).known == {"a.png": "the file is gone", "b.p": ""}
