"""The fine-tuning benchmark: detectron2's plain loop and ours do the same work on it. Times are not tested."""

from pathlib import Path

import pytest
import torch

from benchmarks.demo import demo_data
from benchmarks.speed import finetuning
from pretrain.common.errors import UserError
from transfer.settings import datasets, resolved_config
from transfer.settings.request import Request
from transfer.settings.start_weights import read_weights


def test_sides__have_the_same_losses_and_weights_and_every_part_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    demo_data.generate(tmp_path / "demo", photos=1, train=4, val=2)
    request = Request(task="coco", scale="tiny", weights="random", data=tmp_path / "demo" / "coco", output="",
                      architecture="resnet18")
    dataset = datasets.find(request.data, "coco")
    cfg = resolved_config.resolve(dataset, request, read_weights("random", "resnet18"), "cpu")
    name = datasets.register(dataset)[1]
    losses: dict[str, list[float]] = {finetuning.PLAIN: [], finetuning.OURS: []}
    made = []

    def kept(cfg: object, build: object = finetuning.sides) -> dict[str, finetuning.Side]:
        both = build(cfg)
        for side, found in both.items():
            step = found.step
            found.step = lambda *given, step=step, side=side, **more: losses[side].append(step(*given, **more))
        made.append(both)
        return both

    monkeypatch.setattr(finetuning, "sides", kept)
    found = finetuning.measure(cfg, name, iterations=2, evaluated=2)
    assert losses[finetuning.PLAIN] == losses[finetuning.OURS] and len(set(losses[finetuning.OURS])) == 3
    plain, ours = (side.trainer.model.state_dict() for side in made[0].values())
    assert all(torch.equal(value, ours[name]) for name, value in plain.items())
    for part in ("loader", "forward", "backward", "optimizer", "step", "evaluation"):
        for side in (finetuning.PLAIN, finetuning.OURS):
            times = finetuning.EVALUATIONS if part == "evaluation" else 2
            assert len(found[part][side]) == times and min(found[part][side]) > 0, (part, side)
    for parts in zip(*(found[part][finetuning.OURS] for part in (*finetuning.PARTS, "step")), strict=True):
        assert sum(parts[:-1]) == pytest.approx(parts[-1])


def test_main__refuses_nothing_to_do() -> None:
    with pytest.raises(UserError, match="--iterations, --evaluated and --threads of at least 1, found less"):
        finetuning.main(["--task", "coco", "--data", "x", "--iterations", "0"])
