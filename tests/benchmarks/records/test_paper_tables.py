"""The reported figures and the tables made of them, cell by cell against what the poster prints."""

import csv
import os
from pathlib import Path

import pytest

from benchmarks.formats import all_tables
from benchmarks.records.paper_tables import (
    by_table,
    column_names,
    departures,
    main_columns,
    on_standard_data,
    remarks,
    shown,
)

ROOT = Path(all_tables.__file__).resolve().parents[2]
COCO, CITYSCAPES, KEYPOINTS = (
    "coco_detection_segmentation", "cityscapes_instance_segmentation", "coco_keypoints")

# As the poster prints them, its missing decimals included.
POSTER = {
    COCO: """
        Supervised | 100 | 38.9 | 59.6 | 42.7 | 35.4 | 56.5 | 38.1
        Rand init  | -   | 32.8 | 51   | 35.3 | 28.5 | 46.8 | 30.4
        DenseCL    | 200 | 39.4 | 59.9 | 42.7 | 35.6 | 56.7 | 38.2
        ReSim      | 200 | 39.3 | 59.7 | 43.1 | 35.7 | 56.7 | 38.1
        PixPro     | 400 | 39.8 | 59.5 | 43.7 | 36.1 | 56.5 | 38.9
        SetSim     | 200 | 40.2 | 60.7 | 43.9 | 36.4 | 57.7 | 39
        VICRegL    | 300 | 37.3 | 57.6 | 40.7 | 34.1 | 54.7 | 36.5
        CLoVE      | 200 | 40.8 | 60.5 | 45.0 | 36.8 | 57.6 | 39.8
        CLoVE      | 400 | 41.2 | 61.1 | 45   | 37.1 | 58.1 | 40.1""",
    CITYSCAPES: """
        Supervised | 100 | 26.5 | 52.9
        Rand init  | -   | 19.9 | 40.7
        DenseCL    | 200 | 33.1 | 61.7
        PixPro     | 400 | 35.8 | 63.7
        VICRegL    | 300 | 29.8 | 58.5
        SlotCon    | 200 | 35.2 | 63.8
        CLoVE      | 200 | 35.7 | 64.1
        CLoVE      | 400 | 37.2 | 65.3""",
    KEYPOINTS: """
        Supervised | 100 | 65.3 | 87   | 71.3
        Rand init  | -   | 63   | 85.1 | 68.4
        DenseCL    | 200 | 66.3 | 87.1 | 71.9
        PixPro     | 400 | 66.6 | 87.2 | 73.0
        ReSim      | 200 | 66.3 | 87.2 | 72.4
        SetSim     | 200 | 66.7 | 87.8 | 72.4
        SlotCon    | 200 | 66.5 | 87.5 | 72.5
        CLoVE      | 200 | 66.9 | 87.5 | 73.2
        CLoVE      | 400 | 67.0 | 87.4 | 73.3""",
}
# The wider tables as the official repository prints them.
WIDER = {
    "coco_detection_segmentation_c4": """
        Supervised | 100 | 38.2 | 58.2 | 41.2 | 33.3 | 54.7 | 35.2
        Rand init  | -   | 26.4 | 44   | 27.8 | 29.3 | 46.9 | 30.8
        ReSim      | 200 | 39.7 | 59   | 43   | 34.6 | 55.9 | 37.1
        InsCon     | 200 | 40.3 | 60.0 | 43.5 | 35.1 | 56.7 | 37.6
        PixPro     | 400 | 40.5 | 59.8 | 44   | 35.4 | 56.9 | 37.7
        DetCo      | 200 | 39.8 | 59.7 | 43   | 34.7 | 56.3 | 36.7
        SlotCon    | 200 | 39.9 | 59.8 | 43.0 | 34.9 | 56.5 | 37.3
        CLoVE      | 200 | 40.6 | 60.0 | 44.1 | 35.4 | 56.8 | 37.8
        CLoVE      | 400 | 41.0 | 60.3 | 44.2 | 35.5 | 57.2 | 38.1""",
    "lvis_detection_segmentation": """
        Supervised | 100 | 20.2 | 33.4 | 21.4 | 19.6 | 31.2 | 20.8
        Rand init  | -   | 12.4 | 21.8 | 12.5 | 12.1 | 20.2 | 12.5
        DenseCL    | 200 | 20.4 | 33.5 | 21.4 | 19.9 | 31.5 | 20.9
        PixPro     | 400 | 23.8 | 38.2 | 25.2 | 23.3 | 36.1 | 24.7
        SlotCon    | 200 | 23.2 | 37.6 | 24.3 | 22.9 | 35.6 | 24.3
        VICRegL    | 200 | 7    | 13.4 | 6.4  | 7.4  | 12.7 | 7.3
        CLoVE      | 200 | 23.6 | 37.7 | 25.2 | 23.3 | 35.9 | 24.8
        CLoVE      | 400 | 24.3 | 38.8 | 25.8 | 23.9 | 36.7 | 25.3""",
}
HEADERS = {
    COCO: ["Method", "Epochs", "AP bb", "AP50 bb", "AP75 bb", "AP mb", "AP50 mb", "AP75 mb", "Source"],
    CITYSCAPES: ["Method", "Epochs", "AP", "AP50", "Source"],
    KEYPOINTS: ["Method", "Epochs", "AP kp", "AP50 kp", "AP75 kp", "Source"],
}


def printed(text: str) -> list[list[str]]:
    """The rows of a table written as cells between bars."""
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


