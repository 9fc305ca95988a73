"""Early numbers leave no trace; exact statistics are those of the pieces that a step takes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from transfer.finetuning import early_evaluation, finetune
from transfer.settings import resolved_config


def last_model(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / "model_final.pth", weights_only=True)["model"]


@pytest.mark.slow
@pytest.mark.parametrize("precise", [True, False])
def test_early_numbers__are_written_and_change_no_weight(precise: bool, thin_request: Callable, tmp_path: Path) -> None:
    results = [finetune.finetune(thin_request(tmp_path / str(every), "coco", f"TEST.PRECISE_BN.ENABLED={precise}",
                                              eval_every=every)) for every in (0, 1)]
    without, with_them = (last_model(tmp_path / name) for name in ("0", "1"))
    assert without.keys() == with_them.keys()
    assert all(torch.equal(value, with_them[name]) for name, value in without.items())  # buffers too
    assert results[0]["metrics"] == results[1]["metrics"]
    assert (results[0]["eval_every"], results[1]["eval_every"]) == (None, 1)
    lines = [json.loads(line) for line in (tmp_path / "1/metrics.json").read_text().splitlines()]
    found = {line["iteration"]: line["early/AP_bb"] for line in lines if "early/AP_bb" in line}
    assert set(found) == {0, 1, 2}  # after three of four iterations: the last one has its own evaluation
    assert "early/" not in (tmp_path / "0/metrics.json").read_text()
    events = next((tmp_path / "1").glob("events.out.tfevents*")).read_bytes()
    assert b"early/AP_bb" in events


def test_kept_statistics__come_back_also_after_an_error() -> None:
    norm = nn.BatchNorm2d(3)
    norm(torch.randn(4, 3, 5, 5))
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    with pytest.raises(KeyboardInterrupt), early_evaluation.kept_statistics(norm):
        norm(torch.randn(4, 3, 5, 5))
        norm.running_mean = torch.ones(3)  # as fvcore does
        raise KeyboardInterrupt
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())


def test_precise_statistics__are_those_of_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: means of the pieces weighed alike, and the variance of all that went through."""
    norm, seen = nn.BatchNorm1d(2, dtype=torch.float64), []

    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, rows: list[torch.Tensor]) -> torch.Tensor:
            seen.append(len(rows))
            return self.norm(torch.stack(rows))

    rows = list(torch.randn(24, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    asked = []

    def loader(cfg: object, workers: int, seed: int) -> list[list[torch.Tensor]]:
        asked.append((workers, seed))
        return [rows[:8], rows[8:16], rows[16:]]

    monkeypatch.setattr(early_evaluation, "train_loader", loader)
    cfg = resolved_config.layers("coco", "2fc", "full")
    cfg.SOLVER.IMS_PER_BATCH, cfg.TEST.PRECISE_BN.NUM_ITER, cfg.SEED = 8, 2, 5
    for at_once, sizes in ((8, [8, 8]), (4, [4, 4, 4, 4])):
        cfg.SOLVER.IMAGES_AT_ONCE = at_once
        seen.clear()
        early_evaluation.set_precise_statistics(cfg, Stacked())
        assert seen == sizes and asked[-1] == (0, 6)
        used = torch.stack(rows[:16])
        torch.testing.assert_close(norm.running_mean, used.mean(0))
        torch.testing.assert_close(norm.running_var, used.var(0, correction=0))
    before = norm.running_mean.clone()
    cfg.TEST.PRECISE_BN.ENABLED = False
    early_evaluation.set_precise_statistics(cfg, Stacked())
    assert len(asked) == 2 and torch.equal(norm.running_mean, before)
