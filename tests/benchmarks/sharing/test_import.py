"""Results made elsewhere: detectron2's metrics, COCO's result files, imported rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.formats import all_tables
from benchmarks.records import coco_results, imported
from benchmarks.records.results import digest
from benchmarks.sharing import import_results
from pretrain import PRINTED, ROOT
from pretrain.common.errors import UserError
from transfer.annotations import keypoint_names
from transfer.annotations.keypoint_names import COCO_PERSON
from transfer.tasks import TASKS

REPORTED = PRINTED / "reported"
DETECTRON2 = {"bbox/AP": 1.0, "bbox/AP50": 2.0, "bbox/AP75": 3.0, "segm/AP": 4.0, "segm/AP50": 5.0, "segm/AP75": 6.0}


def test_import__detectron2s_metrics_become_a_marked_row(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    early = {"bbox/AP": 1.0, "bbox/AP50": 2.0, "bbox/AP75": 3.0, "segm/AP": 4.0, "segm/AP50": 5.0, "segm/AP75": 6.0}
    last = {key: value + 30 for key, value in early.items()} | {"segm/AP75": float("nan")}
    file.write_text("\n".join([json.dumps({"iteration": 1, "total_loss": 2.0}), json.dumps(early), json.dumps(last),
                               '{"iteration": 3, "tot']))
    results = tmp_path / "results"
    words = [str(file), "--results", str(results), "--method", "Theirs", "--task", "coco", "--epochs", "800"]
    assert import_results.main(words) == import_results.main(words) == 0
    text = all_tables.read_tables(results, REPORTED).shown()
    block = text.split("### Imported")[1].split("## ")[0]
    [row] = [line for line in block.splitlines() if line.startswith("| Theirs")]
    assert [cell.strip() for cell in row.strip("|").split("|")][:8] == [
        "Theirs", "800", "31.0", "32.0", "33.0", "34.0", "35.0", "-"]
    assert "imported from metrics.json, sha256" in row and "Made elsewhere and imported" in block
    [written] = (results / "imported").iterdir()
    written.write_text(written.read_text().replace("31.0", "41.0"))
    found = all_tables.read_tables(results, REPORTED)
    assert "Theirs" not in found.shown() and "changed after it was written" in found.problems[0]


def test_import__of_a_task_without_measured_rows_is_shown_with_all_its_metrics(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps({"bbox/AP": 54.0, "bbox/AP50": 81.0, "bbox/AP75": 60.0, "bbox/AP-cat": 70.0,
                                "roi_head/num_bg_samples": 400.0, "iteration": 9}))
    results = tmp_path / "results"
    assert import_results.main([str(file), "--results", str(results), "--method", "Theirs", "--task", "voc"]) == 0
    [written] = (results / "imported").iterdir()
    assert json.loads(written.read_text())["metrics"] == {
        "bbox/AP": 54.0, "bbox/AP50": 81.0, "bbox/AP75": 60.0, "bbox/AP-cat": 70.0}
    [row] = [line for line in all_tables.read_tables(results, REPORTED).shown().splitlines() if "Theirs" in line]
    assert [cell.strip() for cell in row.split("|")][3:6] == ["54.0", "81.0", "60.0"]


def test_import__boxes_alone_leave_the_columns_of_masks_empty(tmp_path: Path, capsys) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps({"bbox/AP": 54.0}))
    assert import_results.main([str(file), "--results", str(tmp_path), "--method", "A", "--task", "coco"]) == 0
    assert capsys.readouterr().out.startswith("A: AP_bb 54.0, AP50_bb -, AP75_bb -, AP_mb -, AP50_mb -, AP75_mb -\n")


def test_imported__a_file_of_schema_1_is_read_like_todays(tmp_path: Path) -> None:
    """As the first schema stored it: the table's columns, each under its name in the table."""
    metrics = dict(zip(("AP_bb", "AP50_bb", "AP75_bb", "AP_mb", "AP50_mb", "AP75_mb"), (31.0, 32, 33, 34, 35, None),
                       strict=True))
    record = {"schema": 1, "kind": "imported", "table": "coco_detection_segmentation", "method": "Theirs",
              "epochs": 800, "metrics": metrics, "source": {"file": "metrics.json", "sha256": "ab" * 32},
              "annotations_sha256": None, "imported": "2026-01-01T00:00:00+00:00", "tool_version": "1"}
    (tmp_path / "imported").mkdir()
    (tmp_path / "imported" / "a.json").write_text(json.dumps(record | {"digest": digest(record)}))
    assert imported.file_name(record).startswith("coco-")
    [row], problems = imported.read_known(tmp_path / "imported", imported.validate, "metrics", "")
    assert problems == [] and row["task"] == "coco" and row["metrics"] == {
        "bbox/AP": 31.0, "bbox/AP50": 32, "bbox/AP75": 33, "segm/AP": 34, "segm/AP50": 35, "segm/AP75": None}