@pytest.mark.parametrize("name", [*POSTER, *WIDER])
def test_reported__holds_the_printed_values_and_nothing_else(name: str) -> None:
    metrics = column_names(by_table()[name])
    source = "poster" if name in POSTER else "official repository README"
    expected = [[name, method, epochs.strip("-"), metric, value, source]
                for method, epochs, *values in printed((POSTER | WIDER)[name])
                for metric, value in zip(metrics, values, strict=True)]
    with open(ROOT / "results" / "reported" / f"{name}.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["table", "method", "epochs", "metric", "value", "source"]
    assert rows == expected


def test_reported__holds_the_five_tables() -> None:
    assert {path.stem for path in (ROOT / "results" / "reported").iterdir()} == set(POSTER) | set(WIDER)
    assert [len(printed(text)) for text in POSTER.values()] == [9, 8, 9]


@pytest.mark.parametrize("name", POSTER)
def test_tables__are_the_posters_cell_for_cell_with_one_decimal(name: str, tmp_path: Path, markdown_tables) -> None:
    found = all_tables.read_tables(tmp_path, ROOT / "results" / "reported")
    all_tables.write_tables(found.tables, tmp_path / "tables")
    [[header, *rows]] = markdown_tables((tmp_path / "tables" / f"{name}.md").read_text(encoding="utf-8"))
    assert found.problems == []
    assert header == HEADERS[name]
    assert rows == [[method, epochs, *[value if "." in value else f"{value}.0" for value in values], "paper (poster)"]
                    for method, epochs, *values in printed(POSTER[name])]


def test_tables__one_file_each_and_one_with_all_and_the_posters_are_shown(tmp_path: Path, markdown_tables) -> None:
    found = all_tables.read_tables(tmp_path, ROOT / "results" / "reported")
    all_tables.write_tables(found.tables, tmp_path / "tables")
    assert set(os.listdir(tmp_path / "tables")) == {
        "tables.md", "tables.csv", *[f"{name}.{end}" for name in [*POSTER, *WIDER] for end in ("md", "tex", "html")]}
    together = (tmp_path / "tables" / "tables.md").read_text(encoding="utf-8")
    assert len(markdown_tables(together)) == 5
    for name in [*POSTER, *WIDER]:
        assert (tmp_path / "tables" / f"{name}.md").read_text(encoding="utf-8") in together
    assert [table[0] for table in markdown_tables(found.shown())] == list(HEADERS.values())


def test_departures__another_solver_is_named(make_result):
    plain = make_result(solver="common", schedule="1x")
    assert departures(plain) == []
    assert departures(make_result(solver="vicreg", config__SOLVER__BASE_LR=0.04)) == ["solver vicreg"]


def test_voc__is_a_table_beside_the_posters():
    task = by_table()["voc_detection"]
    table = task.table
    assert column_names(task) == ("AP", "AP50", "AP75") and not table.in_poster and "five trials" in table.note
    assert (table.classes, table.train_images, table.val_images) == (20, 5011 + 11540, 4952)


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, []),  # of before these were recorded
    ({"fit": None, "images_at_once": 16, "batch_norm_images": 16}, []),
    ({"fit": "accumulate", "images_at_once": 4, "batch_norm_images": 4},
     ["gradients accumulated, 4 images at once", "batch norm of 4 images"]),
    ({"fit": "linear", "images_at_once": 2, "batch_norm_images": 2, "iterations": 720_000,
      "config__SOLVER": {"IMS_PER_BATCH": 2, "BASE_LR": 0.0025}},
     ["batches of 2 by the linear rule", "batch norm of 2 images"]),
    ({"fit": None, "images_at_once": 16, "batch_norm_images": None}, []),
])
def test_remarks__the_same_images_seen_is_the_protocol_with_a_footnote(changes: dict, expected: list, make_result
                                                                      ) -> None:
    result = make_result(**changes)
    assert remarks(result) == expected and departures(result) == []


def test_departures__a_model_file_whose_training_is_not_known(make_result) -> None:
    known = make_result(kind="evaluation", weights__init="converted checkpoint")
    assert departures(known) == []
    stranger = make_result(kind="evaluation", weights__init="not known")
    assert departures(stranger) == ["a model file whose training is not known"]


def test_departures__an_early_look_changes_nothing(make_result) -> None:
    assert departures(make_result(overrides=["TEST.EVAL_PERIOD=500"])) == []


def test_main_columns__are_the_averages_over_thresholds() -> None:
    assert {name: main_columns(task) for name, task in by_table().items()} == {
        COCO: ("AP_bb", "AP_mb"), CITYSCAPES: ("AP",), KEYPOINTS: ("AP_kp",), "voc_detection": ("AP",),
        "coco_detection_segmentation_c4": ("AP_bb", "AP_mb"), "lvis_detection_segmentation": ("AP_bb", "AP_mb")}


def test_shown__is_a_view_of_the_metrics(make_result) -> None:
    result = make_result(CITYSCAPES, [35.0, None])
    assert shown(result) == {"AP": 35.0, "AP50": None}
    del result["metrics"]["segm/AP"]
    assert shown(result) == {"AP": None, "AP50": None}


@pytest.mark.parametrize(("share", "standard"), [
    (None, True), ({"share": 1.0, "images": 118287}, True), ({"share": 0.25, "images": 29571}, False)])
def test_on_standard_data__a_share_of_the_training_images_is_other_data(make_result, share, standard: bool) -> None:
    assert on_standard_data(make_result(dataset__train_share=share)) == standard
