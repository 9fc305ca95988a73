"""Probes of frozen backbones: checked, published, and shown in a table of their own."""

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.formats.all_tables import main, read_tables, write_tables
from benchmarks.formats.html_table import html_text
from benchmarks.formats.latex_table import latex
from benchmarks.formats.markdown import markdown
from benchmarks.formats.terminal_table import terminal
from benchmarks.options.run_options import parse
from benchmarks.records import probe_results
from benchmarks.records.results import write_result
from benchmarks.report.command import page
from benchmarks.sharing import bundle, import_results
from benchmarks.tables import probe_table
from pretrain import PRINTED
from pretrain.common.errors import UserError
from tests.benchmarks.plans import plan
from tests.benchmarks.probe_files import figures, make_probe


def shown(probes: list[dict]) -> str:
    return markdown(probe_table.probe_table(probes))


def test_write_and_read__the_same_again_and_a_changed_figure_is_found(tmp_path: Path) -> None:
    path = probe_results.write_probe(tmp_path, make_probe())
    assert path.name.startswith("CLoVE__probe__coco__")
    probes, problems = probe_results.read_probes(tmp_path)
    assert problems == [] and {**make_probe(), "digest": probes[0]["digest"]} == probes[0]
    assert probe_results.write_probe(tmp_path, make_probe(31.0)) == path  # the same stage again
    content = json.loads(path.read_text())
    content["metrics"]["knn_miou"] = 99.0
    path.write_text(json.dumps(content))
    (tmp_path / "half.json").write_text('{"schema": 1,')
    probes, problems = probe_results.read_probes(tmp_path)
    assert probes == [] and len(problems) == 2
    assert "changed after it was written" in problems[0] and "half.json: not whole JSON" in problems[1]
    assert probe_results.read_probes(tmp_path / "none") == ([], [])


@pytest.mark.parametrize(("name", "value", "text"), [
    ("kind", "run", "kind: expected probe, found 'run'"),
    ("schema", 2, "schema: expected 1, found 2"),
    ("metrics__knn_miou", 130.0, "metrics.knn_miou: expected a number from 0 to 100 or null"),
    ("metrics__knn_miou", float("nan"), "metrics.knn_miou: expected a number from 0 to 100"),
    ("metrics", {}, "metrics: expected a mapping of at least one metric"),
    ("metrics", [3.0], "metrics: expected a mapping"),
    ("baselines", {"Rand init": {}}, "metrics: expected a mapping of at least one metric for the backbone and each"),
    ("dataset__label", 3, "dataset.label: expected a printable text that is not empty, or null, found 3"),
    ("weights__pretraining", {"seed": 1}, "weights.pretraining: expected a mapping of objective, seed, recipe_sha256"),
    ("weights__file_sha256", "abc", "weights.file_sha256: expected 64 hexadecimal digits or null"),
    ("dataset__val__images", 0, "dataset.val.images: expected an integer from 1"),
])
def test_validate__names_what_is_wrong(name: str, value: object, text: str, tmp_path: Path) -> None:
    probe = make_probe(**{name: value})
    with pytest.raises(UserError, match="expected a valid record, found: .*nothing was written"):
        probe_results.write_probe(tmp_path, probe)
    assert any(problem.startswith(text) for problem in probe_results.validate(probe)), probe_results.validate(probe)
    assert not list(tmp_path.iterdir())


def test_validate__every_field_is_needed() -> None:
    assert probe_results.validate(make_probe()) == []
    for name in set(probe_results.FIELDS) - set(probe_results.OPTIONAL):
        probe = copy.deepcopy(make_probe())
        *parents, key = name.split(".")
        place = probe
        for parent in parents:
            place = place[parent]
        del place[key]
        assert any(problem.startswith(f"{name}: missing") for problem in probe_results.validate(probe)), name


def test_table__a_column_that_a_stored_probe_lacks_is_empty(
        markdown_tables: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probe_table.COLUMNS, "depth", "depth_error")
    assert probe_results.validate(make_probe()) == []
    (rows,) = markdown_tables(shown([make_probe()]))
    assert rows[0][7] == "depth" and {row[7] for row in rows[1:]} == {"-"}


def test_table__datasets_of_one_task_stand_under_their_labels() -> None:
    other = make_probe(dataset__label="buds", dataset__train={"images": 48, "annotations_sha256": "ee" * 32})
    text = shown([make_probe(), other])
    assert "### mini, coco, 2 classes" in text and "### buds, coco, 2 classes" in text


def test_table__says_which_pretraining_a_probe_is_of(markdown_tables: Callable) -> None:
    pretraining = {"objective": "clove", "seed": 3, "recipe_sha256": "ab" * 32, "images_sha256": "cd" * 32}
    (rows,) = markdown_tables(shown([make_probe(weights__pretraining=pretraining)]))
    assert rows[1][-1] == "probe, weights cdcdcdcd, pretraining 3 of recipe abababab"


