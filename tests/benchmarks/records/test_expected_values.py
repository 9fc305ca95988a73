"""Expected values: read whole, each figure compared within its tolerance."""

from pathlib import Path

import pytest

from benchmarks.formats.all_tables import EXPECTED
from benchmarks.records.expected_values import below_random, outside, read_expected
from benchmarks.records.paper_tables import by_table, column_names, main_columns
from pretrain.common.errors import UserError

COCO = "coco_detection_segmentation"


def test_expected__every_row_has_a_known_metric_and_a_source() -> None:
    expectations = read_expected(EXPECTED)
    assert {one["table"] for one in expectations} >= {COCO, "coco_keypoints", "cityscapes_instance_segmentation"}
    for one in expectations:
        assert one["metric"] in column_names(by_table()[one["table"]]) and one["source"]
    # The poster's Cityscapes baselines are about six points under the usual ones: nothing that a right run should meet.
    cityscapes = {one["method"] for one in expectations if one["table"].startswith("cityscapes")}
    assert not cityscapes & {"Supervised", "Rand init"}


@pytest.mark.parametrize(("value", "said"), [(39.8, []), (41.8, []), (40.8, []), (None, []),
                                             (39.7, ["AP bb 39.7 is outside 40.8 ± 1.0 (poster)"]),
                                             (41.9, ["AP bb 41.9 is outside 40.8 ± 1.0 (poster)"])])
def test_outside__the_tolerance_belongs_to_the_inside(value: float | None, said: list[str]) -> None:
    assert outside(read_expected(EXPECTED), (COCO, "CLoVE", 200, "2fc"), {"AP_bb": value}) == said


def test_outside__other_epochs_or_methods_have_no_expectation() -> None:
    expectations = read_expected(EXPECTED)
    assert outside(expectations, (COCO, "CLoVE", 300, "2fc"), {"AP_bb": 1.0}) == []
    assert outside(expectations, (COCO, "Mine", 200, "2fc"), {"AP_bb": 1.0}) == []
    assert outside(expectations, (COCO, "Supervised", 100, "c4"), {"AP_bb": 1.0}) == []
    assert len(outside(expectations, (COCO, "Supervised", 100, "2fc"), {"AP_bb": 1.0})) == 1


def test_outside__an_expectation_of_what_is_no_column_any_more_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "expected.csv"
    path.write_text(EXPECTED.read_text().replace("AP_bb", "AP_gone"))
    assert outside(read_expected(path), (COCO, "CLoVE", 200, "2fc"), {"AP_bb": 1.0}) == []


def test_below_random__looks_at_averages_over_thresholds() -> None:
    main = main_columns(by_table()[COCO])
    row, random = {"AP_bb": 3.0, "AP50_bb": 1.0, "AP_mb": None}, {"AP_bb": 2.9, "AP50_bb": 9.0, "AP_mb": 5.0}
    assert below_random(row, random, main) == []
    assert below_random(random, row, main) == ["AP bb 2.9 is below random initialisation (3.0)"]


@pytest.mark.parametrize(("old", "new"), [("AP_bb,31.0", ",31.0"), ("31.0,1.0", "131.0,1.0"), ("31.0,1.0", "31.0,0"),
                                          ("31.0,1.0,SoCo's README", "31.0,1.0,"), ("31.0,", "many,")])
def test_read_expected__broken_lines_are_explained(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "expected.csv"
    path.write_text(EXPECTED.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match="its value, tolerance and source in .*expected.csv, line 2, found"):
        read_expected(path)
    path.write_text(EXPECTED.read_text().replace("tolerance", "slack", 1))
    with pytest.raises(UserError, match="expected the columns table,method,epochs,heads,metric,value,tolerance,source"):
        read_expected(path)
