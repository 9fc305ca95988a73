"""Tables on a terminal: plain text in its width, measured rows first, no markup."""

import re
from pathlib import Path

import pytest

from benchmarks.formats import all_tables
from benchmarks.formats.terminal_table import terminal
from benchmarks.records.results import write_result
from pretrain import PRINTED


@pytest.mark.parametrize("width", [80, 200])
def test_terminal__fits_without_markup_and_shows_what_was_measured_first(width, make_result, tmp_path: Path) -> None:
    for trial in range(3):
        write_result(tmp_path / "runs", make_result(method="Mine_1", values=[40 + trial / 10] * 6, trial=trial,
                                                    seed=trial))
        write_result(tmp_path / "runs", make_result(method="Rand init", epochs=None, values=[32.5 + trial / 7] * 6,
                                                    trial=trial, seed=trial, stage__key="ab" * 32))
    table = all_tables.read_tables(tmp_path, PRINTED / "reported").tables[0]
    text = terminal(table, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width and not re.search(r"\\|\*|<u>|\|", text)
    assert lines.index("measured:") < lines.index("printed in papers:")
    assert sum(line.startswith("Mine_1 200 [") for line in lines) == (2 if width == 80 else 1)
    assert "[1] measured, n=3; 4conv1fc heads" in text and "40.1 ± 0.1" in text and "italics" not in text
    assert next(line for line in lines if line.startswith("CLoVE 400 [")).split() == [
        "CLoVE", "400", "[3]", "41.2", "61.1", "45.0", "37.1", "58.1", "40.1"]


def test_shown__is_markdown_unless_it_goes_to_a_terminal(make_result, tmp_path: Path, monkeypatch) -> None:
    write_result(tmp_path / "runs", make_result())
    found = all_tables.read_tables(tmp_path, PRINTED / "reported")
    assert found.shown().startswith("## Object detection")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert found.shown().startswith("Object detection and segmentation on COCO (R50-FPN)\n====")
