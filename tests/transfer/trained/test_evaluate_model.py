"""A finished model evaluated alone: the metrics of its run; and what is refused."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pretrain.common.atomic import sha256_file
from pretrain.common.errors import UserError
from tests.transfer.resolved import resolve
from transfer.evaluators import predictions
from transfer.finetuning import finetune
from transfer.settings import datasets
from transfer.trained import model_file
from transfer.trained.evaluate_model import EvaluationRequest, both_halves, evaluate_model, fitted_to

SAME = ("metrics", "evaluator", "weights", "heads", "scale", "trial", "seed", "config", "config_sha256",
        "iterations", "dataset", "batch_norm_images", "table", "predictions", "training", "evaluation")


@pytest.mark.slow
def test_evaluate_model__has_the_figures_of_the_run(thin_request: Callable, small_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    request = thin_request(run, "coco", "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0")  # so that there are detections
    expected = finetune.finetune(request)
    assert expected["predictions"] is None and not (run / predictions.NAME).exists()
    before = sha256_file(run / "model_final.pth")
    with_them = finetune.finetune(finetune.Request(**{**vars(request), "keep_predictions": True}))  # of a finished run
    assert with_them["metrics"] == expected["metrics"] and sha256_file(run / "model_final.pth") == before
    assert with_them["predictions"]["sha256"] == sha256_file(run / predictions.NAME)
    assert len(predictions.read(run / predictions.NAME)["predictions"]) > 10

    words = {"task": "coco", "data": small_data / "coco", "device": "cpu", "keep_predictions": True}
    found = evaluate_model(EvaluationRequest(run, output=tmp_path / "again", **words))
    assert found["kind"] == "evaluation" and with_them["kind"] == "finetuning"
    assert {key: found[key] for key in SAME} == {key: with_them[key] for key in SAME}
    assert set(found) - {"evaluated"} == set(with_them)
    assert found["evaluated"] == {"model": "model_final.pth", "sha256": before, "processes": 1}
    assert json.loads((tmp_path / "again/result.json").read_text()) == found
    assert (tmp_path / "again/predictions.png").is_file()

    stranger = tmp_path / "stranger"  # the same files, without what our run recorded
    stranger.mkdir()
    shutil.copy(run / "config.yaml", stranger)
    shutil.copy(run / "model_final.pth", stranger / "theirs.pth")
    alone = evaluate_model(EvaluationRequest(stranger / "theirs.pth", output=tmp_path / "alone", method="Theirs",
                                             **words))
    assert {key: alone[key] for key in ("metrics", "predictions")} == {
        key: found[key] for key in ("metrics", "predictions")}
    assert (alone["weights"]["method"], alone["weights"]["path_sha256"]) == ("Theirs", before)
    assert alone["training"] is None and alone["evaluation"] == found["evaluation"]
    assert (alone["heads"], alone["weights"]["init"], alone["batch_norm_images"]) == ("4conv1fc", "not known", None)
    assert set(found) <= set(alone)


def finished(folder: Path, result: dict | None = None, config: str = "MODEL: {MASK_ON: True}\n") -> Path:
    """A folder with the files of a finished run, and nothing in them."""
    folder.mkdir()
    (folder / "config.yaml").write_text(config)
    torch.save({"model": {"a": torch.zeros(2)}}, folder / "model_final.pth")
    (folder / "result.json").write_text(json.dumps(result or {"task": "coco"}))
    return folder


def test_read_model__names_what_is_missing(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    assert model_file.read_model(run, "coco").found == {"task": "coco"}
    assert model_file.read_model(run / "model_final.pth", "coco").found == {"task": "coco"}
    with pytest.raises(UserError, match="--task voc: .* was fine-tuned on coco"):
        model_file.read_model(run, "voc")
    (run / "result.json").unlink()
    with pytest.raises(UserError, match=r"is not a finished run: expected result.json and model_final.pth in it"):
        model_file.read_model(run, "coco")
    assert model_file.read_model(run / "model_final.pth", "coco").found is None
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"with its config.yaml beside it; found no config.yaml"):
        model_file.read_model(run / "model_final.pth", "coco")
    with pytest.raises(UserError, match=r"found no .*nowhere.pth"):
        model_file.read_model(tmp_path / "nowhere.pth", "coco")


@pytest.mark.parametrize("text", ["MODEL: {NO_SUCH_KEY: 1}\n", "- a\n", "a: [\n", "MODEL: 3\n"])
def test_read_config__what_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config.yaml is not a detectron2 config \("):
        model_file.read_config(tmp_path / "config.yaml")


def test_fitted_to__another_model_than_the_task_wants(small_data: Path, tmp_path: Path) -> None:
    coco, points = (datasets.find(small_data / task, task) for task in ("coco", "keypoints"))
    cfg = resolve(coco, "4conv1fc", "demo", num_gpus=2)
    assert cfg.MODEL.RESNETS.NORM == "SyncBN"
    alone = fitted_to(cfg, coco, tmp_path, "cpu")
    assert {alone.MODEL.RESNETS.NORM, alone.MODEL.FPN.NORM, alone.MODEL.ROI_BOX_HEAD.NORM,
            alone.MODEL.ROI_MASK_HEAD.NORM} == {"BN"}
    with pytest.raises(UserError, match=r"the data has 1 classes \(person\), the model 4: expected the data"):
        fitted_to(cfg, points, tmp_path, "cpu")
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    with pytest.raises(UserError, match="the data has 17 keypoints, the model no keypoint head"):
        fitted_to(cfg, points, tmp_path, "cpu")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.MASK_ON = 4, False
    with pytest.raises(UserError, match="the data has masks, and the model has no mask head"):
        fitted_to(cfg, coco, tmp_path, "cpu")


def test_both_halves__trained_there_evaluated_here(small_data: Path) -> None:
    here = datasets.find(small_data / "coco", "coco")
    there = {**datasets.describe(here), "train": {"images": 9, "annotations_sha256": "ab"}, "val": {"images": 1}}
    found = both_halves({"dataset": there}, here)
    assert found["train"]["images"] == 9 and found["val"] == datasets.describe(here)["val"]
    there["classes"] = there["classes"][::-1]
    with pytest.raises(UserError, match="the data has the classes disc, plank, triangle, star, the model was trained "
                                        "for star, triangle, plank, disc: expected the same, in the same order"):
        both_halves({"dataset": there}, here)


class Evil:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_load__every_tensor_or_none(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    good = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    good["0.weight"] = torch.full((3, 2), 5.0)
    path = tmp_path / "model.pth"
    for content in (good, {"model": good, "iteration": 3}, {"model": {**good, "pixel_mean": torch.zeros(3)}}):
        torch.save(content, path)
        torch.nn.init.zeros_(model[0].weight)
        model_file.load(model, path, trust=False)
        assert torch.all(model[0].weight == 5)
    wrong = {**good, "extra": torch.zeros(1), "0.bias": torch.zeros(9)}
    del wrong["1.running_mean"]
    torch.save(wrong, path)
    with pytest.raises(UserError, match=r"expected the 6 tensors of the model .* found 1 missing in the file "
                                        r"\(1.running_mean\), 1 unknown to the model \(extra\), 1 of another shape"):
        model_file.load(model, path, trust=False)


def test_load__runs_no_code(tmp_path: Path) -> None:
    model, touched = torch.nn.Linear(2, 3), tmp_path / "touched"
    torch.save({"model": Evil(touched)}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"holds an object of the class \S+; expected only .*--trust"):
        model_file.load(model, tmp_path / "evil.pth", trust=False)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Evil(touched)}))
    with pytest.raises(UserError, match="is a pickle, which can run any code: expected a .pth file, or --trust"):
        model_file.load(model, tmp_path / "evil.pkl", trust=False)
    assert not touched.exists()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    (tmp_path / "known.pkl").write_bytes(pickle.dumps({"model": state, "__author__": "somebody"}))
    model_file.load(model, tmp_path / "known.pkl", trust=True)
    (tmp_path / "half.pth").write_bytes((tmp_path / "evil.pth").read_bytes()[:300])
    with pytest.raises(UserError, match=r"half.pth (cannot be read|begins like a PyTorch file but is damaged)"):
        model_file.load(model, tmp_path / "half.pth", trust=False)
