"""The parts of the loop: clock, the hook that saves."""

import json
from typing import ClassVar

import pytest
from torch import nn

from pretrain.common.errors import UserError
from transfer.finetuning import trainer
from transfer.settings import resolved_config


def test_clock__adds_up_over_the_parts_of_a_run() -> None:
    first, second = trainer.Clock(), trainer.Clock()
    first.load_state_dict({"seconds": 100.0, "started": "2026-01-01T00:00:00+00:00"})
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert 100 <= second.seconds < 160 and second.started == "2026-01-01T00:00:00+00:00"


def test_trainer_of__half_precision_needs_a_gpu() -> None:
    cfg = resolved_config.layers("coco", "2fc", "demo")
    cfg.SOLVER.AMP.ENABLED, cfg.MODEL.DEVICE = True, "cpu"
    with pytest.raises(UserError, match="SOLVER.AMP.ENABLED True with device cpu: half precision needs a GPU"):
        trainer.trainer_of(cfg, nn.Linear(2, 2))


def test_trainer_of__one_precision_at_a_time() -> None:
    cfg = resolved_config.layers("coco", "2fc", "demo")
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.PRECISION, cfg.MODEL.DEVICE = True, "bf16", "cuda"
    with pytest.raises(UserError, match="ENABLED True is float16, found --precision bf16 too: leave out one"):
        trainer.trainer_of(cfg, nn.Linear(2, 2))


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
