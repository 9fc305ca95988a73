"""The parts of the loop: checkpoints, clock."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from pretrain.errors import UserError
from transfer import settings, trainer


def test_checkpoints__only_the_newest_and_a_small_last_one(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    checkpoints = trainer.Checkpoints(model, str(tmp_path))
    checkpoints.add_checkpointable("trainer", torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9))
    (tmp_path / ".model_0000001.77.part.pth").write_bytes(b"of a killed run")
    checkpoints.save("model_0000004", iteration=4)
    checkpoints.save("model_0000009", iteration=9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000009.pth"]
    assert set(torch.load(tmp_path / "model_0000009.pth")) == {"model", "iteration", "trainer"}
    checkpoints.save("model_final", iteration=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]
    assert set(torch.load(tmp_path / "model_final.pth")) == {"model", "iteration"}
    assert checkpoints.get_checkpoint_file() == str(tmp_path / trainer.FINAL)


def test_checkpoints__a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = trainer.Checkpoints(nn.Linear(2, 2), str(tmp_path))
    checkpoints.save("model_0000004", iteration=4)

    def full(content: dict, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save("model_0000009", iteration=9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000004.pth"]
    assert Path(checkpoints.get_checkpoint_file()).name == "model_0000004.pth"


def test_clock__adds_up_over_the_parts_of_a_run() -> None:
    first, second = trainer.Clock(), trainer.Clock()
    first.load_state_dict({"seconds": 100.0, "started": "2026-01-01T00:00:00+00:00"})
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert 100 <= second.seconds < 160 and second.started == "2026-01-01T00:00:00+00:00"


def test_assemble__half_precision_wants_a_gpu(tmp_path: Path) -> None:
    cfg = settings.layers("coco", "2fc", "demo")
    cfg.SOLVER.AMP.ENABLED, cfg.MODEL.DEVICE = True, "cpu"
    with pytest.raises(UserError, match="SOLVER.AMP.ENABLED True with device cpu: half precision wants a GPU"):
        trainer._assemble(cfg, nn.Linear(2, 2), trainer.Checkpoints(nn.Linear(2, 2), str(tmp_path)), trainer.Clock(),
                          "", lambda _: {}, lambda: 0)


class _Loop:
    """What a hook knows of its trainer."""

    iter, max_iter = 4, 10


@pytest.mark.parametrize(("number", "code", "saved"), [
    (4, 0, []), (4, 143, ["model_0000004"]), (5, 0, ["model_0000005"]), (9, 0, ["model_final"]),
    (9, 75, ["model_final"])])
def test_save_hook__saves_when_it_is_time_and_when_asked_to_stop(number: int, code: int, saved: list,
                                                                capsys: pytest.CaptureFixture) -> None:
    class Notes:
        names: ClassVar[list] = []

        def save(self, name: str, **_: object) -> None:
            self.names.append(name)

    Notes.names.clear()
    hook = trainer.SaveHook(Notes(), 3, trainer.Clock(), lambda: code)
    hook.trainer = _Loop()
    hook.trainer.iter = number
    if code:
        with pytest.raises(SystemExit) as left:
            hook.after_step()
        assert left.value.code == code
        assert f"stopped after iteration {number + 1} of 10, saved" in capsys.readouterr().err
    else:
        hook.after_step()
    assert Notes.names == saved
