"""The tables' files: the same for the same results, with what is left out named."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.formats import all_tables
from benchmarks.records import imported
from benchmarks.records.results import digest, write_result
from pretrain.common.errors import UserError
from tests.benchmarks.table_files import CITYSCAPES, COCO, REPORTED, write_all
from transfer.tasks import TASKS, Column


def test_tables__demo_stays_out_unless_asked_for_and_is_labelled(make_result, tables_of, tmp_path: Path) -> None:
    small = {"dataset__val__images": 8, "dataset__train__images": 16, "dataset__classes": ["disc", "star"]}
    write_all(tmp_path, make_result(demo=True, scale="demo", **small), make_result(demo=True, method="B"),
              make_result(scale="demo", method="C", iterations=25, **small))
    found = all_tables.read_tables(tmp_path, REPORTED)
    assert (found.hidden, found.problems) == (3, [])
    assert "demo" not in found.shown().lower()
    [paper, *demo], text, _ = tables_of(tmp_path, include_demo=True)
    assert len(paper) == 10
    rows = [row for table in demo for row in table[1:]]
    assert sorted(row[0] for row in rows) == ["DEMO B", "DEMO C", "DEMO CLoVE"]
    assert all(row[-1].startswith("demo, n=1; ") for row in rows)
    assert "### Demo: 2 classes, 16 training and 8 evaluation images, annotations " in text
    assert "generated images: these rows show that the pipeline runs and say nothing about quality" in text


def test_tables__names_of_users_cannot_break_the_table(make_result, tables_of, tmp_path: Path) -> None:
    write_all(tmp_path, make_result(method="a|b <i>*x*</i> _y_ ü"))
    [table], text, _ = tables_of(tmp_path)
    assert r"a\|b &lt;i>\*x\*&lt;/i> \_y\_ ü" in text
    assert {line.replace(r"\|", "").count("|") for line in text.splitlines() if line.startswith("|")} == {10}
    assert len(table) == 12


def test_tables__same_results_give_the_same_bytes_whatever_the_order(make_result, tmp_path: Path) -> None:
    found = [make_result(values=[40.1 + trial / 7] * 6, trial=trial, method=method, scale=scale)
             for trial in range(3) for method in ("CLoVE", "Mine") for scale in ("full", "mini")]
    first, second = tmp_path / "one", tmp_path / "two"
    for place, order in ((first, found), (second, found[::-1])):
        for number, result in enumerate(order):
            written = write_result(place / "runs", result | {"stage": {"name": "x", "key": result["scale"]}})
            written.rename(written.with_name(f"{number}.json"))
    texts = []
    for place in (first, second, first):
        found = all_tables.read_tables(place, REPORTED, include_demo=True)
        all_tables.write_tables(found.tables, place / "tables")
        texts.append({path.name: path.read_bytes() for path in sorted((place / "tables").iterdir())})
        # The names of the files are the one thing that differs here.
        texts[-1]["tables.csv"] = re.sub(rb"\d+\.json(;\d+\.json)*", b"", texts[-1]["tables.csv"])
    assert texts[0] == texts[1] == texts[2]
    assert "n=3" in texts[0]["tables.md"].decode()


def test_main__names_broken_files_and_ends_well_unless_strict(make_result, tmp_path: Path, capsys) -> None:
    good = write_result(tmp_path / "runs", make_result())
    (tmp_path / "runs" / "half.json").write_text(good.read_text()[:100])
    edited = json.loads(good.read_text()) | {"trial": 9}
    (tmp_path / "runs" / "edited.json").write_text(json.dumps(edited))
    assert all_tables.main(["--results", str(tmp_path)]) == 0
    told = capsys.readouterr()
    first, second = told.err.splitlines()
    assert first.startswith("warning: left out edited.json: changed after it was written")
    assert second.startswith("warning: left out half.json: not whole JSON (")
    assert "measured, n=1" in told.out
    assert told.out.endswith(f"written: {tmp_path / 'tables'}\n")
    assert all_tables.main(["--results", str(tmp_path), "--strict"]) == 1
    (tmp_path / "runs" / "half.json").unlink()
    (tmp_path / "runs" / "edited.json").unlink()
    assert all_tables.main(["--results", str(tmp_path), "--strict"]) == 0


def test_main__says_how_many_demo_results_are_left_out(make_result, tmp_path: Path, capsys) -> None:
    write_all(tmp_path, make_result(demo=True))
    assert all_tables.main(["--results", str(tmp_path)]) == 0
    assert "1 demo result left out; --include-demo shows them" in capsys.readouterr().out
    assert all_tables.main(["--results", str(tmp_path), "--include-demo"]) == 0
    told = capsys.readouterr().out
    assert "left out" not in told
    assert "DEMO CLoVE" in told


def test_make_tables__wrong_folders_are_explained(make_result, tmp_path: Path) -> None:
    reported = REPORTED
    with pytest.raises(UserError, match=r"expected a folder, found none at .*absent; pass --results DIR"):
        all_tables.read_tables(tmp_path / "absent", reported)
    with pytest.raises(UserError, match=r"expected a folder, found none at .*absent; pass --reported DIR"):
        all_tables.read_tables(tmp_path, tmp_path / "absent")
    with pytest.raises(UserError, match=r"expected coco_detection_segmentation.csv, .*found no CSV file"):
        all_tables.read_tables(tmp_path, tmp_path)
    write_all(tmp_path, make_result())
    with pytest.raises(UserError, match="expected a folder that holds runs/, found result files directly"):
        all_tables.read_tables(tmp_path / "runs", reported)
    assert sorted(os.listdir(tmp_path)) == ["runs"]


@pytest.mark.slow
def test_tables__ten_thousand_files_are_counted_and_averaged_right(make_result, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for number in range(10_000):  # 100 methods of 100 trials; trial t of method m has (m + t / 10) / 2
        method, trial = divmod(number, 100)
        result = make_result(method=f"method {method}", trial=trial, seed=trial, values=[(method + trial / 10) / 2] * 6)
        result["digest"] = digest(result)
        (tmp_path / "runs" / f"{number}.json").write_text(json.dumps(result))
    found = all_tables.read_tables(tmp_path, REPORTED)
    assert (found.problems, found.hidden) == ([], 0)
    rows = [row for table in found.tables for block in table.blocks for row in block.rows if row.group]
    assert len(rows) == 100 and {len(row.group.trials) for row in rows} == {100}
    [row] = [row for row in rows if row.method == "method 42"]
    assert row.cells["AP_bb"].mean == pytest.approx((42 + 4.95) / 2) and row.cells["AP_bb"].n == 100


@pytest.mark.parametrize("name", ["runs", "probes", "imported", "comparisons", "tables"])
def test_main__a_file_or_a_dead_link_in_the_place_of_a_folder_is_explained(make_result, tmp_path: Path, name: str):
    write_all(tmp_path, make_result())
    shutil.rmtree(tmp_path / name, ignore_errors=True)
    for make in (Path.touch, lambda path: path.symlink_to("nowhere")):
        make(tmp_path / name)
        with pytest.raises(UserError, match=f"expected a folder at .*{name}, or nothing, found something else"):
            all_tables.main(["--results", str(tmp_path)])
        (tmp_path / name).unlink()
    assert not (tmp_path / "tables").exists()


def test_main__a_certificate_that_is_a_text_is_named(make_result, tmp_path: Path, capsys) -> None:
    path = write_result(tmp_path / "runs", make_result())
    result = json.loads(path.read_text())
    result["weights"]["conversion"] = "a text"
    path.write_text(json.dumps(result | {"digest": digest(result)}))
    assert all_tables.main(["--results", str(tmp_path)]) == 0
    assert "weights.conversion: expected a mapping or null, found 'a text'" in capsys.readouterr().err
    assert all_tables.main(["--results", str(tmp_path), "--why", "keypoints:CLoVE 200:AP_kp"]) == 0


@pytest.mark.parametrize(("old", "new", "told"), [
    ("AP,26.5", "AP,x", "line 2, found cityscapes_instance_segmentation,Supervised,100,AP,x,poster"),
    ("AP,26.5", "AP,NaN", "line 2, found"),
    ("AP,26.5", "AP,126.5", "line 2, found"),
    ("AP50,52.9", "AP,52.9", "line 3, found"),
    ("Supervised,100", "Supervised,some", "line 2, found"),
    ("table,method", "table,name", "expected the columns table,method,epochs,metric,value,source in"),
])
def test_read_reported__broken_files_are_explained(tmp_path: Path, old: str, new: str, told: str) -> None:
    shutil.copytree(REPORTED, tmp_path, dirs_exist_ok=True)
    path = tmp_path / f"{CITYSCAPES}.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=told):
        all_tables.read_reported(tmp_path)


def test_tables__a_column_added_or_removed_leaves_every_stored_file_valid(make_result, tables_of, tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Results, imported metrics, comparisons and printed figures, of this schema and of the first."""
    keys = {"One": "1a" * 32, "Two": "2b" * 32}
    for method, sha256 in keys.items():
        write_all(tmp_path, make_result(method=method, predictions={"file": "p", "sha256": sha256}))
    old = make_result(method="Old") | {"schema": 1, "table": COCO, "details": {"bbox/APs": 20.5}}
    old["metrics"] = dict(zip(("AP_bb", "AP50_bb", "AP75_bb", "AP_mb", "AP50_mb", "AP75_mb"),
                              [40.5, 60.0, 45.0, 36.5, 57.0, 39.0], strict=True))
    (tmp_path / "runs" / "old.json").write_text(json.dumps(old | {"digest": digest(old)}))
    source = tmp_path / "metrics.txt"
    source.write_text("{}")
    row = {"task": "coco", "method": "Theirs", "epochs": 800,
           "metrics": {"bbox/AP": 31.0, "bbox/AP50": 32.0, "segm/AP": 33.0}}
    imported.write_imported(tmp_path / "imported", row, source)
    outcome = {"difference": 1.0, "low": 0.5, "high": 1.5}
    record = {"schema": 2, "kind": "bootstrap", "task": "coco", "names": list(keys), "samples": 100, "seed": 0,
              "predictions_sha256": list(keys.values()), "annotations_sha256": "34" * 32,
              "outcome": {"bbox/AP": outcome, "segm/AP": outcome}}
    (tmp_path / "comparisons").mkdir()
    (tmp_path / "comparisons" / "c.json").write_text(json.dumps(record | {"digest": digest(record)}))
    [before, _], _, problems = tables_of(tmp_path)
    assert problems == []
    columns = tuple(column for column in TASKS["coco"].columns if column.name != "AP_mb")
    changed = replace(TASKS["coco"], columns=(*columns, Column("APs_bb", "bbox/APs")))
    monkeypatch.setitem(TASKS, "coco", changed)
    [after, theirs], text, problems = tables_of(tmp_path)
    assert problems == [f"{COCO}.csv: its AP_mb, which is not a column of the table: expected AP_bb, AP50_bb, "
                        "AP75_bb, AP50_mb, AP75_mb, APs_bb"]
    assert after[0] == ["Method", "Epochs", "AP bb", "AP50 bb", "AP75 bb", "AP50 mb", "AP75 mb", "APs bb", "Source"]
    measured = {row[0]: row[2:8] for row in after if "measured, n=1" in row[-1]}
    values = ["40.5", "60.0", "45.0", "57.0", "39.0", "20.5"]
    assert measured == {"One": values, "Two": values, "Old": values}
    for row, new in zip(before[1:10], after[1:10], strict=True):  # printed: one column fewer, an empty one more
        assert new[2:8] == [*row[2:5], *row[6:8], "-"]
    assert theirs[1][2:8] == ["31.0", "32.0", "-", "-", "-", "-"]
    assert r"One minus Two: AP bb +1.0 \[+0.5, +1.5\], segm/AP +1.0 \[+0.5, +1.5\]." in text
    monkeypatch.undo()
    assert tables_of(tmp_path)[0][0] == before


