"""LaTeX tables as papers set them; they fit `article` in one column and in two."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.formats import all_tables
from benchmarks.formats.latex_table import column_title, latex
from benchmarks.records.results import write_result
from pretrain import PRINTED


@pytest.mark.parametrize(("column", "title"), [
    ("AP_bb", "AP$^{bb}$"), ("AP50_bb", "AP$^{bb}_{50}$"), ("AP75_mb", "AP$^{mb}_{75}$"), ("AP", "AP"),
    ("AP50", "AP$_{50}$"), ("APr_bb", "AP$^{bb}_{r}$"), ("my_metric", r"my metric")])
def test_column_title(column, title) -> None:
    assert column_title(column) == title


@pytest.fixture
def tables(make_result, tmp_path: Path) -> list:
    for trial in range(3):
        write_result(tmp_path / "runs", make_result(values=[36 + trial / 10] * 6, trial=trial, seed=trial))
        write_result(tmp_path / "runs", make_result(method="Rand init", epochs=None, values=[38.5 + trial / 7] * 6,
                                                    trial=trial, seed=trial, stage__key="ab" * 32))
    return all_tables.read_tables(tmp_path, PRINTED / "reported").tables


def test_latex__sources_are_numbered_notes_and_captions_and_labels_differ(tables) -> None:
    text = "\n".join(map(latex, tables))
    assert re.search(r"Supervised\$\^\{1\}\$ +& +100 +& ", text)
    assert "$^{1}$ paper (poster)." in text and "Source" not in text
    assert "36.1$_{\\pm 0.1}$" in text and "``AP bb - paper''" in text
    assert "$-$2.5 {[}$-$" in text, re.findall(r".*n=3 .*", text)
    for what in ("caption", "label"):
        found = re.findall(rf"\\{what}{{(.*)}}", text)
        assert len(found) == text.count("\\begin{table*}") == len(set(found))


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
def test_latex__fits_article(columns, tables, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed (Debian: texlive-latex-base and texlive-latex-recommended)")
    body = "\n".join(map(latex, tables))
    (tmp_path / "all.tex").write_text(f"\\documentclass[{columns}]{{article}}\n\\usepackage{{booktabs,graphicx}}\n"
                                      f"\\begin{{document}}\n{body}\\end{{document}}\n", encoding="utf-8")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path,
                          capture_output=True, text=True, errors="replace")
    assert done.returncode == 0 and "Overfull" not in done.stdout, done.stdout[-3000:]
