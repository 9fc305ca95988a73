"""A comparison stands where both of its results stand, and nowhere else; what is no comparison is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.formats import all_tables
from benchmarks.formats.all_tables import Tables
from benchmarks.formats.markdown import markdown
from benchmarks.records.results import digest, write_result
from pretrain import PRINTED

COCO = "coco_detection_segmentation"
ONE, TWO = "1a" * 32, "2b" * 32


@pytest.fixture
def shown(make_result: Callable, tmp_path: Path) -> Callable[..., Tables]:
    """`shown(one, two, **changes)`: tables of a result varied by `one`, one by `two`, and a comparison of the two."""

    def build(one: dict, two: dict, include_demo: bool = False, **changes: object) -> Tables:
        for name, sha256, change in (("One", ONE, one), ("Two", TWO, two)):
            write_result(tmp_path / "runs", make_result(
                method=name, **{"predictions": {"file": "predictions.json.gz", "sha256": sha256}} | change))
        record = {"schema": 1, "kind": "bootstrap", "table": COCO, "names": ["One 200", "Two 200"],
                  "predictions_sha256": [ONE, TWO], "annotations_sha256": "34" * 32, "samples": 1000, "seed": 0,
                  "outcome": {"AP_bb": {"first": 40.0, "second": 39.0, "difference": 1.0, "low": 0.5, "high": 1.5,
                                        "better": 1.0}}} | changes
        record["digest"] = digest(record)
        (tmp_path / "comparisons").mkdir(exist_ok=True)
        (tmp_path / "comparisons" / "coco.json").write_text(json.dumps(record))
        return all_tables.read_tables(tmp_path, PRINTED / "reported", include_demo)

    return build


def said_in(found: Tables) -> list[str]:
    """Headings of the blocks that carry the comparison."""
    return [block.heading for table in found.tables for block in table.blocks
            if any("One 200 minus Two 200: AP bb +1.0 [+0.5, +1.5]" in test for test in block.tests)]


def test_comparison__stands_under_the_block_of_both_results(shown) -> None:
    found = shown({}, {})
    assert said_in(found) == [""] and found.problems == []
    found = shown({"scale": "mini"}, {"scale": "mini"})
    assert said_in(found) == ["COCO train2017 / val2017, not under the paper's protocol"] and found.problems == []


def test_comparison__of_demo_results_stays_out_of_the_papers_table(shown) -> None:
    found = shown({"demo": True}, {"demo": True})
    assert (said_in(found), found.hidden, found.problems) == ([], 3, [])
    found = shown({"demo": True}, {"demo": True}, include_demo=True)
    [heading] = said_in(found)
    assert heading.startswith("Demo: ") and found.hidden == 0 and found.problems == []
    assert "Paired bootstrap" not in markdown(found.tables[0]).split("### Demo: ")[0]


@pytest.mark.parametrize(("two", "said"), [
    ({"predictions": None}, "not both of its results are among those shown"),
    ({"predictions": {"file": "x", "sha256": "99" * 32}}, "not both of its results are among those shown"),
    ({"scale": "mini"}, "its two results stand in different blocks, which are not compared")])
def test_comparison__without_both_results_in_one_block_is_left_out_and_named(shown, two: dict, said: str) -> None:
    found = shown({}, two)
    [problem] = found.problems
    assert said_in(found) == [] and problem.partition(": ")[2] == said


@pytest.mark.parametrize(("key", "value"), [
    ("outcome", [1, 2]), ("outcome", {"AP_bb": 1.0}), ("outcome", {"AP_bb": {"difference": "x", "low": 0, "high": 1}}),
    ("outcome", {}), ("names", "ab"), ("names", ["a"]), ("names", ["a", "b\nc"]), ("table", [1]),
    ("predictions_sha256", ["1a", "2b"]), ("predictions_sha256", None), ("samples", "many")])
def test_comparison__of_another_type_is_left_out_and_named(shown, key: str, value: object) -> None:
    found = shown({}, {}, **{key: value})
    assert said_in(found) == []
    [problem] = found.problems
    assert problem.startswith(f"coco.json: {key}") and "expected" in problem
    assert problem.endswith("; compare again")


def test_comparison__of_a_table_that_is_not_known_here_is_left_out_and_named(shown) -> None:
    found = shown({}, {}, table="other")
    [problem] = found.problems
    assert said_in(found) == [] and problem.startswith("coco.json: table other is not known here: expected one of ")
    found = shown({}, {}, schema=2, task="dots", outcome={"dots/F1": {"difference": 1.0, "low": 0.5, "high": 1.5}})
    assert found.problems[0].startswith("coco.json: its task dots is not known here: expected one of coco, ")
    assert "set CLOVE_TASKS to the file that defines it" in found.problems[0]


def test_comparison__of_today_names_metrics_as_the_columns_and_others_by_their_keys(shown) -> None:
    outcome = {metric: {"difference": 1.0, "low": 0.5, "high": 1.5} for metric in ("bbox/AP", "bbox/AP-car")}
    found = shown({}, {}, schema=2, task="coco", outcome=outcome)
    assert said_in(found) == [""] and found.problems == []
    [text] = [test for test in found.tables[0].blocks[0].tests if test.startswith("Paired")]
    assert text.endswith("One 200 minus Two 200: AP bb +1.0 [+0.5, +1.5], bbox/AP-car +1.0 [+0.5, +1.5].")


@pytest.mark.parametrize("content", ["[1]", "{", "{}", "[" * 100_000, '{"digest": NaN}'])
def test_comparison__that_is_no_mapping_is_left_out_and_named(shown, tmp_path: Path, content: str) -> None:
    shown({}, {})
    (tmp_path / "comparisons" / "coco.json").write_text(content)
    found = all_tables.read_tables(tmp_path, PRINTED / "reported")
    [problem] = found.problems
    assert problem.startswith("coco.json: ") and said_in(found) == []
