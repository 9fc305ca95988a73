"""A finished training is evaluated on what changed since: nothing is trained again, and no result is lost."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.common.atomic import sha256_file
from pretrain.common.errors import UserError
from tests.transfer.finetuning.test_processes import PATIENCE, words
from transfer import tasks
from transfer.finetuning import drawing, evaluate, finetune, result, trainer
from transfer.finetuning.finetune import Request
from transfer.trained.evaluate_model import EvaluationRequest, evaluate_model

VAL, TRAIN = "annotations/instances_val.json", "annotations/instances_train.json"


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure of predictions takes longer than these evaluations."""
    monkeypatch.setattr(drawing, "draw", lambda _model, _cfg, path, _title: path.touch() or [])


@pytest.fixture
def data(small_data: Path, tmp_path: Path) -> Path:
    """A copy whose annotations may be changed."""
    shutil.copytree(small_data / "coco", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def start(thin_request: Callable, data: Path, tmp_path: Path) -> Request:
    """A fine-tuning of no iteration: its start is evaluated. Every box counts as a detection."""
    return replace(thin_request(tmp_path / "run", "coco", "SOLVER.MAX_ITER=0", "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0"),
                   data=data)


def fix(path: Path) -> str:
    """Take the first object out of an annotation file; returns the file's new digest."""
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][1:]
    path.write_text(json.dumps(content))
    return sha256_file(path)


def trains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "trainer_of", None)


