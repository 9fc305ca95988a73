"""Measured rows: averaged only where they may be, in the block where they belong, with what is doubted in them."""

import hashlib
import re
from pathlib import Path

import pytest

from benchmarks.records.results import write_result
from benchmarks.report.command import page
from tests.benchmarks.table_files import CITYSCAPES, COCO, KEYPOINTS, csv_lines, write_all


def test_tables__two_trials_give_mean_sample_deviation_and_difference(make_result, tables_of, tmp_path: Path) -> None:
    # Means 40.5 41 45.1 36.8 57.5 39.97; deviations |a-b|/sqrt(2): 0.707 1.414 0.141 0 0.424 0.099
    write_all(tmp_path, make_result(values=[40.0, 40.0, 45.0, 36.8, 57.2, 39.9], trial=0, seed=0, config__SEED=0),
              make_result(values=[41.0, 42.0, 45.2, 36.8, 57.8, 40.04], trial=1, seed=7, config__SEED=7,
                          config__OUTPUT_DIR="elsewhere", config__MODEL__WEIGHTS="other/place.pkl"))
    [table], text, _ = tables_of(tmp_path)
    assert [row[0] for row in table[10:]] == ["measured here", "CLoVE"] and table[0][-2:] == ["AP bb - paper", "Source"]
    assert table[11] == ["CLoVE", "200", "40.5 ± 0.7", "41.0 ± 1.4", "45.1 ± 0.1", "36.8 ± 0.0", "57.5 ± 0.4",
                         "40.0 ± 0.1", "-0.3", "measured, n=2; 4conv1fc heads"]
    assert {row[-2] for row in table[1:11]} == {""} and "sample standard deviation" in text
    lines = csv_lines(tmp_path, table=COCO, kind="measured")
    assert [round(float(line["minus_paper"]), 2) for line in lines] == [-0.3, -19.5, 0.1, 0.0, -0.1, 0.17]


def test_tables__one_trial_says_so_and_has_no_deviation(make_result, tables_of, tmp_path: Path) -> None:
    write_all(tmp_path, make_result(KEYPOINTS, [66.9, None, 73.0], heads="2fc"))
    [table], _, _ = tables_of(tmp_path, KEYPOINTS)
    assert table[11:] == [["CLoVE", "200", "66.9", "-", "73.0", "0.0", "measured, n=1; 2fc heads"]]


def test_tables__a_metric_that_some_trials_lack_tells_its_own_n(make_result, tables_of, tmp_path: Path) -> None:
    write_all(tmp_path, *[make_result(CITYSCAPES, [35.0 + trial, None if trial else 60.0], trial=trial)
                          for trial in range(3)])
    [table], _, _ = tables_of(tmp_path, CITYSCAPES)
    assert table[10][:6] == ["CLoVE", "200", "36.0 ± 1.0", "60.0 (n=1)", "+0.3",
                         "measured, n=3; 4conv1fc heads"]


def test_tables__measured_rows_follow_the_papers_order_and_others_come_last(make_result, tables_of, tmp_path) -> None:
    rows = [("Another", None), ("CLoVE", 400), ("aaa", 100), ("CLoVE", 200), ("Rand init", None), ("CLoVE", 100)]
    write_all(tmp_path, *[make_result(method=method, epochs=epochs) for method, epochs in rows])
    [table], _, _ = tables_of(tmp_path)
    assert [row[:2] for row in table[11:]] == [
        ["Rand init", "-"], ["CLoVE", "100"], ["CLoVE", "200"], ["CLoVE", "400"], ["Another", "-"], ["aaa", "100"]]
    assert [row[8] == "" for row in table[11:]] == [False, True, False, False, True, True]  # minus the paper


