"""One fine-tuning from request to result.json; what stops it, and what starting again does."""

import argparse
import contextlib
import json
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.demo import demo_data
from pretrain.common.atomic import sha256_file
from pretrain.common.errors import UserError, run_cli
from transfer.conversion.certificate import write_certificate
from transfer.finetuning import evaluate, finetune, one_process, trainer
from transfer.finetuning.finetune import Request
from transfer.settings import datasets

THIN = (
    "SOLVER.MAX_ITER=4", "SOLVER.STEPS=3,", "SOLVER.CHECKPOINT_PERIOD=2", "TEST.PRECISE_BN.NUM_ITER=2",
    "MODEL.FPN.OUT_CHANNELS=16", "MODEL.ROI_BOX_HEAD.CONV_DIM=16", "MODEL.ROI_BOX_HEAD.FC_DIM=32",
    "MODEL.ROI_MASK_HEAD.CONV_DIM=16", "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS=16,", "INPUT.MIN_SIZE_TRAIN=64,",
    "INPUT.MIN_SIZE_TEST=64",
)
START = (*THIN, "SOLVER.MAX_ITER=0")


def request(small_data: Path, output: Path, task: str = "coco", overrides: tuple = THIN, **words: object) -> Request:
    values = {"weights": "random", "architecture": "resnet18", "scale": "demo", "device": "cpu", **words}
    return Request(task=task, data=small_data / task, output=output, overrides=overrides, **values)


def test_finetune__result_says_all_that_made_it(small_data: Path, converted: Path, tmp_path: Path) -> None:
    result = finetune.finetune(request(small_data, tmp_path, weights=str(converted), trial=2))
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert result["schema"] == 2 and result["table"] == "coco_detection_segmentation"
    assert None not in evaluate.columns("coco", result["metrics"]).values() and "details" not in result
    assert (result["trial"], result["seed"], result["heads"], result["scale"]) == (2, 2, "4conv1fc", "demo")
    weights = result["weights"]
    assert (weights["method"], weights["epochs"], weights["branch"]) == ("CLoVE", 7, "student")
    assert weights["standard"] is False and weights["pkl_sha256"] == sha256_file(converted / "detectron2.pkl")
    assert weights["conversion"] == json.loads((converted / "conversion.json").read_text())
    assert result["dataset"]["classes"] == ["disc", "plank", "triangle", "star"]
    assert result["dataset"]["train"]["images"] == 3 and result["iterations"] == 4
    assert result["config"]["MODEL"]["ROI_BOX_HEAD"]["NUM_CONV"] == 4 and len(result["config_sha256"]) == 64
    assert result["overrides"] == list(THIN)
    assert (result["kind"], result["schedule"], result["solver"], result["fit"]) == ("finetuning", None, "common", None)
    assert (result["images_at_once"], result["batch_norm_images"], result["processes"]) == (2, 2, 1)
    assert (result["eval_every"], result["predictions"]) == (None, None)
    assert weights["init"] == "converted checkpoint" and weights["fpn"] is False
    assert weights["pixel_format"] == {"channel_order": "RGB", "mean": [123.675, 116.28, 103.53],
                                       "std": [58.395, 57.12, 57.375], "stride_in_1x1": False}
    assert {f"{group}/{name}" for group in ("bbox", "segm") for name in ("AP", "APs", "APm", "APl", "AP-star")} <= set(
        result["metrics"])
    assert {"python", "torch", "torchvision", "detectron2", "pycocotools", "numpy", "cityscapesscripts", "lvis",
            "cuda"} == set(result["versions"])
    assert result["kernels"] == {}  # nothing to choose on a CPU
    assert result["wall_seconds"] > 0 and result["peak_memory_mb"] > 50 and result["hardware"]["cores"] >= 1
    assert set(result["code"]) == {"git_sha", "dirty", "transfer_sha256"} and result["started"] <= result["ended"]
    files = {path.name for path in tmp_path.iterdir()}
    assert {"config.yaml", "metrics.json", "log.txt", "predictions.png", "examples.json", "model_final.pth"} <= files
    assert any(name.startswith("events.out.tfevents") for name in files)
    with Image.open(tmp_path / "predictions.png") as image:
        assert image.width == 960


