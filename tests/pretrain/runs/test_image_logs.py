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


NAMES = ["a\nb.png", "a\r\x1b[2J.png", "a: b.png", ": .png", "back\\slash\\x0a.png", "caf\udce9\n.png", "\u2028x.png",
         "e\u0301\u200b\U0001f41d.png", "a:\nstep 1: b.png", " .png"]


def test_unreadable__any_file_name_is_one_line_and_is_known_again(tmp_path):
    for _ in range(2):
        log = UnreadableLog(tmp_path, MAIN, 64, 0.5)
        log.note(SimpleNamespace(unreadable=dict.fromkeys(NAMES, "cannot be read: x")))
        assert log.known == dict.fromkeys(NAMES, "cannot be read: x")
    lines = log.path.read_bytes().splitlines()
    assert len(lines) == len(NAMES) and all(line.endswith(b": cannot be read: x") for line in lines)
    assert lines[0] == b"a\\x0ab.png: cannot be read: x" and lines[5] == b"caf\xe9\\x0a.png: cannot be read: x"
    assert b"\x1b" not in log.path.read_bytes()


def test_unreadable__a_name_with_a_line_break_in_the_error_is_one_line(tmp_path):
    log = UnreadableLog(tmp_path, MAIN, 64, 0)
    with pytest.raises(UserError, match=r"the first is a\\x0ab\.png \(cannot be read: x\), all are named in") as error:
        log.note(SimpleNamespace(unreadable={"a\nb.png": "cannot be read: x"}))
    assert "\n" not in str(error.value)


def test_nonfinite__any_file_name_is_one_line(tmp_path):
    for _ in range(2):
        note_nonfinite(tmp_path, MAIN, 1, ["a\nstep 7: b.png", "caf\udce9.png"])
        log = note_nonfinite(tmp_path, MAIN, 7, ["c.png"])
    assert log.read_bytes() == b"step 1: a\\x0astep 7:\\x20b.png\nstep 1: caf\xe9.png\nstep 7: c.png\n"
