"""Which row a row is compared with, how it is shown, and what is corrected."""

from pathlib import Path

import pytest

from benchmarks.formats import all_tables
from benchmarks.formats.html_table import html_text
from benchmarks.formats.latex_table import latex
from benchmarks.formats.markdown import markdown
from pretrain.common.errors import UserError
from tests.benchmarks.table_files import REPORTED, csv_lines, trained, write_all

TITLE = r"AP bb - Rand init \[95 %\]"


@pytest.fixture
def three_rows(make_result, tmp_path: Path) -> Path:
    """Differences to the random start: 4.6, 8.2, -3.0 and 4.0, 4.2, 3.8."""
    write_all(tmp_path, *trained(make_result, "CLoVE", [12.6, 17.4, 8.8]),
              *trained(make_result, "Supervised", [12.0, 13.4, 15.6]),
              *trained(make_result, "Rand init", [8.0, 9.2, 11.8]))
    return tmp_path


def test_tables__the_paired_difference_is_a_column_beside_the_first(three_rows: Path, tables_of) -> None:
    table, text, problems = tables_of(three_rows)[0][-1], *tables_of(three_rows)[1:]
    place = table[0].index(TITLE)
    assert problems == [] and table[0][place + 1:] == ["Source"]
    assert {row[0]: row[place] for row in table[1:]} == {
        "CLoVE": r"+3.3 \[-10.9, +17.5\] n=3", "Supervised": r"+4.0 \[+3.5, +4.5\] n=3", "Rand init": ""}
    assert ("AP bb - Rand init: mean difference over pairs, fine-tunings of the same trial and seed, with its 95 % "
            "interval by Student's t; n counts pretrainings") in text


def test_csv__has_all_columns_with_holms_p_over_the_rows_of_a_column(three_rows: Path, tables_of) -> None:
    # p of t = 0.98955 and of t = 4 / (0.2 / sqrt 3) = 34.641 with two degrees: 1 - t / sqrt(2 + t^2).
    tables_of(three_rows)
    [clove] = csv_lines(three_rows, kind="measured", method="CLoVE", metric="AP_bb")
    [supervised] = csv_lines(three_rows, kind="measured", method="Supervised", metric="AP_bb")
    assert float(clove["p"]) == pytest.approx(0.42671, abs=1e-4) and clove["p_holm"] == clove["p"]
    assert float(supervised["p"]) == pytest.approx(0.00083229, abs=1e-6)
    assert float(supervised["p_holm"]) == pytest.approx(2 * float(supervised["p"]))
    assert clove["holm_family"] == "AP_bb - Rand init: 2 in coco_detection_segmentation"
    assert (clove["minus"], clove["difference_n"], clove["difference_pairs"]) == ("Rand init", "3", "3")
    assert float(supervised["difference_low"]) == pytest.approx(4 - 4.30265 * 0.2 / 3**0.5, abs=1e-5)
    [masks] = csv_lines(three_rows, kind="measured", method="Supervised", metric="AP_mb")
    assert float(masks["difference"]) == pytest.approx(2.0)
    [equal] = csv_lines(three_rows, kind="measured", method="CLoVE", metric="AP75_bb")
    assert (equal["p"], equal["difference_note"]) == ("", "no interval: all differences are equal")
    [random] = csv_lines(three_rows, kind="measured", method="Rand init", metric="AP_bb")
    assert random["difference"] == random["minus"] == ""


def test_main__another_row_to_compare_with_is_named(three_rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert all_tables.main(["--results", str(three_rows), "--against", "supervised"]) == 0
    text = capsys.readouterr().out
    assert r"AP bb - supervised \[95 %\]" in text and TITLE not in text
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "n=3" in line}
    assert r"-0.7 \[-14.5, +13.0\] n=3" in lines["CLoVE"] and r"-4.0 \[-4.5, -3.5\] n=3" in lines["Rand init"]
    with pytest.raises(UserError) as caught:
        all_tables.main(["--results", str(three_rows), "--against", "Superb"])
    assert str(caught.value) == ("--against Superb: expected a measured row, found none of that name; the nearest is "
                                 "Supervised, all: CLoVE, Rand init, Supervised")


def test_tables__only_rows_of_the_same_data_and_setting_are_compared(make_result, tables_of, tmp_path: Path) -> None:
    bccd = {"dataset__label": "bccd", "dataset__val__annotations_sha256": "99" * 32}
    write_all(tmp_path, *trained(make_result, "CLoVE", [12.0, 13.0]),
              *trained(make_result, "Rand init", [10.0, 10.0]), *trained(make_result, "Rand init", [1.0, 1.0], **bccd),
              *trained(make_result, "CLoVE", [4.0, 8.0], **bccd),
              *trained(make_result, "Mine", [40.0, 41.0], heads="2fc"))
    tables, _, _ = tables_of(tmp_path)
    shown = {row[0]: row[table[0].index(TITLE)] for table in tables for row in table[1:] if row[0] == "Mine"}
    assert shown == {"Mine": "-"}
    assert sorted(row[table[0].index(TITLE)] for table in tables for row in table[1:] if row[0] == "CLoVE") == [
        r"+2.5 \[-3.9, +8.9\] n=2", r"+5.0 \[-20.4, +30.4\] n=2"]
    [line] = csv_lines(tmp_path, method="Mine", metric="AP_bb")
    assert line["difference_note"] == "no row is called Rand init under the same setting"
    families = {line["holm_family"] for line in csv_lines(tmp_path, method="CLoVE", kind="measured", metric="AP_bb")}
    assert families == {"AP_bb - Rand init: 2 in coco_detection_segmentation"}  # both datasets are in it