@pytest.mark.slow
@pytest.mark.parametrize(("task", "heads", "norms"), [("keypoints", "2fc", 0), ("cityscapes", "2fc", 0),
                                                      ("keypoints", "4conv1fc", 4)])
def test_finetune__other_tasks_and_their_heads(task: str, heads: str, norms: int, small_data: Path,
                                               tmp_path: Path) -> None:
    words = {} if norms == 0 else {"heads": heads}
    result = finetune.finetune(request(small_data, tmp_path, task, **words))
    assert result["heads"] == heads and None not in evaluate.columns(task, result["metrics"]).values()
    assert result["weights"]["method"] == "Rand init" and result["weights"]["pkl_sha256"] is None
    names = torch.load(tmp_path / "model_final.pth")["model"]
    assert sum(name.startswith("roi_heads.box_head.conv") and name.endswith("norm.weight") for name in names) == norms


def test_finetune__finished_is_only_read(small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    first = finetune.finetune(request(small_data, tmp_path, overrides=START))
    monkeypatch.setattr(finetune, "start", None)  # nothing may be started
    assert finetune.finetune(request(small_data, tmp_path, overrides=START)) == first
    assert f"{tmp_path} is finished: nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "text"), [
    ({"overrides": (*START, "SOLVER.BASE_LR=0.5")}, "holds another run: SOLVER.BASE_LR was 0.02, is 0.5"),
    ({"trial": 1}, "holds another run: trial was 0, is 1; SEED was 0, is 1"),
    ({"heads": "2fc"}, "holds another run: heads was 4conv1fc, is 2fc"),
])
def test_finetune__another_request_in_the_same_folder_is_refused(words: dict, text: str, small_data: Path,
                                                                 tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                 ) -> None:
    monkeypatch.setattr(finetune, "start", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # killed before the first iteration
        finetune.finetune(request(small_data, tmp_path, overrides=START))
    with pytest.raises(UserError, match=text):
        finetune.finetune(request(small_data, tmp_path, **{"overrides": START, **words}))


def test_finetune__begun_by_two_processes_goes_on_with_one_that_takes_as_many_images(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norm then takes its statistics from as many images; of fewer it is refused, and the way is named."""
    monkeypatch.setattr(finetune, "start", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    for words, earlier in (({"num_gpus": 2}, []), ({}, [2]), ({"fit": "accumulate=2"}, [2])):
        with pytest.raises(KeyboardInterrupt):  # it would start
            finetune.finetune(request(small_data, tmp_path, overrides=START, **words))
        assert json.loads((tmp_path / "request.json").read_text())["earlier_processes"] == earlier
        (tmp_path / "model_0000001.pth").touch()  # it was interrupted after some iterations
    hint = ("--fit accumulate=2 where its memory is large enough .batch norm took its statistics from 2 images at once "
            "and would now take them from 1.")
    for fit, text in (("accumulate=1", hint), ("linear=1", "fit was accumulate, is linear")):
        with pytest.raises(UserError, match=f"holds another run: .*{text}"):
            finetune.finetune(request(small_data, tmp_path, overrides=START, fit=fit))


def test_finetune__checkpoints_of_nobody_knows_what_are_not_gone_on_with(small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "model_final.pth").write_bytes(b"x")
    with pytest.raises(UserError, match=r"holds model_final\.pth but no request\.json and config\.yaml, so"):
        finetune.finetune(request(small_data, tmp_path, overrides=START))


def test_finetune__one_process_a_folder(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(finetune, "locked", lambda folder: taken.append(folder) or contextlib.nullcontext())
    monkeypatch.setattr(finetune, "start", lambda *_, **__: (_ for _ in ()).throw(UserError(f"taken {taken}")))
    with pytest.raises(UserError, match=f"taken .*{tmp_path.name}"):
        finetune.finetune(request(small_data, tmp_path, overrides=START))


def test_finetune__another_run_that_came_first_is_seen_behind_the_lock(small_data: Path, tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def locked(folder: Path) -> Iterator[None]:
        (folder / "request.json").write_text("{}")
        (folder / "config.yaml").write_text("{}")
        yield

    monkeypatch.setattr(finetune, "locked", locked)
    monkeypatch.setattr(finetune, "start", None)
    with pytest.raises(UserError, match="holds a run whose request.json or config.yaml is damaged"):
        finetune.finetune(request(small_data, tmp_path, overrides=START))


def test_finetune__says_that_the_rate_never_drops(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(finetune, "start", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        finetune.finetune(request(small_data, tmp_path, overrides=("SOLVER.MAX_ITER=2", "SOLVER.STEPS=6,8")))
    assert "SOLVER.STEPS (6, 8) lie behind SOLVER.MAX_ITER 2: the learning rate does not drop there" in \
        capsys.readouterr().err


class _Interrupt(trainer.Progress):
    """Ctrl-C in the middle of an iteration."""

    at = 2

    def after_step(self) -> None:
        if self.trainer.iter == self.at:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_finetune__killed_and_started_again_goes_on(small_data: Path, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    whole = finetune.finetune(request(small_data, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "Progress", _Interrupt)
        with pytest.raises(KeyboardInterrupt):
            finetune.finetune(request(small_data, tmp_path / "parts"))
    assert not (tmp_path / "parts/result.json").exists()
    assert (tmp_path / "parts/last_checkpoint").read_text() == "model_0000001.pth"
    begun = []
    monkeypatch.setattr(trainer.Progress, "before_train",
                        lambda self, before=trainer.Progress.before_train: (begun.append(self.trainer.start_iter),
                                                                            before(self)))
    parts = finetune.finetune(request(small_data, tmp_path / "parts"))
    assert begun == [2] and parts["iterations"] == 4
    assert parts["config_sha256"] == whole["config_sha256"]
    last = [json.loads((tmp_path / name / "metrics.json").read_text().splitlines()[-1]) for name in ("whole", "parts")]
    assert last[0]["iteration"] == last[1]["iteration"] == 3
    assert last[0]["lr"] == last[1]["lr"] < 0.02  # the schedule went on: one decay, at iteration 3
    ends = [torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"] for name in ("whole", "parts")]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())  # bit for bit
    assert parts["metrics"] == whole["metrics"]


@pytest.mark.slow
def test_finetune__goes_on_from_the_one_before_a_damaged_checkpoint(
    thin_request: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    more = ("SOLVER.MAX_ITER=6", "SOLVER.STEPS=4,", "SOLVER.CHECKPOINT_PERIOD=2")
    monkeypatch.setattr(trainer, "WRITE_PERIOD", 1)
    finetune.finetune(thin_request(tmp_path / "whole", "coco", *more))
    with monkeypatch.context() as patch:
        patch.setattr(_Interrupt, "at", 4)
        patch.setattr(trainer, "Progress", _Interrupt)
        with pytest.raises(KeyboardInterrupt):
            finetune.finetune(thin_request(tmp_path / "parts", "coco", *more))
    newest = tmp_path / "parts/model_0000003.pth"
    newest.write_bytes(newest.read_bytes()[:-1000])
    capsys.readouterr()
    finetune.finetune(thin_request(tmp_path / "parts", "coco", *more))
    assert f"warning: checkpoint skipped: {newest} begins like a PyTorch file but is damaged" in capsys.readouterr().err
    ends = [torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"] for name in ("whole", "parts")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    for name in ("whole", "parts"):  # no step is missing or doubled
        lines = (tmp_path / name / "metrics.json").read_text().splitlines()
        assert [json.loads(line)["iteration"] for line in lines] == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow
def test_finetune__killed_in_the_evaluation_does_not_train_again(small_data: Path, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finetune.finetune(request(small_data, tmp_path))
    weights = sha256_file(tmp_path / "model_final.pth")
    monkeypatch.setattr(trainer, "trainer_of", None)  # no second training
    result = finetune.finetune(request(small_data, tmp_path))
    assert result["iterations"] == 4 and result["wall_seconds"] > 0
    assert sha256_file(tmp_path / "model_final.pth") == weights
    (tmp_path / "model_final.pth").unlink()
    with pytest.raises(UserError, match="--keep-predictions: .* is finished, and found no model_final.pth in it: "):
        finetune.finetune(request(small_data, tmp_path, keep_predictions=True))
    assert finetune.finetune(request(small_data, tmp_path)) == result


def test_run__nan_fails_the_stage_and_leaves_no_result(small_data: Path, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture) -> None:
    parser = argparse.ArgumentParser()
    finetune.add_arguments(parser)
    words = ["--task", "coco", "--weights", "random", "--data", str(small_data / "coco"), "--output", str(tmp_path),
             "--scale", "demo", "--architecture", "resnet18", "--device", "cpu"]
    for word in (*THIN, "SOLVER.BASE_LR=1e30"):
        words += ["--set", word]
    with pytest.raises(SystemExit) as left:
        run_cli(lambda: finetune.run(parser.parse_args(words)))
    assert left.value.code == 3
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "the loss became infinite or NaN at iteration" in errors[0]
    assert "no result is written. Lower SOLVER.BASE_LR" in errors[0]
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_finetune__two_processes(small_data: Path, tmp_path: Path) -> None:
    result = finetune.finetune(request(small_data, tmp_path, num_gpus=2))
    assert result["processes"] == 2 and result["config"]["MODEL"]["RESNETS"]["NORM"] == "SyncBN"
    assert result["kernels"] == {"joined_batch_norm": True}
    assert None not in evaluate.columns("coco", result["metrics"]).values()


@pytest.mark.slow
def test_finetune__two_processes_give_an_error_as_one_line(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(trainer.TrainingFailed, match=r"^the loss became infinite or NaN at iteration"):
        finetune.finetune(request(small_data, tmp_path, num_gpus=2, overrides=(*THIN, "SOLVER.BASE_LR=1e30")))


@pytest.mark.slow
def test_finetune__trial_draws_heads_and_images_whatever_the_method(small_data: Path, converted: Path, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def look(trainer: trainer.AccumulatingTrainer) -> None:
        """In the place of a step: what it would have started from, and seen."""
        if trainer.iter == 0:
            runs.append(({name: value.clone() for name, value in trainer.model.state_dict().items()}, []))
        runs[-1][1].extend((row["file_name"], row["image"].clone()) for row in next(trainer._data_loader_iter))

    monkeypatch.setattr(trainer.AccumulatingTrainer, "run_step", look)
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: {})
    overrides = (*THIN, "TEST.PRECISE_BN.ENABLED=False", "INPUT.MIN_SIZE_TRAIN=48,64,80")
    for number, (weights, trial) in enumerate([("random", 0), (str(converted), 0), ("random-msra", 0), ("random", 1)]):
        output = tmp_path / str(number)
        finetune.finetune(request(small_data, output, overrides=overrides, weights=weights, trial=trial))
    (random, seen), (method, same), (_, turned), (other, others) = runs
    heads = [name for name in random if "bottom_up" not in name and name.endswith("weight") and "norm" not in name]
    assert len(heads) > 10 and all(torch.equal(random[name], method[name]) for name in heads)
    assert not any(torch.equal(random[name], other[name]) for name in heads)
    backbone = [name for name in random if "bottom_up" in name and "conv" in name and random[name].ndim == 4]
    assert not any(torch.equal(random[name], method[name]) for name in backbone)
    assert len(seen) == len(same) == 8  # four steps of two images: names, sizes, flips and pixels
    assert all(a == c and torch.equal(b, d) for (a, b), (c, d) in zip(seen, same, strict=True))
    # The same pictures for the weights that want blue first.
    assert all(a == c and torch.equal(b, d.flip(0)) for (a, b), (c, d) in zip(seen, turned, strict=True))
    assert not all(a == c and b.shape == d.shape and torch.equal(b, d)
                   for (a, b), (c, d) in zip(seen, others, strict=True))


def _spoil(converted: Path, output: Path, certificate: dict, drop: str | None = None) -> Path:
    """A copy of a conversion with other words in its certificate, and without one of its tensors."""
    output.mkdir()
    content = pickle.loads((converted / "detectron2.pkl").read_bytes())
    if drop:
        del content["model"][drop]
    (output / "detectron2.pkl").write_bytes(pickle.dumps(content))
    values = json.loads((converted / "conversion.json").read_text())
    values["targets"]["detectron2"]["sha256"] = sha256_file(output / "detectron2.pkl")
    write_certificate(output, {**values, **certificate})
    return output


@pytest.mark.parametrize(("certificate", "drop", "text"), [
    ({"targets": {"detectron2": {"sha256": "0" * 64}}}, None,
     "expected .*conversion.json to certify .*detectron2.pkl, found that its SHA-256 is another one"),
    ({"architecture": "resnet101"}, None, "expected all 520 tensors of a resnet101, found 100 of 100 consumed"),
    ({"consumed": 99}, None, "expected all 100 tensors .* found 99 of 100 consumed"),
    ({}, "res3.0.conv1.weight", r"1 missing in the file \(res3.0.conv1.weight\)"),
    ({"architecture": "resnet34", "consumed": 180, "expected": 180}, None, "missing in the file"),
])
def test_finetune__weights_that_do_not_fit_their_certificate(certificate: dict, drop: str | None, text: str,
                                                             small_data: Path, converted: Path, tmp_path: Path) -> None:
    spoiled = _spoil(converted, tmp_path / "spoiled", certificate, drop)
    with pytest.raises(UserError, match=text):
        finetune.finetune(request(small_data, tmp_path / "out", overrides=START, weights=str(spoiled)))
    assert not (tmp_path / "out/result.json").exists()


def test_device__cuda_where_there_is_none(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: torch sees no GPU here; use --device cpu"):
        finetune.finetune(request(small_data, tmp_path, device="cuda"))
    with pytest.raises(UserError, match="--num-gpus 0: expected 1 to"):
        finetune.finetune(request(small_data, tmp_path, num_gpus=0))


def test_finetune__a_broken_validation_image_is_named_before_anything_runs(tmp_path: Path) -> None:
    demo_data.generate(tmp_path / "demo", photos=1, train=2, val=2)
    values = json.loads((tmp_path / "demo/coco/annotations/instances_val.json").read_text())
    path = tmp_path / "demo/coco/images" / values["images"][0]["file_name"]
    path.write_bytes(path.read_bytes()[:-300])  # the header is whole, the end is missing
    with pytest.raises(UserError, match=f"^[^\n]*{path.name} cannot be read as an image [^\n]*: replace it or take it"):
        finetune.finetune(request(tmp_path / "demo", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_logged__to_the_file_and_not_to_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with one_process.logged(tmp_path / "log.txt"):
        logging.getLogger("detectron2.engine").info("a line")
    logging.getLogger("detectron2.engine").info("after")
    text = (tmp_path / "log.txt").read_text()
    assert "detectron2.engine INFO a line" in text and "after" not in text
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder in which root cannot write either")
def test_finetune__results_that_cannot_be_written_are_told_before_the_data_are_read(
    small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "find", None)
    with pytest.raises(UserError, match="^--output /sys/kernel: expected a folder that can be written in, found"):
        finetune.finetune(request(small_data, Path("/sys/kernel")))