def stopped_in_the_evaluation(request: Request, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fails(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate", fails)
        with pytest.raises(type(error)):
            finetune.finetune(request)


@pytest.mark.parametrize("error", [UserError("the evaluator has no ground truth"), KeyboardInterrupt()])
def test_val_fixed_after_a_late_failure__the_finished_training_is_evaluated(
    error: BaseException, start: Request, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    stopped_in_the_evaluation(start, monkeypatch, error)
    run = Path(start.output)
    before = sha256_file(run / "model_final.pth")
    assert not (run / "result.json").exists()
    now = fix(data / VAL)
    trains_nothing(monkeypatch)
    found = finetune.finetune(start)
    assert found["dataset"]["val"]["annotations_sha256"] == found["evaluation"]["dataset"]["annotations_sha256"] == now
    assert json.loads((run / "result.json").read_text()) == found
    assert json.loads((run / "request.json").read_text())["dataset"] == found["dataset"]
    assert sha256_file(run / "model_final.pth") == before
    assert "evaluated on something else" not in capsys.readouterr().err and not list(run.glob("result-*"))


def test_val_changed_after_the_result__is_evaluated_again_and_the_old_result_stays(
    start: Request, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    request = replace(start, keep_predictions=True)
    first, run = finetune.finetune(request), Path(start.output)
    files = {name: (run / name).read_bytes() for name in ("result.json", "predictions.json.gz", "model_final.pth")}
    now = fix(data / VAL)
    trains_nothing(monkeypatch)
    second = finetune.finetune(request)
    ending = first["evaluation"]["sha256"][:8]
    said = [line for line in capsys.readouterr().err.splitlines() if "evaluated on something else" in line]
    assert said == [f"{run} was evaluated on something else (dataset.val.annotations_sha256 was "
                    f"{first['dataset']['val']['annotations_sha256']}, is {now}): its finished model is evaluated "
                    f"again, the result so far stays as result-{ending}.json"]
    assert (run / f"result-{ending}.json").read_bytes() == files["result.json"]
    assert (run / f"predictions-{ending}.json.gz").read_bytes() == files["predictions.json.gz"]
    assert (run / f"predictions-{ending}.png").is_file() and (run / "predictions.png").is_file()
    assert (run / "model_final.pth").read_bytes() == files["model_final.pth"]
    assert second["training"] == first["training"] and second["evaluation"] != first["evaluation"]
    assert second["dataset"]["val"]["annotations_sha256"] == now and second["started"] == first["started"]
    assert second["predictions"]["sha256"] == sha256_file(run / "predictions.json.gz")
    # The same numbers as the model alone on the new file.
    alone = evaluate_model(EvaluationRequest(run, "coco", data, run.parent / "alone", device="cpu"))
    assert {key: alone[key] for key in ("metrics", "training", "evaluation")} == {
        key: second[key] for key in ("metrics", "training", "evaluation")}
    monkeypatch.setattr(finetune, "start", None)  # nothing is started any more
    assert finetune.finetune(request) == second
    assert "is finished: nothing to do" in capsys.readouterr().err


def test_val_changed_while_it_ran__nothing_is_recorded_of_a_file_that_may_not_have_been_evaluated(
    start: Request, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed_meanwhile(*_: object) -> dict:
        fix(data / VAL)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate", changed_meanwhile)
        with pytest.raises(UserError, match="instances_val.json was changed while this ran, .*: run the same command"):
            finetune.finetune(start)
    assert not Path(start.output, "result.json").exists()
    trains_nothing(monkeypatch)
    assert finetune.finetune(start)["dataset"]["val"]["annotations_sha256"] == sha256_file(data / VAL)


@pytest.mark.parametrize("content", ["{", '{"task": "coco"}', '{"task": "coco", "dataset": 3, "config": []}'])
def test_result_damaged__is_named_and_what_to_do(content: str, start: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    first, run = finetune.finetune(start), Path(start.output)
    (run / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"result.json is damaged \(.*\): remove it, and the same command evaluates the "
                                        "finished model again"):
        finetune.finetune(start)
    (run / "result.json").unlink()
    trains_nothing(monkeypatch)
    assert finetune.finetune(start)["metrics"] == first["metrics"]


@pytest.mark.parametrize(("changes", "said"), [
    ({"overrides": ("TEST.DETECTIONS_PER_IMAGE=3",)}, "TEST.DETECTIONS_PER_IMAGE was 20, is 3"),
    ({"evaluator": "hotcoco"}, "evaluator was pycocotools, is hotcoco")])
def test_other_settings_of_the_evaluation__are_evaluated_again(
    changes: dict, said: str, start: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    if changes.get("evaluator") == "hotcoco":
        pytest.importorskip("hotcoco")
    first = finetune.finetune(start)
    trains_nothing(monkeypatch)
    changed = {**changes, "overrides": (*start.overrides, *changes.get("overrides", ()))}
    second = finetune.finetune(replace(start, **changed))
    assert said in capsys.readouterr().err
    assert first["training"]["sha256"] == second["training"]["sha256"] and first["evaluation"] != second["evaluation"]


def test_early_evaluations__do_not_bind_a_run(start: Request, capsys: pytest.CaptureFixture) -> None:
    first = finetune.finetune(start)
    assert finetune.finetune(replace(start, eval_every=3)) == first
    assert "is finished: nothing to do" in capsys.readouterr().err


def test_training_data_changed__is_another_run_and_nothing_is_touched(start: Request, data: Path) -> None:
    finetune.finetune(start)
    before = {path.name: path.read_bytes() for path in Path(start.output).iterdir() if path.is_file()}
    was = sha256_file(data / TRAIN)
    now = fix(data / TRAIN)
    with pytest.raises(UserError, match=f"holds another run: dataset.train.annotations_sha256 was {was}, is {now}. "
                                        "Use the same options as before to resume it, or another --output"):
        finetune.finetune(start)
    assert {path.name: path.read_bytes() for path in Path(start.output).iterdir() if path.is_file()} == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(("spoil", "said"), [
    (Path.unlink, "found no model_final.pth in it: another evaluation needs the training once more, into "
                  "another --output"),
    (cut, r"model_final.pth begins like a PyTorch file but is damaged or cut off \(.*\): another evaluation needs the "
          "training once more, into another --output")])
def test_model_gone__the_result_stays_and_one_line_says_what_is_needed(
    spoil: Callable, said: str, start: Request, data: Path
) -> None:
    first, run = finetune.finetune(start), Path(start.output)
    spoil(run / "model_final.pth")
    assert finetune.finetune(start) == first  # nothing to do
    fix(data / VAL)
    with pytest.raises(UserError, match=f"was evaluated on something else .*{said}"):
        finetune.finetune(start)
    assert json.loads((run / "result.json").read_text()) == first and not list(run.glob("result-*"))


def test_killed_in_the_second_evaluation__the_next_start_does_it(
    start: Request, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, run = finetune.finetune(start), Path(start.output)
    fix(data / VAL)
    stopped_in_the_evaluation(start, monkeypatch, KeyboardInterrupt())
    kept = run / f"result-{first['evaluation']['sha256'][:8]}.json"
    assert not (run / "result.json").exists() and json.loads(kept.read_text()) == first
    trains_nothing(monkeypatch)
    second = finetune.finetune(start)
    assert json.loads((run / "result.json").read_text()) == second and json.loads(kept.read_text()) == first


def test_killed_while_the_old_result_is_set_aside__the_next_start_does_the_rest(
    start: Request, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = replace(start, keep_predictions=True)
    first, run = finetune.finetune(request), Path(start.output)
    fix(data / VAL)
    move = Path.replace

    def killed_before_the_result(path: Path, target: Path) -> Path:
        if path.name == "result.json":
            raise KeyboardInterrupt
        return move(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed_before_the_result)
        with pytest.raises(KeyboardInterrupt):
            finetune.finetune(request)
    assert json.loads((run / "result.json").read_text()) == first
    finetune.finetune(request)
    ending = first["evaluation"]["sha256"][:8]
    assert json.loads((run / f"result-{ending}.json").read_text()) == first
    assert sha256_file(run / f"predictions-{ending}.json.gz") == first["predictions"]["sha256"]


def test_result_of_an_older_version__is_read_and_evaluated_again_like_any_other(
    start: Request, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, run = finetune.finetune(start), Path(start.output)
    columns = evaluate.columns("coco", first["metrics"])
    there = {column.metric for column in tasks.get("coco").columns}
    old = {**{key: value for key, value in first.items() if key not in ("training", "evaluation")}, "schema": 1,
           "metrics": columns, "details": {
               key: value for key, value in first["metrics"].items() if key not in there}}
    (run / "result.json").write_text(json.dumps(old))
    request = json.loads((run / "request.json").read_text())
    new = ("evaluator", "seed", "iterations", "processes", "images_at_once", "batch_norm_images", "eval_every")
    (run / "request.json").write_text(json.dumps({key: request[key] for key in request.keys() - set(new)}))
    assert finetune.finetune(start)["metrics"] == first["metrics"]
    fix(data / VAL)
    trains_nothing(monkeypatch)
    second = finetune.finetune(start)
    assert second["training"] == first["training"]
    assert json.loads((run / f"result-{first['evaluation']['sha256'][:8]}.json").read_text()) == old


def test_evaluate__does_not_write_into_a_fine_tuning(start: Request, data: Path, tmp_path: Path) -> None:
    first = finetune.finetune(start)
    other = tmp_path / "other"
    shutil.copytree(start.output, other)
    with pytest.raises(UserError, match="other holds a fine-tuning: expected another folder for --output"):
        evaluate_model(EvaluationRequest(start.output, "coco", data, other, device="cpu"))
    assert result.read(other) == first
    evaluate_model(EvaluationRequest(start.output, "coco", data, tmp_path / "alone", device="cpu"))
    with pytest.raises(UserError, match=r"alone holds result.json but no request.json and config.yaml"):
        finetune.finetune(replace(start, output=tmp_path / "alone"))


class _Interrupt(trainer.Progress):
    """Ctrl-C in the middle of an iteration."""

    def after_step(self) -> None:
        if self.trainer.iter == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_unfinished_training__goes_on_with_another_val_file(
    thin_request: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = replace(thin_request(tmp_path / "run"), data=data)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "Progress", _Interrupt)
        with pytest.raises(KeyboardInterrupt):
            finetune.finetune(request)
    now, begun = fix(data / VAL), []
    monkeypatch.setattr(trainer.Progress, "before_train",
                        lambda self, before=trainer.Progress.before_train: (begun.append(self.trainer.start_iter),
                                                                            before(self)))
    found = finetune.finetune(request)
    assert begun == [2] and found["dataset"]["val"]["annotations_sha256"] == now
    whole = finetune.finetune(replace(request, output=tmp_path / "whole"))
    assert (whole["metrics"], whole["training"], whole["evaluation"]) == (
        found["metrics"], found["training"], found["evaluation"])


@pytest.mark.slow
def test_kill_9_between_training_and_evaluation__with_two_processes(
    thin_request: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = replace(thin_request(tmp_path / "run", num_gpus=2), data=data)
    process = subprocess.Popen(words(request), stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "run/model_final.pth").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert not (tmp_path / "run/result.json").exists()
    model, now = sha256_file(tmp_path / "run/model_final.pth"), fix(data / VAL)
    found = finetune.finetune(request)
    assert sha256_file(tmp_path / "run/model_final.pth") == model
    assert found["dataset"]["val"]["annotations_sha256"] == now and found["processes"] == 2
    by_one_process = EvaluationRequest(request.output, "coco", data, tmp_path / "alone", device="cpu")
    alone = evaluate_model(by_one_process)
    assert (alone["metrics"], alone["training"], alone["evaluation"]) == (
        found["metrics"], found["training"], found["evaluation"])
