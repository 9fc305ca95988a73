"""The four formats: the same figures, printed and measured ones looking different, names of users harmless."""

import csv
import html.parser
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.formats import all_tables, latex_text
from benchmarks.formats.csv_table import csv_frame
from benchmarks.formats.html_table import html_text
from benchmarks.formats.latex_table import latex
from benchmarks.formats.markdown import markdown
from benchmarks.records.results import write_result
from benchmarks.tables.table_model import TableModel
from pretrain import PRINTED
from transfer.records.code_hash import finetuning_sha256

COCO = "coco_detection_segmentation"


@pytest.fixture
def coco(make_result, tmp_path: Path):
    """`coco(*results)`: the COCO table of these results and the printed ones."""

    def build(*results: dict) -> TableModel:
        for result in results:
            write_result(tmp_path / "runs", result)
        found = all_tables.read_tables(tmp_path, PRINTED / "reported")
        assert found.problems == []
        return next(table for table in found.tables if table.name == COCO)

    return build


def trials(make_result, method: str, values: list[float], **changes) -> list[dict]:
    return [make_result(method=method, values=[value] * 6, trial=number, seed=number, **changes)
            for number, value in enumerate(values)]


def test_markdown__printed_figures_are_in_italics_and_measured_ones_upright(make_result, coco) -> None:
    lines = markdown(coco(*trials(make_result, "CLoVE", [40.5]))).splitlines()
    assert any("*38.9*" in line and line.startswith("| Supervised") for line in lines)
    assert any("***41.2***" in line and line.startswith("| CLoVE") for line in lines)
    assert any("*<u>40.2</u>*" in line or "*<u>40.8</u>*" in line for line in lines)
    [measured] = [line for line in lines if "measured, n=1" in line and line.startswith("|")]
    assert "40.5" in measured and "*" not in measured


def test_markdown__the_best_measured_row_is_bold_when_the_test_holds(make_result, coco) -> None:
    text = markdown(coco(*trials(make_result, "CLoVE", [40.5, 40.6, 40.7]),
                         *trials(make_result, "Mine", [39.0, 39.1, 39.2]),
                         *trials(make_result, "Third", [39.0, 40.0, 37.0])))
    assert "**40.6 ± 0.1**" in text and "<u>39.1 ± 0.1</u>" in text and "**39" not in text
    assert ("4conv1fc heads: Best over runner-up (Welch's t-test over trials, Holm's correction for 6 "
            "columns, bold below 0.05): "
            "AP bb CLoVE 200 over Mine") in text


def test_markdown__single_trials_are_never_bold_and_it_says_so(make_result, coco) -> None:
    text = markdown(coco(*trials(make_result, "CLoVE", [40.5]), *trials(make_result, "Mine", [39.0])))
    assert "AP bb CLoVE 200 over Mine 200 not tested (n=1)" in text
    assert not [line for line in text.splitlines() if "n=1" in line and line.startswith("|") and "**" in line]


def test_markdown__rows_that_tie_for_best_are_both_underlined_and_the_third_is_not_second(make_result, coco) -> None:
    text = markdown(coco(*trials(make_result, "One", [40.5, 40.7]), *trials(make_result, "Two", [40.6, 40.6]),
                         *trials(make_result, "Third", [20.0, 20.1])))
    marks = {line.split("|")[1].strip(): line.count("<u>") for line in text.splitlines()
             if line.startswith("|") and "measured, n=2" in line}
    assert marks == {"One": 6, "Two": 6, "Third": 0}
    assert "AP bb One 200 and Two 200 tie" in text


def test_markdown__difference_to_random_initialisation_under_the_same_setting(make_result, coco) -> None:
    text = markdown(coco(*trials(make_result, "Mine", [40.0]),
                         make_result(method="Rand init", epochs=None, seed=0, values=[32.8] * 6),
                         make_result(method="Rand init", epochs=None, seed=0, values=[31.0] * 6, heads="2fc",
                                     stage__key="ef" * 32)))
    assert text.count(r" AP bb - Rand init \[95 %\] |") == 1
    [row] = [line for line in text.splitlines() if line.startswith("| Mine ")]
    assert row.count(r"+7.2 \[-\] n=1") == 1


def test_markdown__rows_on_other_annotations_are_named_and_not_compared(make_result, coco) -> None:
    other, random = {"dataset__val__annotations_sha256": "99" * 32}, {"epochs": None, "seed": 0}
    text = markdown(coco(*trials(make_result, "CLoVE", [35.0, 35.1]),
                         *trials(make_result, "PixPro", [39.0, 39.1], **other, stage__key="ab" * 32),
                         make_result(method="Rand init", values=[26.0] * 6, **random),
                         make_result(method="Rand init", values=[20.0] * 6, **random, **other, stage__key="cd" * 32)))
    assert [text.count(pair) for pair in ("+9.0 ", "+19.0 ", "+15", "+13")] == [1, 1, 0, 0]  # 35 - 26, 39 - 20
    assert "CLoVE 200 over Rand init" in text and "PixPro 200 over Rand init" in text and "over CLoVE" not in text
    assert len([line for line in text.splitlines() if line.startswith("|") and "heads, annotations " in line]) == 4


