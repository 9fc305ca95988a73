"""The page: complete without a network, clean in a real browser, harmless with hostile names and damaged files."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.records.results import digest, write_result
from benchmarks.report.command import main, page
from pretrain import ROOT
from pretrain.common.errors import UserError

HOSTILE = "<img src=x onerror=alert(1)>"
PIXEL = "data:image/webp;base64,UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA=="


def stage(output: Path, name: str, day: int, **files: object) -> Path:
    """A finished stage with these files: lists become JSON lines, mappings JSON. `_` is the point of their names."""
    folder = output / f"{name}-12345678"
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps({"name": name, "ended": f"2026-01-{day:02d}T00:00:00+00:00"}))
    for file, content in files.items():
        text = json.dumps(content)
        if isinstance(content, list):
            text = "".join(json.dumps(entry) + "\n" for entry in content)
        (folder / file.replace("_", ".")).write_text(text)
    return folder


def example(*predicted: tuple) -> dict:
    truth = [{"box": [10, 10, 30, 30], "class": "cat"}, {"box": [50, 50, 90, 90], "class": "dog"}]
    found = [{"box": box, "class": name, "score": score} for box, name, score in predicted]
    return {"schema": 1, "task": "coco", "annotations_sha256": "34" * 32, "images": [
        {"file": "7.jpg", "width": 100, "height": 100, "pixels": PIXEL, "truth": truth, "predicted": found}]}


@pytest.fixture
def run_folder(make_result, tmp_path: Path) -> Path:
    """A finished run as the suite leaves it: stages with figures, logs and examples, results; an awkward name."""
    output = tmp_path / "a run of 'mine' é"
    for seed in (1, 2):
        folder = stage(output, f"pretrain-clove.seed{seed}", seed, run_json={"objective": "clove"}, metrics_jsonl=[
            {"step": step, "loss": 100 - step / seed, "retrieval_backbone": step / 100} for step in range(0, 50, 10)])
        Image.new("RGB", (2000, 300), "navy").save(folder / "curves.png")
    logs = [{"iteration": place, "total_loss": 3 - place / 50, "early/bbox/AP": place / 10}
            for place in range(0, 100, 20)]
    for day, start in ((3, "rand"), (4, "clove")):
        guesses = [([11, 10, 30, 30], "cat", 0.9)] if start == "clove" else [([60, 5, 70, 9], "cat", 0.9)]
        folder = stage(output, f"finetune-{start}-coco.nuclei-0", day, request_json={"task": "coco"}, metrics_json=logs,
                       examples_json=example(*guesses, ([0, 0, 5, 5], "dog", 0.3), ([1, 1, 4, 4], "dog", 0.1)))
    Image.new("RGB", (200, 300), "green").save(folder / "predictions.png")
    with open(folder / "metrics.json", "a") as file:
        file.write('{"iteration": 100, "tot')
    (output / "half-00000000").mkdir()
    (output / "half-00000000" / "stage.json").write_text("{")
    for trial in range(2):
        write_result(output / "results" / "runs", make_result(trial=trial, seed=trial, values=[40.0 + trial] * 6))
        write_result(output / "results" / "runs", make_result(method="Rand init", epochs=None, trial=trial, seed=trial,
                                                              values=[32.0 + trial] * 6, stage__key="ef" * 32))
    write_result(output / "results" / "runs", make_result(method=HOSTILE, scale="mini"))
    return output


def section(text: str, name: str) -> str:
    """The part of the page under a heading, without its markup and doubled spaces."""
    return plain(text.partition(f'<h2 id="{name}">')[2].partition('<h2 id=')[0])


def plain(text: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_page__the_head_says_what_when_by_which_code_and_where(run_folder: Path) -> None:
    head = plain(page(run_folder, run_folder / "results").partition('<dl id="head">')[2].partition("</dl>")[0])
    for text in ("5 evaluations of 3 methods: &lt;img src=x onerror=alert(1)&gt;, CLoVE, Rand init",
                 "2026-01-01 00:00 to 2026-01-01 01:00 UTC", "Code git 787878787878", "name 8 GPUs", "python 3.11.0"):
        assert text in head, head


def test_page__the_summary_has_the_highest_row_and_its_difference(run_folder: Path) -> None:
    summary = section(page(run_folder, run_folder / "results"), "summary")
    assert ("2 CLoVE 200 AP bb 40.5 ± 0.7 +8.0 [-] n=2 to Rand init measured, n=2; 4conv1fc heads" in summary), summary


def test_page__intervals_papers_hollow_and_random_and_supervised_as_lines(run_folder: Path) -> None:
    text = page(run_folder, run_folder / "results")
    plot = text.partition('<svg class="plot"')[2].partition("</svg>")[0]
    assert plot.count('fill="#fff" stroke="#000"') == 9 and plot.count('r="5" fill="#0072B2"') == 2
    assert "<title>CLoVE 200: 40.50 ± 6.35 (95 %)</title>" in plot and "+8.0 [-] n=2" in plot
    assert "random initialisation 32.5</text>" in plot and "supervised 38.9</text>" in plot


def test_page__provenance_opens_readable_for_each_trial(run_folder: Path) -> None:
    text = page(run_folder, run_folder / "results")
    assert text.count("<details>") == 3 and "\\n" not in text.partition("<script>")[0]
    [opened] = [one for one in re.findall(r"<details>(.*?)</details>", text, re.DOTALL) if "CLoVE, resnet50" in one
                and "n=2" in one]
    assert "<dt>code</dt><dd>git 787878787878</dd>" in opened and "265 tensors" in opened
    assert "trial 1, seed 1</td><td>41.000</td>" in opened
    [file] = re.findall(r'<a href="\.\./runs/(CLoVE__200ep__coco__trial1__\w+\.json)">\1</a>', opened)
    assert (run_folder / "results" / "runs" / file).is_file()


def test_page__curves_of_all_runs_lie_over_each_other(run_folder: Path) -> None:
    text = page(run_folder, run_folder / "results")
    charts = re.findall(r'<figcaption>([^<]*)</figcaption>\s*<svg class="chart"(.*?)</svg>', text, re.DOTALL)
    assert [title for title, _ in charts] == ["loss of clove", "retrieval: share found", "training loss",
                                              "AP bb on the way (percent)"]
    for _, chart in charts:
        assert chart.count("<polyline") == 2
    names = [re.findall(r'data-label="([^"]*)"', chart) for _, chart in charts]
    assert names[0] == ["pretrain-clove.seed1", "pretrain-clove.seed2"]
    assert names[3] == ["finetune-rand-coco.nuclei-0", "finetune-clove-coco.nuclei-0"]
    assert len(re.findall(r'points="([^"]*)"', charts[0][1])[0].split()) == 5
    buttons = re.findall(r'<button type="button" data-group="([^"]*)" aria-pressed="true">', text)
    assert buttons == ["clove", "rand", "clove"] and "clove (2 runs)" in text
    own = re.findall(r'data-group="clove" data-label="[^"]*" stroke="([^"]*)" stroke-dasharray="([^"]*)"', text)
    assert set(own) == {("#0072B2", "")}  # the same in all charts


def test_page__the_same_image_by_hit_false_alarm_and_miss(run_folder: Path) -> None:
    shown = section(page(run_folder, run_folder / "results"), "side-by-side")
    assert "coco.nuclei, image 7.jpg" in shown and "ground truth : 2 objects" in shown
    places = [shown.index(text) for text in ("ground truth :", "rand : 0 hits, 2 false alarms, 2 misses",
                                             "clove : 1 hit, 1 false alarm, 1 miss")]
    assert places == sorted(places)


def test_page__is_self_contained_and_names_no_place_of_this_machine(run_folder: Path) -> None:
    text = page(run_folder, run_folder / "results")
    assert re.findall(r'<link rel="icon" href="([^"]*)"', text) == ["data:,"]
    assert not re.search(r'\b(?:src|srcset|data)="(?!data:)|url\(|@import|<image[^>]* href="(?!data:)', text)
    outside = [address for address in re.findall(r'href="([^"]*)"', text) if address.startswith("http")]
    assert outside == ["https://arxiv.org/abs/2310.00527", "https://github.com/sthalles/CLoVE"]  # to click, not to load
    assert str(run_folder.parent) not in text and "href=\"/" not in text and "file:" not in text
    assert HOSTILE not in text and "&lt;img src=x onerror=alert(1)&gt;" in text
    assert '<a href="../../pretrain-clove.seed1-12345678/">pretrain-clove.seed1</a>' in text
    elsewhere = page(run_folder, run_folder / "results", path=run_folder.parent / "elsewhere" / "page.html")
    assert 'href="../' not in elsewhere and "pretrain-clove.seed1" in elsewhere


def test_page__figures_are_shrunk_and_the_first_of_each_kind_is_shown(run_folder: Path) -> None:
    text = page(run_folder, run_folder / "results")
    pictures = re.findall(r'<img src="data:image/webp;base64,([^"]+)" alt="([^"]*)"', text)
    sizes = {name: Image.open(io.BytesIO(base64.b64decode(data))).size for data, name in pictures}
    assert sizes == {"pretrain-clove.seed1: curves of the pretraining": (1200, 180),
                     "finetune-clove-coco.nuclei-0: ground truth and predictions": (200, 300)}
    assert '<a href="../../pretrain-clove.seed2-12345678/curves.png">pretrain-clove.seed2: curves of the' in text


def test_page__without_anything_measured_shows_the_printed_tables_and_says_so(tmp_path: Path) -> None:
    text = page(tmp_path / "nowhere", tmp_path)
    assert "Nothing has been measured yet: these are printed metrics." in text and text.count("<table") == 5
    assert 'id="summary"' not in text and 'id="intervals"' not in text


def test_page__a_damaged_file_is_named_whole_and_costs_nothing_else(run_folder: Path) -> None:
    (run_folder / "results" / "runs" / "half.json").write_text("{")
    (run_folder / "pretrain-clove.seed1-12345678" / "curves.png").write_bytes(b"no image")
    (run_folder / "pretrain-clove.seed2-12345678" / "run.json").write_text("[]")
    (run_folder / "finetune-rand-coco.nuclei-0-12345678" / "examples.json").write_text('{"images": [1]}')
    (run_folder / "finetune-clove-coco.nuclei-0-12345678" / "request.json").write_text("{" + " " * 3_000_000)
    text = page(run_folder, run_folder / "results")
    left_out = section(text, "left-out")
    unread, clove = "UnidentifiedImageError: cannot identify image file", "finetune-clove-coco.nuclei-0"
    for said in ("half.json: not whole JSON", f"curves.png of pretrain-clove.seed1: {unread} &#34;curves.png&#34;",
                 "the curves of pretrain-clove.seed2: ValueError: run.json holds no mapping",
                 f"the curves of {clove}: OSError: request.json: 3 MB, more than 2",
                 "examples.json of finetune-rand-coco.nuclei-0: KeyError: &#39;annotations_sha256&#39;"):
        assert said in left_out, left_out
    assert "4 files left out" not in text and "5 files left out" in text
    assert "finetune-clove-coco.nuclei-0: ground truth and predictions" in text and str(run_folder) not in text


def test_main__writes_beside_the_tables(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(run_folder)]) == 0
    assert f"wrote {run_folder / 'results' / 'tables' / 'report.html'} (" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"expected a folder of results, found none at .*; pass --output or --results"):
        main(["--output", str(run_folder / "absent")])
    with pytest.raises(UserError, match=r"--file .*: expected the name of the page, found a folder; pass .*html"):
        main(["--output", str(run_folder), "--file", str(run_folder)])


@pytest.mark.slow
@pytest.mark.parametrize("rows", [10, 10_000])
def test_main__ten_thousand_results_need_little_memory_and_make_a_small_page(rows, make_result, tmp_path: Path) -> None:
    (tmp_path / "results" / "runs").mkdir(parents=True)
    shapes = {f"layer{number}.weight": "64x64x3x3" for number in range(265)}
    for number in range(10_000):
        trial, method = divmod(number, rows)
        result = make_result(method=f"method {method}", trial=trial, seed=trial, values=[method % 90 + trial / 1e4] * 6,
                             weights__conversion={"consumed": 265, "shapes": shapes})  # the bulk of a file
        result["digest"] = digest(result)
        (tmp_path / "results" / "runs" / f"{number}.json").write_text(json.dumps(result))
    # Its own peak: getrusage would begin with that of this process.
    code = ("import sys; from benchmarks.report.command import main; main(['--output', sys.argv[1]]); "
            "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    size = (tmp_path / "results" / "tables" / "report.html").stat().st_size
    memory = int(done.stdout.split()[-1]) * 1024
    assert size < 5e6 and memory < 300e6, (size, memory)
    assert "10000 evaluations" in (tmp_path / "results" / "tables" / "report.html").read_text()


@pytest.fixture
def browser(tmp_path: Path):
    """`browser(page, *options)`: what a headless Chromium prints of a page."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here (Debian: chromium)")

    def look(path: Path, *options: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--enable-logging=stderr", "--window-size=1366,768", f"--user-data-dir={tmp_path / 'profile'}", *options,
             path.as_uri()], capture_output=True, text=True, timeout=120, env=os.environ | {"HOME": str(tmp_path)})
    return look