def test_table__method_first_then_each_baseline_once(markdown_tables: Callable) -> None:
    other = make_probe(40.0, method="mine", epochs=None, weights__file_sha256="ef" * 32)
    (rows,) = markdown_tables(shown([make_probe(), other]))
    assert rows[0] == ["Method", "Epochs", "k-NN mIoU", "linear mIoU", "k-NN fg AUC", "linear fg AUC", "retrieval",
                       "Source"]
    assert [row[0] for row in rows[1:]] == ["CLoVE", "mine", "Rand init", "Rand init, last gamma 0",
                                            "pixel statistics"]
    assert rows[1] == ["CLoVE", "200", "30.0", "31.0", "32.0", "33.0", "34.0", "probe, weights cdcdcdcd"]
    assert rows[3][-1] == "baseline"


def test_table__below_the_better_random_network_is_named_and_pixels_are_no_bar() -> None:
    text = shown([make_probe(11.0)])
    assert ("- (!) CLoVE 200, probe, weights cdcdcdcd: below random init: k-NN mIoU, linear mIoU, k-NN fg AUC, "
            "linear fg AUC, retrieval") in text
    assert "| probe, weights cdcdcdcd (!) |" in text
    assert "below random init:" not in shown([make_probe(13.0)]) and "(!)" not in shown([make_probe(13.0)])


def test_terminal__is_plain_text_in_its_width() -> None:
    text = terminal(probe_table.probe_table([make_probe(11.0)]), 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80 and not re.search(r"\\|\*|<|\|", text)
    assert lines[:2] == ["Frozen-backbone probes", "======================"] and "measured:" in lines
    assert any(line.split() == ["CLoVE", "200", "[1]", "11.0", "12.0", "13.0", "14.0"] for line in lines), text
    assert "(!) CLoVE 200, probe, weights cdcdcdcd: below random init: k-NN mIoU" in text


@pytest.mark.parametrize("changes", [{"protocol": {"layer": "res4", "side": 320, "batch_norm": "recalibrated"}},
                                     {"dataset__val__annotations_sha256": "56" * 32},
                                     {"weights__architecture": "resnet18"}, {"task": "cityscapes"}])
def test_table__other_data_protocol_or_architecture_is_another_block(changes: dict, markdown_tables: Callable) -> None:
    assert len(markdown_tables(shown([make_probe(), make_probe(**changes)]))) == 2


def test_table__the_same_weights_again_the_later_one_counts(markdown_tables: Callable) -> None:
    later = make_probe(50.0, ended="2026-01-02T00:00:00+00:00")
    (rows,) = markdown_tables(shown([later, make_probe()]))
    assert [row[2] for row in rows if row[0] == "CLoVE"] == ["50.0"]


def test_make_tables__a_table_of_its_own_and_demo_only_when_asked(tmp_path: Path) -> None:
    reported = PRINTED / "reported"
    probe_results.write_probe(tmp_path / "probes", make_probe())
    probe_results.write_probe(tmp_path / "probes", make_probe(20.0, demo=True, stage__key="demo"))
    (tmp_path / "probes" / "bad.json").write_text("{}")
    found = read_tables(tmp_path, reported)
    assert "## Frozen-backbone probes" in found.shown() and found.hidden == 1 and "DEMO" not in found.shown()
    assert len(found.problems) == 1 and found.problems[0].startswith("bad.json: ")
    assert "mini, coco, 2 classes, 48 training and 20 evaluation images" in found.shown()
    write_tables(found.tables, tmp_path / "tables", found.probes)
    assert (tmp_path / "tables" / "frozen_backbone_probes.md").read_text() == shown(found.probes)
    assert "<td>CLoVE</td>" in (tmp_path / "tables" / "frozen_backbone_probes.html").read_text()
    assert "## Frozen-backbone probes" in (tmp_path / "tables" / "tables.md").read_text()
    found = read_tables(tmp_path, reported, include_demo=True)
    assert "DEMO CLoVE" in found.shown() and found.hidden == 0
    empty = tmp_path / "empty"
    empty.mkdir()
    assert read_tables(empty, reported).probes == []


def test_why__a_probe_tells_what_it_is_made_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = probe_results.write_probe(tmp_path / "probes", make_probe(code={"git_sha": "78" * 20, "dirty": True}))
    probe_results.write_probe(tmp_path / "probes", make_probe(20.0, demo=True, stage__key="demo"))

    def asked(question: str) -> str:
        assert main(["--results", str(tmp_path), "--why", question]) == 0
        assert not (tmp_path / "tables").exists()
        return capsys.readouterr().out

    told = asked("frozen_backbone_probes:CLoVE 200:k-NN mIoU")
    assert told.startswith("Frozen-backbone probes, CLoVE 200, k-NN mIoU: 30.000\n  block: mini, coco, 2 classes, 48 ")
    for text in (str(path), "resnet50, sha256 cdcdcdcdcdcd", "annotations 121212121212 and 343434343434", "layer res5",
                 "git 787878787878, with uncommitted changes", "python 3.11", "1.7 min"):
        assert text in told, text
    assert asked("probes:clove:knn_miou").count("30.000") == 1
    assert "Rand init, last gamma 0, retrieval: 16.000" in asked("probes:Rand init, last gamma 0:retrieval")
    for question, said in (("probes:CLoVE 400:retrieval", "has no row CLoVE 400; the nearest is CLoVE 200, all: "),
                           ("probes:CLoVE 200:AP", "has no column AP; it has k-NN mIoU, linear mIoU, ")):
        with pytest.raises(UserError, match=said):
            asked(question)


def test_html_and_latex__escape_names_and_mark_what_is_below_random(tmp_path: Path) -> None:
    probes = [make_probe(11.0, method="a_b & 50% <i>{x}", dataset__name="A & B")]
    text = html_text(probe_table.probe_table(probes))
    assert "a_b &amp; 50% &lt;i&gt;{x}" in text and "<h3>A &amp; B, coco, 2 classes" in text
    assert '<ul class="doubts">' in text and "below random init: k-NN mIoU" in text
    text = latex(probe_table.probe_table(probes))
    assert r"a\_b \& 50\% \textless{}i\textgreater{}\{x\}" in text and r"\toprule" in text
    assert "weights cdcdcdcd: below random init: k-NN mIoU" in text
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed (Debian: texlive-latex-base and texlive-latex-recommended)")
    (tmp_path / "all.tex").write_text("\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
                                      f"{text}\n\\end{{document}}\n")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path,
                          capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]


