"""A fine-tuning's checkpoints: the newest two, whole; a damaged one is skipped."""

from pathlib import Path

import pytest
import torch
from torch import nn

from transfer.finetuning.checkpoints import FINAL, Checkpoints, steps_done


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    model = nn.Linear(40, 20)
    made = Checkpoints(model, str(tmp_path))
    made.add_checkpointable("trainer", torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9))
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_save__keeps_two_then_a_small_last_one(checkpoints: Checkpoints, tmp_path: Path) -> None:
    (tmp_path / ".model_0000001.77.part.pth").write_bytes(b"of a killed run")
    for number in (4, 9, 14):
        checkpoints.save(f"model_{number:07d}", iteration=number)
    assert names(tmp_path) == ["last_checkpoint", "model_0000009.pth", "model_0000014.pth"]
    assert set(torch.load(tmp_path / "model_0000014.pth")) == {"model", "iteration", "trainer"}
    assert checkpoints.newest_good() == tmp_path / "model_0000014.pth" and steps_done(checkpoints.newest_good()) == 15
    checkpoints.save("model_final", iteration=15)
    assert names(tmp_path) == ["last_checkpoint", "model_final.pth"]
    assert set(torch.load(tmp_path / "model_final.pth")) == {"model", "iteration"}
    assert checkpoints.newest_good() == tmp_path / FINAL


def test_newest_good__knows_its_own_names(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.save("model_0000001", iteration=1)
    (tmp_path / "model_0backup.pth").write_bytes((tmp_path / "model_0000001.pth").read_bytes())
    assert checkpoints.newest_good() == tmp_path / "model_0000001.pth"


@pytest.mark.parametrize("change", [{"model": {}}, {"trainer": None}, {"iteration": 3}, {"model": 5}])
def test_newest_good__skips_what_is_not_this_runs(change: dict, checkpoints: Checkpoints, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture) -> None:
    for number in (1, 2):
        checkpoints.save(f"model_{number:07d}", iteration=number)
    newest = tmp_path / "model_0000002.pth"
    content = {key: value for key, value in (torch.load(newest) | change).items() if value is not None}
    torch.save(content, newest)
    assert checkpoints.newest_good() == tmp_path / "model_0000001.pth"
    assert f"checkpoint skipped: {newest} is damaged or not a checkpoint of this run" in capsys.readouterr().err


def test_save__a_failed_write_leaves_the_old_one(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save("model_0000004", iteration=4)

    def full(content: dict, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save("model_0000009", iteration=9)
    assert names(tmp_path) == ["last_checkpoint", "model_0000004.pth"]
    assert checkpoints.newest_good().name == "model_0000004.pth"


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def foreign(path: Path) -> None:
    torch.save({"model": {}, "code": half}, path)


@pytest.mark.parametrize(("spoil", "said"), [
    (half, "begins like a PyTorch file but is damaged or cut off"), (one_bit, "Bad CRC-32 for file"),
    (lambda path: path.write_bytes(b""), "is damaged or not a checkpoint of this run"),
    (foreign, "is damaged or not a checkpoint of this run")])
@pytest.mark.parametrize("last", ["model_0000009", "model_final"])
def test_newest_good__skips_a_damaged_one_and_names_it(
    spoil, said: str, last: str, checkpoints: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert checkpoints.newest_good() is None and steps_done(None) == 0
    checkpoints.save("model_0000004", iteration=4)
    kept = (tmp_path / "model_0000004.pth").read_bytes()
    checkpoints.save(last, iteration=9)
    (tmp_path / "model_0000004.pth").write_bytes(kept)
    spoil(tmp_path / f"{last}.pth")
    assert capsys.readouterr().err == ""
    assert checkpoints.newest_good() == tmp_path / "model_0000004.pth"
    shown = capsys.readouterr().err
    assert shown.startswith(f"warning: checkpoint skipped: {tmp_path / last}.pth ")
    assert said in shown and shown.count("\n") == 1
    checkpoints.save("model_0000007", iteration=7)
    assert checkpoints.newest_good() == tmp_path / "model_0000007.pth"