@pytest.mark.slow
def test_page__curves_can_be_read_and_hidden_in_a_browser(run_folder: Path, tmp_path: Path, browser) -> None:
    user = """<script>
    document.querySelectorAll(".legend button")[1].click();
    const chart = document.querySelector("svg.chart"), curve = chart.querySelector(".curve");
    const at = new DOMPoint(curve.points[2].x, curve.points[2].y).matrixTransform(chart.getScreenCTM());
    chart.dispatchEvent(new PointerEvent("pointermove", {clientX: at.x, clientY: at.y}));
    </script></body>"""
    path = tmp_path / "report.html"
    path.write_text(page(run_folder, run_folder / "results").replace("</body>", user), encoding="utf-8")
    done = browser(path, "--dump-dom")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr and "report.html" not in done.stderr, done.stderr[-2000:]
    assert done.stdout.count("<details>") == 3
    hidden = re.findall(r'<polyline class="curve away" data-group="(\w+)"', done.stdout)
    assert hidden == ["rand", "rand"]  # in both charts of the fine-tunings
    assert ">pretrain-clove.seed1: 80 at 20</text>" in done.stdout
    shot = tmp_path / "report.png"
    browser(path, f"--screenshot={shot}")
    with Image.open(shot) as picture:
        assert picture.size == (1366, 768) and len(picture.convert("L").getcolors()) > 20  # something is drawn


@pytest.mark.slow
def test_wheel__holds_the_templates(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pretrain", "transfer", "benchmarks", "results", "pyproject.toml", "README.md", "LICENSE",
                 "detectron2-requirements.txt"):
        (source / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
                    "--wheel-dir", str(tmp_path), str(source)], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks").rglob("html/*")}
    assert len(there) >= 6 and there <= packed