@pytest.mark.parametrize(("change", "said"), [
    ({"heads": "2fc"}, ["2fc heads", "4conv1fc heads"]),
    ({"weights__pkl_sha256": "ef" * 32}, ["4conv1fc heads, weights cdcdcdcd (student)",
                                          "4conv1fc heads, weights efefefef (student)"]),
    ({"config__MODEL__MASK_ON": False}, ["4conv1fc heads, MODEL.MASK_ON False", "4conv1fc heads, MODEL.MASK_ON True"]),
])
def test_tables__what_differs_is_not_averaged(make_result, tables_of, tmp_path, change, said) -> None:
    write_all(tmp_path, make_result(), make_result(trial=1, **change))
    [table], _, _ = tables_of(tmp_path)
    rows = [row for row in table if row[0] == "CLoVE" and "measured" in row[-1]]
    assert [row[-1] for row in rows] == [f"measured, n=1; {text}" for text in said]


def test_tables__other_annotations_are_not_averaged(make_result, tables_of, tmp_path: Path) -> None:
    write_all(tmp_path, make_result(), make_result(trial=1, dataset__val__annotations_sha256="99" * 32))
    [table], _, _ = tables_of(tmp_path)
    sources = [row[-1] for row in table if row[0] == "CLoVE" and "measured" in row[-1]]
    assert len(set(sources)) == 2
    assert all("n=1; 4conv1fc heads, annotations " in source for source in sources)


def test_tables__random_weights_of_each_trial_are_averaged(make_result, tables_of, tmp_path: Path) -> None:
    write_all(tmp_path, *[make_result(method="Rand init", epochs=None, trial=trial,
                                      values=[32.8, 51.0, 35.3, 29.9, 46.8, 30.4]) for trial in range(2)])
    [table], _, _ = tables_of(tmp_path)
    assert table[11][-1] == "measured, n=2; 4conv1fc heads"


@pytest.mark.parametrize(("change", "said"), [
    ({"scale": "mini", "iterations": 200}, "scale mini, 200 iterations of 16 images"),
    ({"iterations": 180000}, "180000 iterations of 16 images"),
    ({"config__SOLVER__BASE_LR": 0.04}, "learning rate 0.04"),
    ({"config__SOLVER__IMS_PER_BATCH": "many"}, "batch or learning rate unknown"),
    ({"overrides": ["SEED=3", "MODEL.RPN.LOSS_WEIGHT=0.2"]}, "MODEL.RPN.LOSS_WEIGHT=0.2"),
    ({"weights__architecture": "resnet18"}, "resnet18, not the paper's network"),
])
def test_tables__another_protocol_stands_apart_and_says_how(make_result, tables_of, tmp_path, change, said) -> None:
    write_all(tmp_path, make_result(**change))
    [paper, other], text, _ = tables_of(tmp_path)
    assert len(paper) == 10
    assert "### COCO train2017 / val2017, not under the paper's protocol" in text
    assert other[1:] == [["CLoVE", "200", "40.5", "60.0", "45.0", "36.5", "57.0", "39.0",
                          f"measured, n=1; 4conv1fc heads, {said}"]]


def test_tables__half_the_batch_and_twice_the_iterations_count_as_the_papers(make_result, tables_of, tmp_path) -> None:
    write_all(tmp_path, make_result(iterations=180000, config__SOLVER={"IMS_PER_BATCH": 8, "BASE_LR": 0.01},
                                    overrides=["SOLVER.IMS_PER_BATCH=8", "DATALOADER.NUM_WORKERS=2"]))
    [table], _, _ = tables_of(tmp_path)
    assert [row[0] for row in table[10:]] == ["measured here", "CLoVE"] and table[11][-2] == "-0.3"


@pytest.mark.parametrize("change", [
    {"dataset__val__images": 4999}, {"dataset__train__images": 11828}, {"dataset__classes": ["cell"]}])
def test_tables__other_data_stands_apart_even_at_full_scale(make_result, tables_of, tmp_path, change) -> None:
    write_all(tmp_path, make_result(method="Mine"), make_result(**{"dataset__name": "my *data*"}, **change))
    [paper, own], text, _ = tables_of(tmp_path)
    assert [row[0] for row in paper[10:]] == ["measured here", "Mine"]
    classes = "1 class" if "dataset__classes" in change else "80 classes"
    assert rf"### Own data: my \*data\*, {classes}, " in text
    assert "not comparable" in text
    assert own[1][:2] == ["CLoVE", "200"]
    assert len(own) == 2


