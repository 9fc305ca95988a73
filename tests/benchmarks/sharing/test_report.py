"""The page: complete without a network, clean in a real browser, harmless with hostile names."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.records.results import write_result
from benchmarks.sharing import report
from pretrain.common.errors import UserError


@pytest.fixture
def run_folder(make_result, tmp_path: Path) -> Path:
    """A finished run as the suite leaves it: two stages with pictures and logs, three results; an awkward name."""
    output = tmp_path / "a run of 'mine' é"
    for number, name in enumerate(("pretrain", "finetune-clove-coco-0")):
        folder = output / f"{name}-12345678"
        folder.mkdir(parents=True)
        (folder / "stage.json").write_text(json.dumps({"name": name, "ended": f"2026-01-0{number + 1}T00:00:00+00:00"}))
    Image.new("RGB", (2000, 300), "navy").save(output / "pretrain-12345678" / "curves.png")
    finetune = output / "finetune-clove-coco-0-12345678"
    Image.new("RGB", (200, 300), "green").save(finetune / "predictions.png")
    (finetune / "request.json").write_text(json.dumps({"task": "coco"}))
    (finetune / "metrics.json").write_text("".join(
        json.dumps({"iteration": place, "total_loss": 3 - place / 50, "early/bbox/AP": place / 10}) + "\n"
        for place in range(0, 100, 20)) + '{"iteration": 100, "tot')
    (output / "half-00000000").mkdir()
    (output / "half-00000000" / "stage.json").write_text("{")
    for trial in range(2):
        write_result(output / "results" / "runs", make_result(trial=trial, seed=trial))
    write_result(output / "results" / "runs", make_result(method="<img src=x onerror=alert(1)>", scale="mini"))
    return output


def test_page__holds_tables_provenance_pictures_and_environments(run_folder: Path) -> None:
    text = report.page(run_folder, run_folder / "results")
    assert text.count("<details>") == 2 and "trial 1, seed 1" in text and "digest " in text
    pictures = re.findall(r'<img src="data:image/(\w+);base64,([^"]+)"', text)
    assert [kind for kind, _ in pictures] == ["png", "webp", "webp"]  # the losses, then the two stages' pictures
    sizes = [Image.open(io.BytesIO(base64.b64decode(data))).size for _, data in pictures[1:]]
    assert sizes == [(1400, 210), (200, 300)]
    assert "finetune-clove-coco-0: ground truth and predictions" in text
    assert text.count('<img src="data:image/svg+xml;base64,') == 1 and "with its 95 % interval" in text
    assert "2 results" in text or "3 results" in text
    assert "<img src=x" not in text and "&lt;img src=x onerror=alert(1)&gt;" in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text) and "http" not in text  # nothing from a network


def test_page__without_anything_measured_shows_the_printed_tables_and_says_so(tmp_path: Path) -> None:
    text = report.page(tmp_path / "nowhere", tmp_path)
    assert "Nothing has been measured yet: these are printed metrics." in text and text.count("<table") == 5


def test_early_keys__are_those_of_the_main_columns() -> None:
    assert report.early_keys("coco") == {"early/bbox/AP": "AP_bb", "early/segm/AP": "AP_mb"}
    assert report.early_keys("cityscapes") == {"early/segm/AP": "AP"}
    assert report.early_keys("a task that is not known here") == {}


def test_page__names_what_was_left_out(run_folder: Path) -> None:
    (run_folder / "results" / "runs" / "half.json").write_text("{")
    assert "half.json: not whole JSON" in report.page(run_folder, run_folder / "results")


def test_page__a_damaged_file_is_named_and_costs_nothing_else(run_folder: Path) -> None:
    (run_folder / "pretrain-12345678" / "curves.png").write_bytes(b"no image")
    (run_folder / "finetune-clove-coco-0-12345678" / "request.json").write_text("[]")
    text = report.page(run_folder, run_folder / "results")
    assert "curves.png of pretrain: UnidentifiedImageError: cannot identify image file" in text
    assert "the curves of finetune-clove-coco-0: TypeError in request.json or metrics.json" in text
    assert "finetune-clove-coco-0: ground truth and predictions" in text and str(run_folder) not in text


def test_main__writes_beside_the_tables(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--output", str(run_folder)]) == 0
    assert f"wrote {run_folder / 'results' / 'tables' / 'report.html'} (" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"expected a folder of results, found none at .*; pass --output or --results"):
        report.main(["--output", str(run_folder / "absent")])
    with pytest.raises(UserError, match=r"--file .*: expected the name of the page, found a folder; pass .*html"):
        report.main(["--output", str(run_folder), "--file", str(run_folder)])


@pytest.mark.slow
def test_page__opens_in_a_browser_without_an_error(run_folder: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here (Debian: chromium)")
    path = tmp_path / "report.html"
    path.write_text(report.page(run_folder, run_folder / "results"), encoding="utf-8")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--enable-logging=stderr", "--window-size=1366,768", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*words, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120,
                          env=os.environ | {"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr and "report.html" not in done.stderr, done.stderr[-2000:]
    assert done.stdout.count("<details>") == 2 and "CLoVE suite: report" in done.stdout
    shot = tmp_path / "report.png"
    subprocess.run([*words, f"--screenshot={shot}", path.as_uri()], capture_output=True, timeout=120, check=True,
                   env=os.environ | {"HOME": str(tmp_path)})
    with Image.open(shot) as picture:
        assert picture.size == (1366, 768) and len(picture.convert("L").getcolors()) > 20  # something is drawn
