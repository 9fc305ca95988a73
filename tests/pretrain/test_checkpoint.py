"""Checkpoints are whole or do not count."""

import errno
import json
from pathlib import Path

import pytest
import torch

from pretrain import atomic, checkpoint


def state(value):
    return {"weights": torch.full((3,), float(value)), "step": value}


def test_save__keeps_the_newest_and_writes_a_readable_note(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, state(step), {"steps": 9}, keep=2)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "step_00000002.json", "step_00000002.pt", "step_00000003.json", "step_00000003.pt"]
    note = json.loads((folder / "step_00000003.json").read_text())
    assert note["step"] == 3 and note["steps"] == 9
    assert note["sha256"] == atomic.sha256_file(folder / "step_00000003.pt")


def test_load_newest__is_exact(tmp_path):
    checkpoint.save(tmp_path, 4, state(4), {}, keep=2)
    loaded, note, passed_over = checkpoint.load_newest(tmp_path)
    assert torch.equal(loaded["weights"], state(4)["weights"]) and note["step"] == 4 and passed_over == []


def test_load_newest__nothing_there(tmp_path):
    assert checkpoint.load_newest(tmp_path) == (None, {}, [])


@pytest.mark.parametrize("damage, text", [
    (lambda path: path.write_bytes(path.read_bytes()[:-100]), "step_00000002.pt is damaged (its bytes do not fit"),
    (lambda path: path.with_suffix(".json").unlink(), "step_00000002.pt was not finished (no step_00000002.json)"),
    (lambda path: path.with_suffix(".json").write_text("{"), "step_00000002.pt is damaged"),
])
def test_load_newest__damaged_one_is_passed_over_and_named(tmp_path, damage, text):
    checkpoint.save(tmp_path, 1, state(1), {}, keep=3)
    damage(checkpoint.save(tmp_path, 2, state(2), {}, keep=3))
    loaded, note, passed_over = checkpoint.load_newest(tmp_path)
    assert note["step"] == 1 and loaded["step"] == 1
    assert len(passed_over) == 1 and passed_over[0].startswith(text)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"),
                                   RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")])
def test_save__full_disk_leaves_the_old_checkpoint_and_no_part(tmp_path, monkeypatch, error):
    checkpoint.save(tmp_path, 1, state(1), {}, keep=2)

    def fail(path, _):
        path.touch()
        raise error

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError) as raised:
        checkpoint.save(tmp_path, 2, state(2), {}, keep=2)
    assert raised.value.errno == errno.ENOSPC
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step_00000001.json", "step_00000001.pt"]