def test_tables__own_data_alone_have_no_printed_rows_and_give_the_table_its_title(make_result, tables_of, tmp_path):
    own = {"dataset__classes": ["cell"], "scale": "mini"}
    write_all(tmp_path, *[make_result(dataset__label=label, dataset__val__annotations_sha256=number * 64,
                                      stage__key=number * 64, **own)
                          for label, number in (("nuclei", "1"), ("bccd", "2"))])
    tables, text, problems = tables_of(tmp_path)
    assert problems == [] and [[row[0] for row in table] for table in tables] == [["Method", "CLoVE"]] * 2
    assert text.startswith("## Object detection and segmentation on bccd, nuclei\n\n### Own data: bccd, 1 class, ")
    assert "paper (" not in text and "printed in papers" not in text and "0.3 AP" not in text
    assert "not comparable" not in text and "Measured rows: mean ± sample standard deviation" in text
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {"coco_detection_segmentation", "tables"}
    [shown] = re.findall(r"<h2>.*</h2>\n<h3>.*</h3>", page(tmp_path / "nowhere", tmp_path))
    assert shown.startswith("<h2>Object detection and segmentation on bccd, nuclei</h2>\n<h3>Own data: bccd, ")
    write_all(tmp_path, make_result(KEYPOINTS, heads="2fc"))  # on the published data: its table and all others as ever
    assert len(tables_of(tmp_path)[0]) == 3


def test_tables__the_same_trial_twice_counts_once_and_is_named(make_result, tables_of, tmp_path: Path) -> None:
    old = write_result(tmp_path / "runs", make_result(CITYSCAPES, [10.0, 20.0], stage__key="a" * 64))
    new = write_result(tmp_path / "runs", make_result(CITYSCAPES, [35.0, 60.0], stage__key="b" * 64,
                                                      ended="2026-01-01T02:00:00+00:00"))
    [table], _, problems = tables_of(tmp_path, CITYSCAPES)
    assert table[10][2:] == ["35.0", "60.0", "-0.7", "measured, n=1; 4conv1fc heads"]
    assert problems == [f"{old.name}: the same trial ran again; {new.name} counts instead"]


def test_tables__a_validation_file_that_was_fixed_counts_and_the_old_one_is_named(make_result, tables_of, tmp_path):
    own = {"dataset__label": "nuclei", "training": {"sha256": "c1" * 32}}
    old = write_result(tmp_path / "runs", make_result(CITYSCAPES, [10.0, 20.0], stage__key="a" * 64, **own))
    new = write_result(tmp_path / "runs", make_result(
        CITYSCAPES, [35.0, 60.0], stage__key="b" * 64, dataset__val__annotations_sha256="99" * 32,
        ended="2026-01-01T02:00:00+00:00", **own))
    [table], _, problems = tables_of(tmp_path, CITYSCAPES)
    assert table[10][2:] == ["35.0", "60.0", "-0.7", "measured, n=1; 4conv1fc heads"]
    assert problems == [f"{old.name}: evaluated on nuclei as it was (annotations 34343434); {new.name} is the same "
                        "training on 99999999 and counts instead"]
    write_all(tmp_path, make_result(CITYSCAPES, [30.0, 50.0], stage__key="c" * 64, **own | {"dataset__label": "test"}))
    [table], _, again = tables_of(tmp_path, CITYSCAPES)  # another label is another dataset to evaluate on
    assert sorted(row[2] for row in table if "measured, n=1" in row[-1]) == ["30.0", "35.0"] and again == problems


def random_row(make_result, values: list[float], **changes) -> dict:
    changes = {"stage__key": hashlib.sha256(repr(changes).encode()).hexdigest()} | changes  # a stage for each setting
    return make_result(method="Rand init", epochs=None, weights__method="Rand init", values=values, **changes)