def test_tables__the_random_start_alone_is_compared_with_nothing(make_result, tables_of, tmp_path: Path) -> None:
    write_all(tmp_path, *trained(make_result, "Rand init", [10.0, 11.0]))
    assert "AP bb - Rand init" not in tables_of(tmp_path)[1]


def test_tables__demo_rows_are_not_compared(make_result, tables_of, tmp_path: Path) -> None:
    demo = {"demo": True, "scale": "demo"}
    write_all(tmp_path, *trained(make_result, "CLoVE", [12.0], **demo),
              *trained(make_result, "Rand init", [10.0], **demo))
    assert TITLE not in tables_of(tmp_path, include_demo=True)[1]


def test_tables__two_rows_of_the_name_are_not_chosen_from(make_result, tmp_path: Path) -> None:
    write_all(tmp_path, *trained(make_result, "Mine", [12.0]), *trained(make_result, "Other", [10.0]),
              *trained(make_result, "Other", [10.0], weights__pkl_sha256="ab" * 32, weights__pretraining=None))
    found = all_tables.read_tables(tmp_path, REPORTED, against="Other")
    [row] = [row for block in found.tables[0].blocks for row in block.rows if row.method == "Mine"]
    assert row.differences["AP_bb"].text() == "-"
    assert row.differences["AP_bb"].doubt == "2 rows are called Other under the same setting"


def test_tables__names_of_users_are_escaped_in_titles_too(make_result, tmp_path: Path, markdown_tables) -> None:
    label = {"dataset__label": "cells <b>|"}
    write_all(tmp_path, *trained(make_result, "Mine", [12.0], **label),
              *trained(make_result, "A|b <i>", [10.0], **label))
    [table] = all_tables.read_tables(tmp_path, REPORTED, against="A|b <i>").tables
    [shown] = markdown_tables(markdown(table))
    assert r"AP bb - A\|b &lt;i> \[95 %\]" in shown[0] and len({len(row) for row in shown}) == 1
    assert markdown(table).splitlines()[0].endswith(r" on cells &lt;b>\|")
    assert "<i>" not in html_text(table) and "<b>" not in html_text(table)
    assert r"AP$^{bb}$ $-$ A\textbar{}b \textless{}i\textgreater{} [95\,\%]" in latex(table)


def test_main__contrasts_on_each_dataset_are_corrected_together(make_result, tmp_path: Path, capsys) -> None:
    # Differences 2, 3, 4: t = 3 * sqrt(3) with two degrees of freedom, p = 1 - t / sqrt(2 + t^2) = 0.03510. On bccd
    # -2, 3, 5: mean 2, deviation 3.6056, t = 0.96077, p = 0.43805. The other contrast: 1, 1, 2.5 and one trial.
    bccd = {"dataset__label": "bccd", "dataset__val__annotations_sha256": "99" * 32}
    for values, more in (([12.0, 13.0, 14.0], {}), ([8.0, 13.0, 15.0], bccd)):
        write_all(tmp_path, *trained(make_result, "CLoVE", values, **more))
    for more in ({}, bccd):
        write_all(tmp_path, *trained(make_result, "Supervised", [10.0, 10.0, 10.0], **more))
    write_all(tmp_path, *trained(make_result, "Rand init", [9.0, 9.0, 7.5]),
              *trained(make_result, "Rand init", [9.0], **bccd))
    asked = ["--contrast", "CLoVE - Supervised", "--contrast", "Supervised - Rand init"]
    assert all_tables.main(["--results", str(tmp_path), *asked]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("CLoVE - ", "Supervised - "))]
    assert [line.split(", AP bb, Own data: ")[1].partition(",")[0] for line in lines] == ["bccd", "nuclei"] * 2
    assert [line.rpartition("annotations ")[2][10:] for line in lines] == [
        "+2.0 [-7.0, +11.0] n=3, p = 0.44, with Holm's correction for 3: 0.44",
        "+3.0 [+0.5, +5.5] n=3, p = 0.035, with Holm's correction for 3: 0.11",
        "+1.0 [-] n=1 (no interval: one pretraining has no spread)",
        "+1.5 [-0.7, +3.7] n=3, p = 0.095, with Holm's correction for 3: 0.19"]
    (tmp_path / "tables" / "tables.md").unlink()
    for wrong in ("CLoVE - Superb", "CLoVE", "CLoVE - clove"):  # the last has a difference to the random start
        with pytest.raises(UserError) as caught:
            all_tables.main(["--results", str(tmp_path), "--contrast", wrong])
        assert not (tmp_path / "tables" / "tables.md").exists()
        assert str(caught.value) == (f"--contrast {wrong}: expected \"ROW - OTHER ROW\", two measured rows of one "
                                     "dataset, found none; the tables name their rows")
