"""One GPU takes the published batch in pieces by itself, and says what a run will cost."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.transfer.resolved import resolve
from transfer.data.dataset import Dataset, Split
from transfer.finetuning import finetune
from transfer.settings import one_gpu
from transfer.settings.request import Request
from transfer.tasks import get

ASKED = Request(task="coco", weights="random", data="", output="")
SPLIT = Split(2, Path("annotations.json"), Path("images"), "0" * 64)


@pytest.mark.parametrize(("task", "fit"), [("coco", "accumulate=4"), ("keypoints", "accumulate=4"),
                                           ("cityscapes", "accumulate=2"), ("coco-c4", "accumulate=4")])
def test_fitted__one_gpu_takes_a_quarter_of_the_published_batch_at_once(task: str, fit: str) -> None:
    asked = replace(ASKED, task=task)
    assert one_gpu.fitted(asked, "cuda") == replace(asked, fit=fit)


@pytest.mark.parametrize(("changes", "device"), [
    ({}, "cpu"), ({"num_gpus": 2}, "cuda"), ({"scale": "mini"}, "cuda"), ({"fit": "accumulate=16"}, "cuda"),
    ({"fit": "linear=4"}, "cuda"), ({"schedule": "1x_1gpu_linear"}, "cuda"),
    ({"overrides": ("SOLVER.IMS_PER_BATCH=2",)}, "cuda")])
def test_fitted__changes_nothing_that_was_asked_for(changes: dict, device: str) -> None:
    asked = replace(ASKED, **changes)
    assert one_gpu.fitted(asked, device) is asked


@pytest.mark.parametrize(("task", "fit", "processes", "lines"), [
    ("coco", "accumulate=4", 1, [
        "90,000 steps of 16 images: about 52 hours and 11 GB on each of 1 V100 (by detectron2's model zoo, not "
        "measured here)",
        "4 images at once, their gradients accumulated: batch, rate and schedule stay, batch norm sees 4 images; --fit "
        "accumulate=16 takes the whole batch"]),
    ("coco", None, 1, ["90,000 steps of 16 images: about 52 hours and 44 GB on each of 1 V100 "]),
    ("coco", "linear=4", 1, ["360,000 steps of 4 images: about 52 hours and 11 GB on each of 1 V100 "]),
    ("keypoints", None, 8, ["180,000 steps of 16 images: about 16 hours and 5 GB on each of 8 V100 "]),
    ("cityscapes", "accumulate=2", 1, ["24,000 steps of 8 images: about 13 hours and 9 GB on each of 1 V100 ",
                                       "2 images at once, "])])
def test_cost__hours_and_memory_of_the_model_zoo(task: str, fit: str | None, processes: int, lines: list) -> None:
    dataset = Dataset(task, SPLIT, SPLIT, tuple("abcdefgh"), ("boxes", "masks", "keypoints"))
    asked = replace(ASKED, task=task, fit=fit, num_gpus=processes)
    cfg = resolve(dataset, get(task).default_heads, "full", fit=fit, num_gpus=processes, device="cuda")
    found = one_gpu.cost(cfg, asked)
    assert len(found) == len(lines) and all(map(str.startswith, found, lines)), found


def test_cost__nothing_on_a_cpu_and_at_a_small_scale() -> None:
    dataset = Dataset("coco", SPLIT, SPLIT, ("disc", "star"), ("boxes", "masks"))
    for scale, device in (("full", "cpu"), ("mini", "cuda")):
        assert one_gpu.cost(resolve(dataset, "2fc", scale, device=device), replace(ASKED, scale=scale)) == []


def test_finetune__says_and_records_that_it_accumulates(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    recorded: dict = {}
    monkeypatch.setattr(finetune, "choose_device", lambda *_: "cuda")
    monkeypatch.setattr(finetune.result, "begin", lambda _, about, cfg: recorded.update(about, solver=cfg.SOLVER))
    monkeypatch.setattr(finetune, "start", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        finetune.finetune(replace(ASKED, data=small_data / "coco", output=tmp_path / "out"))
    assert (recorded["fit"], recorded["schedule"], recorded["images_at_once"]) == ("accumulate", "1x", 4)
    assert recorded["batch_norm_images"] == 4
    solver = recorded["solver"]
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (16, 0.02, 90_000)
    said = capsys.readouterr().err
    assert "90,000 steps of 16 images: about 52 hours and 11 GB on each of 1 V100" in said
    assert "4 images at once, their gradients accumulated" in said