def test_tables__a_row_below_random_initialisation_is_marked_and_named(make_result, tables_of, tmp_path: Path) -> None:
    low = [20.0, 40.0, 20.0, 29.0, 40.0, 20.0]
    write_all(tmp_path, make_result(method="Odd", values=low), random_row(make_result, [32.5, 51, 35, 28.9, 47, 30]),
              random_row(make_result, [31.0, 50, 34, 28.4, 46, 30], heads="2fc"),
              make_result(method="Fine", values=[34.0, 52.0, 36.0, 31.0, 48.0, 32.0]))
    [table], text, _ = tables_of(tmp_path)
    assert [row[0] for row in table if row[-1].endswith("(!)")] == ["Odd"]
    assert text.count("below random") == 1
    assert ("- (!) Odd 200, measured, n=1; 4conv1fc heads: AP bb 20.0 is below random initialisation (32.5)"
            in text.splitlines())


def test_tables__without_a_measured_random_row_the_printed_one_counts(make_result, tables_of, tmp_path: Path) -> None:
    write_all(tmp_path, make_result(method="Odd", values=[20.0, 40, 20, 29, 40, 20]))
    assert "AP bb 20.0 is below random initialisation (32.8), as the paper prints it" in tables_of(tmp_path)[1]


def test_tables__below_random_in_another_block_is_compared_with_that_block_only(make_result, tables_of, tmp_path):
    write_all(tmp_path, make_result(values=[20.0] * 6, scale="mini"), random_row(make_result, [25.0] * 6, scale="mini"),
              random_row(make_result, [10.0] * 6, scale="mini", heads="2fc"))
    _, text, _ = tables_of(tmp_path)
    assert text.count("(!)") == 3 and "AP bb 20.0 is below random initialisation (25.0)" in text
    assert "AP mb 20.0 is below random initialisation (25.0)" in text


def test_tables__outside_the_literature_is_marked_under_the_papers_protocol_only(make_result, tables_of, tmp_path):
    values = [36.0, 60.0, 45.0, 36.5, 57.0, 39.0]
    write_all(tmp_path, make_result(values=values), make_result(values=values, scale="mini", stage__key="ef" * 32))
    [paper, other], text, _ = tables_of(tmp_path)
    assert [row[-1] for row in paper if "(!)" in row[-1]] == ["measured, n=1; 4conv1fc heads (!)"]
    assert not [row for row in other if "(!)" in row[-1]]
    assert ("- (!) CLoVE 200, measured, n=1; 4conv1fc heads: AP bb 36.0 is outside 40.8 ± 1.0 (poster)"
            in text.splitlines())


def test_tables__the_head_family_decides_what_is_expected(make_result, tables_of, tmp_path: Path) -> None:
    same = [31.0, 49.0, 33.0, 28.5, 46.0, 30.0]
    write_all(tmp_path, random_row(make_result, same), random_row(make_result, same, heads="2fc"))
    [table], text, _ = tables_of(tmp_path)
    assert [row[-1] for row in table if "(!)" in row[-1]] == ["measured, n=1; 4conv1fc heads (!)"]
    assert "AP bb 31.0 is outside 32.8 ± 1.0 (PixPro's README)" in text