def test_bundle__carries_probes_and_an_import_shows_them(make_result: Callable, tmp_path: Path) -> None:
    write_result(tmp_path / "here" / "runs", make_result())
    probe_results.write_probe(tmp_path / "here" / "probes", make_probe(weights__path="/home/jane/x.pth"))
    file, there = tmp_path / "one.tar.gz", tmp_path / "there"
    assert bundle.main([str(file), "--results", str(tmp_path / "here"), "--anonymous"]) == 0
    for _ in range(2):
        assert import_results.main([str(file), "--results", str(there)]) == 0
    [probe], problems = probe_results.read_probes(there / "probes")
    assert problems == [] and probe["metrics"] == figures(30.0) and "jane" not in json.dumps(probe)
    named = shown(probe_results.read_probes(tmp_path / "here" / "probes")[0]).replace("mini", "Dataset A")
    assert re.sub("annotations [0-9a-f]{8}", "", shown([probe])) == re.sub("annotations [0-9a-f]{8}", "", named)
    (tmp_path / "here" / "probes" / "bad.json").write_text("{")
    with pytest.raises(UserError, match=r"expected good probe files, found 1 with problems, first bad.json: not whole"):
        bundle.main([str(file), "--results", str(tmp_path / "here")])


def test_report__shows_the_probes(tmp_path: Path) -> None:
    probe_results.write_probe(tmp_path / "results" / "probes", make_probe())
    text = page(tmp_path, tmp_path / "results")
    assert '<a href="#probes">' in text and "<td>CLoVE</td>" in text


def test_suite__probe_stages_follow_the_conversion_and_publish(tmp_path: Path) -> None:
    options = parse(["--demo", "--probes", "--output", str(tmp_path)])
    stages = {stage.name: stage for stage in plan(options)}
    probes = [name for name in stages if name.startswith("probe-")]
    assert probes == ["probe-clove-coco", "probe-clove-cityscapes"]
    stage = stages["probe-clove-coco"]
    assert stage.parents == ("data", "convert-clove") and stage.product == "probe.json"
    words = stage.command(tmp_path / "s", {"data": tmp_path / "d", "convert-clove": tmp_path / "c"})
    assert words[words.index("transfer") + 1] == "probe"
    (tmp_path / "s").mkdir()
    written = {name: value for name, value in make_probe().items() if name not in ("demo", "stage")}
    (tmp_path / "s" / "probe.json").write_text(json.dumps(written))
    stage.finish(tmp_path / "s", "key")
    [path] = (options.results / "probes").iterdir()
    found = json.loads(path.read_text())
    assert found["demo"] is True and found["stage"]["name"] == "probe-clove-coco" and found["stage"]["key"]
    assert not any(name.startswith("probe-") for name in [s.name for s in plan(parse(["--demo"]))])


@pytest.mark.parametrize(("words", "text"), [
    (["--demo", "--probes", "--tasks", "keypoints"], "--probes: no pixel labels for keypoints; add coco or"),
    (["--methods", "rand", "--probes"], "--probes: random weights stand in every probe"),
])
def test_options__probes_that_cannot_be(words: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        parse(words)
