"""Where a cell comes from, told for printed and measured ones; what cannot be found is explained."""

import re
from pathlib import Path

import pytest

from benchmarks.formats import all_tables
from benchmarks.records.results import write_result
from pretrain.common.errors import UserError


@pytest.fixture
def asked(make_result, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`asked(question)`: what the command prints for two trials of CLoVE 200 and one of CLoVE 400."""
    for number in range(2):
        write_result(tmp_path / "runs", make_result(trial=number, seed=number, values=[40.0 + number] * 6,
                                                    overrides=["SEED=3"]))
    write_result(tmp_path / "runs", make_result(epochs=400))

    def ask(question: str) -> str:
        assert all_tables.main(["--results", str(tmp_path), "--why", question]) == 0
        assert not (tmp_path / "tables").exists()
        return capsys.readouterr().out

    return ask


def test_why__a_measured_cell_names_each_trial_and_all_it_is_made_of(asked) -> None:
    told = asked("coco_detection_segmentation:CLoVE 200:AP_bb")
    assert "trial 0, seed 0: 40.000" in told and "trial 1, seed 1: 41.000" in told
    for text in ("digest ", "sha256 cdcdcdcdcdcd", "118287 training and 5000 evaluation", "annotations 121212121212",
                 "config 565656565656", "SEED=3", "git 787878787878", "python 3.11.0", "8 GPUs", "265 tensors",
                 "2026-01-01T00:00:00+00:00 to 2026-01-01T01:00:00+00:00"):
        assert text in told, text


def test_why__a_printed_cell_names_its_source(asked) -> None:
    told = asked("keypoints:clove 400:AP kp")
    assert told.strip() == ("Keypoint detection on COCO (R50-FPN), CLoVE 400, AP kp: 67.0\n"
                            "  not measured here: paper (poster)")


def test_why__printed_and_measured_rows_of_one_name_are_both_told(asked) -> None:
    told = asked("coco_detection_segmentation:CLoVE 400:AP_bb")
    assert "not measured here" in told and "trial 0" in told
    assert asked("coco_detection_segmentation:CLoVE:AP_bb").count("Object detection") == 4
    assert asked("coco:CLoVE 400:AP_bb") == asked("coco_detection_segmentation:CLoVE 400:AP_bb")


def test_why__a_difference_tells_both_of_its_rows(asked, make_result, tmp_path: Path) -> None:
    random = make_result(method="Rand init", epochs=None, weights__method="Rand init", values=[32.5] * 6)
    write_result(tmp_path / "runs", random)
    told = asked("coco_detection_segmentation:CLoVE 200:AP_bb - paper")
    assert told.startswith("Object detection and segmentation on COCO (R50-FPN), CLoVE 200, AP bb - paper: -0.3, of\n")
    assert "trial 1, seed 1: 41.000" in told and "CLoVE 200, AP bb: 40.8\n  not measured here: paper (poster)" in told
    # without epochs: one for 200 and one for 400
    assert asked("coco_detection_segmentation:clove:AP bb - paper").count(", of\n") == 2


def test_why__a_paired_difference_tells_its_pairs_and_how_its_interval_is_made(asked, make_result, tmp_path) -> None:
    for trial, value in enumerate((39.0, 38.0)):
        write_result(tmp_path / "runs", make_result(method="Rand init", epochs=None, values=[value] * 6, trial=trial,
                                                    seed=trial))
    told = asked("coco:CLoVE 200:AP bb - Rand init")  # 40 - 39 and 41 - 38: 2 ± 12.706 * sqrt(2) / sqrt(2)
    assert re.sub(r"__\w{8}.json", ".json", told).splitlines() == [
        "Object detection and segmentation on COCO (R50-FPN), CLoVE 200, AP bb - Rand init: +2.0 [-10.7, +14.7] n=2",
        "  trial 0, seed 0: 40.000 - 39.000 = +1.000", "    CLoVE__200ep__coco__trial0.json",
        "    - Rand-init__noep__coco__trial0.json",
        "  trial 1, seed 1: 41.000 - 38.000 = +3.000", "    CLoVE__200ep__coco__trial1.json",
        "    - Rand-init__noep__coco__trial1.json",
        "  mean +2.000, deviation 1.414, n=2: 95 % interval with t = 12.706",
        "  p = 0.3, with Holm's correction 0.3 (AP_bb - Rand init: 1 in coco_detection_segmentation)"]
    told = asked("coco:CLoVE 400:AP_bb - Rand init")  # its only trial has the seed 1
    assert told.splitlines()[0].endswith("CLoVE 400, AP bb - Rand init: -")
    assert told.splitlines()[1:] == ["  no fine-tuning of the same trial and seed in both rows"]
    with pytest.raises(UserError, match="Rand init is compared with no other row; ask for AP_bb, its value"):
        asked("coco:Rand init:AP_bb - Rand init")
    assert asked("coco:CLoVE 400:AP bb - rand init [95 %]").startswith("Object detection")
    with pytest.raises(UserError, match="are compared with Rand init; for another one add --against ROW$"):
        asked("coco:CLoVE 200:AP bb - CLoVE 400")


def test_why__a_name_with_colons_is_a_row(asked, make_result, tmp_path: Path) -> None:
    write_result(tmp_path / "runs", make_result(method="a:b: c", epochs=None))
    assert "trial 0" in asked("coco_detection_segmentation:a:b: c:AP_bb")


@pytest.mark.parametrize(("question", "said"), [
    ("probes:CLoVE 200:retrieval", "found 0 for 'probes' (frozen_backbone_probes: no probe is shown); name one of "),
    ("coco_detection_segmentation:CLoVE 200:AP_bb - random",
     "CLoVE 200 is compared with no other row; ask for AP_bb, its value"),
    ("coco_keypoints", "expected TABLE:ROW:COLUMN, such as"),
    ("segm:CLoVE 200:AP_bb", "expected one table, found 4 for 'segm'; name one of coco_detection_segmentation, "),
    ("keypoints:CLoVE 200:AP_bb", "coco_keypoints has no column AP_bb; it has AP_kp, AP50_kp, AP75_kp"),
    ("keypoints:CLoVE 300:AP_kp", "coco_keypoints has no row CLoVE 300; the nearest is CLoVE 400, all: Supervised"),
])
def test_why__what_is_not_there_is_explained(asked, question: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        asked(question)
    assert said in str(caught.value)


def test_why__tells_the_pretraining_of_each_trial(asked, make_result, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_result(tmp_path / "runs", make_result(method="Mine", stage__key=f"{seed}" * 64, weights__pkl_sha256=(
            f"{seed}" * 64), weights__pretraining={"objective": "clove", "seed": seed, "recipe_sha256": "a1" * 32,
                                                   "images_sha256": "b2" * 32}))
    told = asked("coco:Mine 200:AP_bb")
    assert "measured, n=2: 2 pretrainings x 1 fine-tuning; 4conv1fc heads" in told
    for seed in (1, 2):
        assert f"  trial 0, seed 1 of pretraining {seed}: 40.500\n" in told
        assert f"    pretraining  clove, seed {seed}, recipe a1a1a1a1a1a1, images b2b2b2b2b2b2\n" in told
    assert "pretraining" not in asked("coco_detection_segmentation:CLoVE 400:AP_bb")


def test_why__tells_the_identities_of_training_and_evaluation(asked, make_result, tmp_path: Path) -> None:
    write_result(tmp_path / "runs", make_result(method="Mine", training={"sha256": "a1" * 32}, evaluation={
        "sha256": "b2" * 32}))
    write_result(tmp_path / "runs", make_result(method="Stranger", training=None, evaluation={}))
    told = asked("coco:Mine 200:AP_bb")
    assert "    training     identity a1a1a1a1a1a1\n    evaluation   identity b2b2b2b2b2b2\n" in told
    assert "identity" not in asked("coco:Stranger 200:AP_bb")
