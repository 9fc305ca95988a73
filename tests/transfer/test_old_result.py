"""Results of older versions read like today's."""

import json
from pathlib import Path

from transfer import result
from transfer.old_result import read_as_now

OLD = {"task": "keypoints", "metrics": {"AP_kp": 40.0, "AP50_kp": 60.0, "AP75_kp": None},
       "details": {"bbox/AP": 50.0, "keypoints/APm": 30.0}, "heads": "2fc"}
NOW = {"task": "keypoints", "heads": "2fc", "metrics": {
    "keypoints/AP": 40.0, "keypoints/AP50": 60.0, "keypoints/AP75": None, "bbox/AP": 50.0, "keypoints/APm": 30.0}}


def test_read_as_now__columns_and_details_are_metrics_alike() -> None:
    assert read_as_now(OLD) == NOW
    assert read_as_now(NOW) is NOW


def test_read__a_finished_folder_of_an_older_version(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(OLD))
    assert result.read(tmp_path) == NOW
