"""Results of older versions read like today's."""

import json
from pathlib import Path

import pytest

from transfer.finetuning import result
from transfer.records.old_result import metric_of, read_as_now

OLD = {"schema": 1, "task": "keypoints", "metrics": {"AP_kp": 40.0, "AP50_kp": 60.0, "AP75_kp": None},
       "details": {"bbox/AP": 50.0, "keypoints/APm": 30.0}, "heads": "2fc"}
NOW = {"schema": 2, "task": "keypoints", "heads": "2fc", "metrics": {
    "keypoints/AP": 40.0, "keypoints/AP50": 60.0, "keypoints/AP75": None, "bbox/AP": 50.0, "keypoints/APm": 30.0}}


def test_read_as_now__columns_and_details_are_metrics_alike() -> None:
    assert read_as_now(OLD) == NOW
    assert read_as_now(NOW) is NOW


@pytest.mark.parametrize(("table", "column", "metric"), [
    ("coco_detection_segmentation", "AP50_mb", "segm/AP50"), ("lvis_detection_segmentation", "AP_bb", "bbox/AP"),
    ("coco_keypoints", "AP75_kp", "keypoints/AP75"), ("cityscapes_instance_segmentation", "AP50", "segm/AP50"),
    ("voc_detection", "AP75", "bbox/AP75"), (None, "bbox/AP", "bbox/AP")])
def test_metric_of__columns_of_schema_1_whatever_the_tables_show_now(table: str | None, column: str, metric: str
                                                                     ) -> None:
    assert metric_of(table, column) == metric


def test_metric_of__another_name_is_refused() -> None:
    for table, column in (("coco_keypoints", "AP"), ("voc_detection", "AP_xy")):
        with pytest.raises(ValueError, match="expected GROUP/NAME or a column of schema 1, found 'AP"):
            metric_of(table, column)


def test_read_as_now__what_is_no_percentage_stays_in_details() -> None:
    found = read_as_now(OLD | {"details": {"bbox/AP": 50.0, "bbox/counts": 120.0, "log": "a text"}})
    assert found["details"] == {"bbox/counts": 120.0, "log": "a text"} and found["metrics"]["bbox/AP"] == 50.0


def test_read__a_finished_folder_of_an_older_version(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(OLD))
    assert result.read(tmp_path) == NOW