def test_markdown__accumulated_and_whole_batches_are_not_averaged(make_result, coco) -> None:
    text = markdown(coco(make_result(values=[39.0] * 6), make_result(values=[35.0] * 6, trial=1, fit="accumulate")))
    assert "n=1; 4conv1fc heads " in text and "n=1; 4conv1fc heads, gradients accumulated" in text and "n=2" not in text


def test_markdown__changed_code_marks_a_row_as_stale(make_result, coco) -> None:
    code = {"git_sha": "78" * 20, "dirty": False}
    text = markdown(coco(*trials(make_result, "Old", [40.0], code=code | {"transfer_sha256": "0" * 64}),
                         *trials(make_result, "Fresh", [40.1], code=code | {"transfer_sha256": finetuning_sha256()}),
                         *trials(make_result, "Unknown", [40.2], code=code)))
    marked = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|") and "(stale)" in line]
    assert marked == ["Old"]
    assert text.count("(!)") == 2 and "- (!) Unknown 200, measured, n=1; 4conv1fc heads: code unknown: no hash" in text
    assert "(stale): the fine-tuning's code or configs have changed since" in text


def test_csv__no_name_is_computed_by_a_spreadsheet(make_result, coco) -> None:
    frame = csv_frame([coco(make_result(method="=HYPERLINK(0)"), make_result(method="-1+2", stage__key="ab" * 32))])
    assert {"'=HYPERLINK(0)", "'-1+2"} <= set(frame["method"])
    assert not [text for text in (*frame["method"], *frame["source"]) if text.startswith(("=", "+", "-", "@"))]


def test_latex__names_of_users_are_escaped(make_result, coco) -> None:
    text = latex(coco(make_result(method="a_b & 50% #1 {x} $ \\ ~ ^ <i>")))
    assert (r"a\_b \& 50\% \#1 \{x\} \$ \textbackslash{} \textasciitilde{} \textasciicircum{} "
            r"\textless{}i\textgreater{}") in text
    assert r"\textit{\textbf{41.2}}" in text and text.count("\\toprule") == 1 and "\\hline" not in text


@pytest.mark.slow
def test_latex__compiles(make_result, coco, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed (Debian: texlive-latex-base and texlive-latex-recommended)")
    names = ["a_b & 50% #1 {x} $ \\ ~ ^ <i>|", "β-VAE′", "[x]", "* y", "日本語 😀", "é ñ ï ặ ž ő x̂ β̂ ά"]
    names += ["½ ² ₃ ﬁ 𝛽 € ą", "".join(letter for letter in latex_text._TEXT if letter.isprintable())]
    names += [f"Method {number} with a remark below random initialisation" for number in range(12)]
    table = coco(*[result for number, name in enumerate(names)
                   for result in trials(make_result, name, [36.0 + number, 37.0 + number])],
                 make_result(method="Mini_1 Ω", scale="mini", dataset__name="Größe → 中"))
    (tmp_path / "all.tex").write_text("\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
                                      + latex(table) + "\\end{document}\n", encoding="utf-8")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path,
                          capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 1000


class Rows(html.parser.HTMLParser):
    """Collects (class of the row, texts of its cells)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "tr":
            self.rows.append((dict(attrs)["class"], []))
        elif tag in ("td", "th"):
            self.rows[-1][1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1][1]:
            self.rows[-1][1][-1] += data.strip()


def test_html__rows_carry_their_kind_and_users_names_stay_text(make_result, coco) -> None:
    table = coco(make_result(method="<script>alert(1)</script>"), make_result(method="Mini", scale="mini"))
    parser = Rows()
    parser.feed(html_text(table).split("</table>")[0])
    assert [kind for kind, _ in parser.rows] == ["head", *["printed"] * 9, "divider", "measured"]
    assert parser.rows[-1][1][0] == "<script>alert(1)</script>"
    assert "<script>" not in html_text(table)


def test_csv__holds_every_figure_unrounded_with_its_files(make_result, coco) -> None:
    table = coco(*trials(make_result, "CLoVE", [40.123, 40.456]))
    rows = list(csv.DictReader(io.StringIO(csv_frame([table]).to_csv(index=False))))
    printed = [row for row in rows if row["kind"] == "printed"]
    assert len(printed) == 9 * 6 and {row["files"] for row in printed} == {""}
    assert {row["minus_paper"] for row in printed} == {""}
    [box] = [row for row in rows if (row["kind"], row["metric"]) == ("measured", "AP_bb")]
    assert float(box["minus_paper"]) == pytest.approx(40.2895 - 40.8)
    assert float(box["value"]) == pytest.approx(40.2895) and box["n"] == "2" and box["epochs"] == "200"
    assert len(box["files"].split(";")) == 2 and all(name.endswith(".json") for name in box["files"].split(";"))