def ground_truth(path: Path) -> dict:
    square = [10, 10, 40, 10, 40, 40, 10, 40]
    content = {"images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 64}],
               "categories": [{"id": 1, "name": "thing"}],
               "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30], "area": 900,
                                "iscrowd": 0, "segmentation": [square]}]}
    path.write_text(json.dumps(content))
    return content["annotations"][0]


def test_import__a_coco_result_file_is_evaluated(tmp_path: Path) -> None:
    truth = ground_truth(tmp_path / "instances.json")
    found = {key: truth[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
    mask = {"size": [64, 64], "counts": pytest.importorskip("pycocotools.mask").encode(_mask())["counts"].decode()}
    (tmp_path / "found.json").write_text(json.dumps([found | {"segmentation": mask}]))
    words = ["--method", "Theirs", "--task", "coco", "--annotations", str(tmp_path / "instances.json")]
    assert import_results.main([str(tmp_path / "found.json"), "--results", str(tmp_path), *words]) == 0
    [written] = (tmp_path / "imported").iterdir()
    metrics = json.loads(written.read_text())["metrics"]
    assert metrics["bbox/AP"] == pytest.approx(100) and metrics["segm/AP50"] == pytest.approx(100)


def test_import__masks_that_are_marked_as_crowds(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    truth = ground_truth(path)
    path.write_text(path.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
    found = {key: truth[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
    (tmp_path / "found.json").write_text(json.dumps([found]))
    words = ["--method", "Theirs", "--task", "coco", "--annotations", str(path)]
    for option, ap in (([], None), (["--crowds-as-objects"], pytest.approx(100))):
        folder = tmp_path / f"results{len(option)}"
        assert import_results.main([str(tmp_path / "found.json"), "--results", str(folder), *words, *option]) == 0
        [written] = (folder / "imported").iterdir()
        assert json.loads(written.read_text())["metrics"]["bbox/AP"] == ap


def test_import__seventeen_keypoints_of_an_animal_have_not_the_tolerances_of_a_person(tmp_path: Path) -> None:
    """Each found point is off by 6 pixels: COCO's sigmas forgive that at hips and ankles."""
    truth = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0,
             "num_keypoints": 17, "keypoints": [value for n in range(17) for value in (10 + n, 20, 2)]}
    points = [value for n in range(17) for value in (16 + n, 20, 2)]
    found = {"image_id": 1, "category_id": 1, "keypoints": points, "score": 0.9}
    (tmp_path / "found.json").write_text(json.dumps([found]))
    similar = {}
    for kind, names in (("person", COCO_PERSON), ("animal", [f"paw {n}" for n in range(17)])):
        (tmp_path / "truth.json").write_text(json.dumps({
            "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}], "annotations": [truth],
            "categories": [{"id": 1, "name": kind, "keypoints": list(names)}]}))
        similar[kind] = coco_results.evaluate(
            tmp_path / "found.json", tmp_path / "truth.json", TASKS["keypoints"])["keypoints/AP"]
    sigmas = {"person": np.array(keypoint_names.sigmas(COCO_PERSON)), "animal": np.full(17, 0.05)}
    for kind, ap in similar.items():
        oks = np.exp(-36 / (2 * 2500 * (2 * sigmas[kind]) ** 2)).mean()  # the area is 50 squared
        assert ap == pytest.approx(100 * np.mean(oks >= np.arange(0.5, 1, 0.05)))
    assert similar["person"] != similar["animal"]


def _mask():

    mask = np.zeros((64, 64), np.uint8, order="F")
    mask[10:40, 10:40] = 1
    return mask


@pytest.mark.parametrize(("content", "words", "said"), [
    ("[]", ["--method", "A", "--task", "coco"], "is a COCO result file: pass the ground truth with --annotations FILE"),
    ('[{"image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]',
     ["--method", "A", "--task", "coco", "--annotations", "TRUTH"], "does not fit"),
    ('{"total_loss": 1.0}', ["--method", "A", "--task", "keypoints"], "expected a line with keypoints/AP"),
    ('{"total_loss": 1.0}', ["--method", "A", "--task", "coco", "--annotations", "TRUTH"],
     "goes with a COCO result file"),
    ("[]", ["--method", "A"], "is not a bundle: metrics made elsewhere need --method NAME and --task"),
    ("[]", ["--method", "A", "--task", "cityscapes", "--annotations", "TRUTH"],
     "cannot be evaluated for task cityscapes"),
])
def test_import__mistakes_are_explained(tmp_path: Path, content: str, words: list[str], said: str) -> None:
    ground_truth(tmp_path / "instances.json")
    (tmp_path / "file.json").write_text(content)
    words = [str(tmp_path / "instances.json") if word == "TRUTH" else word for word in words]
    with pytest.raises(UserError) as caught:
        import_results.main([str(tmp_path / "file.json"), "--results", str(tmp_path), *words])
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("figure", ['"x"', "null", "[1]", "Infinity", "400", "-1", "true"])
def test_import__a_figure_of_detectron2_is_a_percentage(tmp_path: Path, figure: str) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(DETECTRON2).replace('"bbox/AP": 1.0', f'"bbox/AP": {figure}'))
    with pytest.raises(UserError) as caught:
        import_results.main([str(file), "--results", str(tmp_path), "--method", "A", "--task", "coco"])
    assert f"expected a number from 0 to 100 as bbox/AP of its last evaluation, found {figure}" in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "imported").exists()


@pytest.mark.parametrize(("words", "said"), [
    (["--method", "A", "--epochs", "-5"], "--epochs -5: expected an integer from 0"),
    (["--method", "A\nB"], r"--method 'A\nB': expected a printable text that is not empty"),
    (["--method", " "], "--method ' ': expected a printable text that is not empty")])
def test_import__names_and_epochs_are_checked(tmp_path: Path, words: list[str], said: str) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(DETECTRON2))
    with pytest.raises(UserError) as caught:
        import_results.main([str(file), "--results", str(tmp_path), "--task", "coco", *words])
    assert str(caught.value) == said and not (tmp_path / "imported").exists()


def test_imported__wrong_figures_are_not_written(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("")
    with pytest.raises(UserError, match="metrics.keypoints/AP: expected a number from 0 to 100 or null, found 400"):
        row = {"task": "keypoints", "method": "A", "epochs": None, "metrics": {"keypoints/AP": 400.0}}
        imported.write_imported(tmp_path / "imported", row, tmp_path / "x.json")
    assert not (tmp_path / "imported").exists()


def evaluated(tmp_path: Path, detections: list) -> dict:
    (tmp_path / "found.json").write_text(json.dumps(detections))
    return coco_results.evaluate(tmp_path / "found.json", tmp_path / "instances.json", TASKS["coco"])


def test_import__what_a_coco_file_does_not_hold_stays_empty(tmp_path: Path) -> None:
    truth = ground_truth(tmp_path / "instances.json")
    found = {key: truth[key] for key in ("image_id", "category_id")} | {"score": 0.9}
    metrics = evaluated(tmp_path, [found | {"bbox": truth["bbox"]}])
    assert metrics["bbox/AP"] == pytest.approx(100) and "segm/AP" not in metrics
    mask = {"size": [64, 64], "counts": pytest.importorskip("pycocotools.mask").encode(_mask())["counts"].decode()}
    metrics = evaluated(tmp_path, [found | {"segmentation": mask}])
    assert metrics["segm/AP"] == pytest.approx(100) and "bbox/AP" not in metrics
    with pytest.raises(UserError, match=r"detection 1 of image 1: it has no segmentation, the first has bbox, segm"):
        evaluated(tmp_path, [found | {"bbox": truth["bbox"], "segmentation": mask}, found | {"bbox": truth["bbox"]}])


@pytest.mark.parametrize(("change", "said"), [
    ({"score": float("nan")}, "detection 1 of image 1: expected a finite number as score, found nan"),
    ({"score": float("inf")}, "expected a finite number as score, found inf"),
    ({"score": "0.9"}, "expected a finite number as score, found '0.9'"),
    ({"bbox": [1, 2, 3]}, "expected four finite numbers as bbox, found [1, 2, 3]"),
    ({"bbox": [1, 2, 3, float("nan")]}, "expected four finite numbers as bbox, found [1, 2, 3, nan]")])
def test_import__a_detection_that_is_none_is_named(tmp_path: Path, change: dict, said: str) -> None:
    truth = ground_truth(tmp_path / "instances.json")
    found = {key: truth[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
    with pytest.raises(UserError) as caught:
        evaluated(tmp_path, [found, found | change])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_import__names_that_the_terminal_cannot_show_are_no_error(tmp_path: Path) -> None:
    file = tmp_path / "mj.json"
    file.write_text(json.dumps(DETECTRON2))
    done = subprocess.run([sys.executable, "-m", "benchmarks", "import", str(file), "--method", "Ü日", "--task", "coco",
                           "--results", str(tmp_path / "results")], capture_output=True, text=True,
                          env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("??: AP_bb 1.0")