def test_tables__a_printed_row_below_random_is_marked_too(make_result, tables_of, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    [table], text, _ = tables_of(tmp_path, "lvis_detection_segmentation")
    assert [row[0] for row in table if row[-1].endswith("(!)")] == ["VICRegL"]
    assert "- (!) VICRegL 200 as printed: AP bb 7.0 is below random initialisation (12.4)" in text.splitlines()


def test_tables__demo_rows_carry_no_doubts(make_result, tables_of, tmp_path: Path) -> None:
    write_all(tmp_path, make_result(demo=True, values=[1.0] * 6), random_row(make_result, [2.0] * 6, demo=True))
    assert "(!)" not in tables_of(tmp_path, include_demo=True)[1]


def of_pretraining(make_result, seed: int, trial: int, value: float, recipe: str = "a1", **changes) -> dict:
    pretraining = {"objective": "clove", "seed": seed, "recipe_sha256": recipe * 32, "images_sha256": "b2" * 32}
    key = hashlib.sha256(repr((seed, trial, recipe)).encode()).hexdigest()
    return make_result(values=[value] * 6, trial=trial, seed=trial, stage__key=key, weights__pretraining=pretraining,
                       weights__pkl_sha256=hashlib.sha256(f"{seed} {recipe}".encode()).hexdigest(), **changes)


def test_tables__pretrainings_of_one_recipe_are_one_row_that_says_what_n_is_made_of(make_result, tables_of, tmp_path):
    write_all(tmp_path, *[of_pretraining(make_result, seed, trial, 38 + 3 * (seed - 1) + 2 * trial)
                          for seed in (1, 2, 3) for trial in (0, 1)])
    [table], text, problems = tables_of(tmp_path)
    assert problems == []
    assert [row for row in table if row[0] == "CLoVE" and "measured" in row[-1]] == [
        ["CLoVE", "200", *["42.0 ± 3.0"] * 6, "+1.2",
         "measured, n=6: 3 pretrainings x 2 fine-tunings; 4conv1fc heads (!)"]]
    assert "mean and deviation are over the means of its pretrainings" in text
    assert "A checkpoint from elsewhere is one pretraining" not in text
    [line] = csv_lines(tmp_path, kind="measured", method="CLoVE", epochs="200", metric="AP_bb")
    assert [line[name] for name in ("value", "deviation", "n", "pretrainings")] == ["42.0", "3.0", "6", "3"]


def test_tables__bold_needs_three_pretrainings_where_the_method_was_pretrained_here(make_result, tables_of, tmp_path):
    others = [make_result(method="Theirs", values=[30.0 + trial / 10] * 6, trial=trial) for trial in range(3)]
    mine = [of_pretraining(make_result, seed, trial, 40 + seed / 5) for seed in (1, 2) for trial in (0, 1, 2)]
    write_all(tmp_path, *others, *mine)
    _, text, _ = tables_of(tmp_path)
    assert "**40.3" not in text and "<u>40.3 ± 0.1</u>" in text
    assert "AP bb CLoVE 200 over Theirs 200 p = " in text and ", not bold with 2 pretrainings" in text
    assert "A checkpoint from elsewhere is one pretraining: its deviation is over its fine-tunings alone." in text
    write_all(tmp_path, of_pretraining(make_result, 3, 0, 40.6))
    assert "**40.4 ± 0.2**" in tables_of(tmp_path)[1]


def test_tables__ablations_of_one_objective_stand_beside_each_other(make_result, tables_of, tmp_path: Path) -> None:
    write_all(tmp_path, *[of_pretraining(make_result, 1, 0, 40, recipe, method="Mine") for recipe in ("a1", "c3")])
    [table], _, problems = tables_of(tmp_path)
    assert problems == [] and [row[-1] for row in table if row[0] == "Mine"] == [
        f"measured, n=1: 1 pretraining x 1 fine-tuning; 4conv1fc heads, recipe {recipe * 4} on images b2b2b2b2 "
        "(student)" for recipe in ("a1", "c3")]


def test_tables__boxes_alone_leave_the_columns_of_masks_empty(make_result, tables_of, tmp_path: Path) -> None:
    boxes = {"bbox/AP": 30.0, "bbox/AP50": 50.0, "bbox/AP75": 20.0, "bbox/AP-cell": 30.0}
    own = {"dataset__classes": ["cell"], "dataset__name": "blood", "metrics": boxes}
    write_all(tmp_path, *[make_result(trial=trial, **own) for trial in (0, 1)],
              random_row(make_result, [1.0] * 6, **own | {"metrics": {"bbox/AP": 10.0}}))
    [table], text, problems = tables_of(tmp_path)
    assert problems == [] and "AP mb" not in text.split("### Own data")[1].split("Best over")[1]
    rows = {row[0]: row[2:8] for row in table[1:]}
    assert rows["CLoVE"] == ["30.0 ± 0.0", "50.0 ± 0.0", "20.0 ± 0.0", "-", "-", "-"]
    assert rows["Rand init"] == ["10.0", "-", "-", "-", "-", "-"]
    [difference] = csv_lines(tmp_path, method="CLoVE", kind="measured", metric="AP_bb")
    assert (difference["difference"], difference["difference_n"]) == ("20.0", "1")
    [masks] = csv_lines(tmp_path, method="CLoVE", kind="measured", metric="AP_mb")
    assert masks["difference_note"] == "no fine-tuning of the same trial and seed in both rows"