def test_tables__results_of_a_task_that_is_not_known_are_named_and_left_out(make_result, tables_of, tmp_path) -> None:
    write_all(tmp_path, make_result(), make_result(task="dots", metrics={"dots/F1": 50.0}))
    source = tmp_path / "metrics.txt"
    source.write_text("{}")
    dots = replace(TASKS["coco"], name="dots")
    row = {"task": dots.name, "method": "Theirs", "epochs": 800, "metrics": {"dots/F1": 31.0}}
    imported.write_imported(tmp_path / "imported", row, source)
    shutil.copytree(REPORTED, tmp_path / "reported")
    (tmp_path / "reported" / "dots.csv").write_text(
        "table,method,epochs,metric,value,source\ndots,Theirs,,F1,50.0,a paper\n")
    [table], _, problems = tables_of(tmp_path)
    said = (f": its task dots is not known here: expected one of {', '.join(TASKS)}; set CLOVE_TASKS to the file that "
            "defines it")
    assert len(problems) == 2 and all(problem.endswith(said) for problem in problems)
    assert "CLoVE" in {row[0] for row in table}
    found = all_tables.read_tables(tmp_path, tmp_path / "reported")
    assert found.problems[0].startswith("dots.csv: table dots is not known here: expected one of coco_detection_segm")
