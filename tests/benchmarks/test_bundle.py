"""Bundles: complete, repeatable, read back; an anonymous one tells nobody who made it. Imports are always marked."""

import getpass
import io
import json
import socket
import tarfile
from pathlib import Path

import pytest

from benchmarks import bundle, import_results, make_tables
from benchmarks.results import read_results, write_result
from pretrain.errors import UserError

REPORTED = make_tables.ROOT / "results" / "reported"


@pytest.fixture(autouse=True)
def _somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node17.lab.example")
    monkeypatch.setenv("USER", "janedoe")


@pytest.fixture
def results(make_result, tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for trial in range(2):
        write_result(folder / "runs", make_result(
            trial=trial, seed=trial, config__OUTPUT_DIR=f"/home/jane doe/{socket.gethostname()}/runs/one",
            config__MODEL={"WEIGHTS": "~/models/detectron2.pkl", "MASK_ON": True},
            hardware={"node": f"{socket.gethostname()}", "gpus": ["H100"]},
            dataset__name="coco", overrides=["OUTPUT_DIR=/data/jane/coco"]))
    return folder


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}


def test_bundle__holds_all_that_a_reviewer_needs_and_repeats_itself(results: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.tar.gz", tmp_path / "other.tar.gz"
    for path in (one, other):
        assert bundle.main([str(path), "--results", str(results)]) == 0
    assert one.read_bytes() == other.read_bytes()
    kinds = {name.split("/")[0] for name in members(one)}
    assert kinds == {"runs", "configs", "certificates", "tables", "reported", "manifest.json"}
    assert b"40.5" in members(one)["tables/tables.md"]


def test_bundle__anonymous_holds_no_host_no_user_and_no_path(results: Path, tmp_path: Path) -> None:
    write_result(results / "runs", json.loads(next((results / "runs").iterdir()).read_text())
                 | {"trial": 7, "hardware": "janedoe's machine", "details": {"log": "see /scratch/janedoe/x/log.txt."}})
    path = tmp_path / "blind.tar.gz"
    assert bundle.main([str(path), "--results", str(results), "--anonymous"]) == 0
    text = b"".join(members(path).values()).decode()
    for trace in ("node17", "janedoe", "jane", "/home", "/data", "/scratch", "~/"):
        assert trace not in text, trace
    assert "<path>/coco" in text and "<path>/detectron2.pkl" in text and "<path>/log.txt" in text
    assert bundle.main([str(tmp_path / "open.tar.gz"), "--results", str(results)]) == 0
    assert "/home/jane doe" in b"".join(members(tmp_path / "open.tar.gz").values()).decode()


def test_bundle__refuses_what_it_cannot_hide(make_result, results: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_clean", lambda text: text)
    write_result(results / "runs", make_result(method=f"by {socket.gethostname()}"))
    with pytest.raises(UserError, match=r"would still hold '.*': an anonymous bundle must not"):
        bundle.main([str(tmp_path / "blind.tar.gz"), "--results", str(results), "--anonymous"])
    assert not (tmp_path / "blind.tar.gz").exists()


def test_bundle__wants_good_results(results: Path, tmp_path: Path) -> None:
    (results / "runs" / "half.json").write_text("{")
    with pytest.raises(UserError, match=r"1 result files are not what they should be, first half.json"):
        bundle.main([str(tmp_path / "x.tar.gz"), "--results", str(results)])
    with pytest.raises(UserError, match="expected results to bundle, found none in"):
        (tmp_path / "empty").mkdir()
        bundle.main([str(tmp_path / "x.tar.gz"), "--results", str(tmp_path / "empty")])


@pytest.mark.parametrize("words", [[], ["--anonymous"]])
def test_import__a_bundle_gives_the_same_tables(results: Path, tmp_path: Path, words: list[str]) -> None:
    path, elsewhere = tmp_path / "one.tar.gz", tmp_path / "elsewhere"
    assert bundle.main([str(path), "--results", str(results), *words]) == 0
    assert import_results.main([str(path), "--results", str(elsewhere)]) == 0
    shown = [make_tables.read_tables(folder, REPORTED).shown() for folder in (results, elsewhere)]
    assert shown[0] == shown[1] and "n=2" in shown[0]
    assert read_results(elsewhere / "runs")[1] == []


def test_import__twice_changes_nothing_and_other_content_is_refused(make_result, results: Path, tmp_path: Path,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.tar.gz"
    bundle.main([str(path), "--results", str(results)])
    assert import_results.main([str(path), "--results", str(results)]) == 0
    assert "imported 0 of 2 results" in capsys.readouterr().out
    for file in (results / "runs").iterdir():
        result = json.loads(file.read_text())
        write_result(results / "runs", {key: value for key, value in result.items() if key != "digest"}
                     | {"wall_seconds": 99.0})
    with pytest.raises(UserError, match=r"2 results of .* are here already with other content, first .*nothing was"):
        import_results.main([str(path), "--results", str(results)])


def repacked(path: Path, change: dict[str, bytes], target: Path) -> Path:
    target.write_bytes(bundle.archive(members(path) | change))
    return target


def test_import__a_changed_or_foreign_archive_is_refused(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.tar.gz"
    bundle.main([str(path), "--results", str(results)])
    name = next(name for name in members(path) if name.startswith("runs/"))
    other = repacked(path, {name: b"{}"}, tmp_path / "changed.tar.gz")
    with pytest.raises(UserError, match=r"1 of \d+ files do not fit the manifest, first runs/"):
        import_results.main([str(other), "--results", str(tmp_path / "new")])
    with pytest.raises(UserError, match="files do not fit the manifest, first ../evil.json"):
        import_results.main([str(repacked(path, {"../evil.json": b"{}"}, tmp_path / "evil.tar.gz")),
                             "--results", str(tmp_path / "new")])
    (tmp_path / "half.tar.gz").write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="is not a bundle of this suite"):
        import_results.main([str(tmp_path / "half.tar.gz"), "--results", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists() and not (tmp_path / "evil.json").exists()


def test_import__detectron2s_metrics_become_a_marked_row(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    early = {"bbox/AP": 1.0, "bbox/AP50": 2.0, "bbox/AP75": 3.0, "segm/AP": 4.0, "segm/AP50": 5.0, "segm/AP75": 6.0}
    last = {key: value + 30 for key, value in early.items()} | {"segm/AP75": float("nan")}
    file.write_text("\n".join([json.dumps({"iteration": 1, "total_loss": 2.0}), json.dumps(early), json.dumps(last),
                               '{"iteration": 3, "tot']))
    results = tmp_path / "results"
    words = [str(file), "--results", str(results), "--method", "Theirs", "--task", "coco", "--epochs", "800"]
    assert import_results.main(words) == import_results.main(words) == 0
    text = make_tables.read_tables(results, REPORTED).shown()
    block = text.split("### Imported")[1].split("## ")[0]
    [row] = [line for line in block.splitlines() if line.startswith("| Theirs")]
    assert [cell.strip() for cell in row.strip("|").split("|")][:8] == [
        "Theirs", "800", "31.0", "32.0", "33.0", "34.0", "35.0", "-"]
    assert "imported from metrics.json, sha256" in row and "Made elsewhere and imported" in block
    [written] = (results / "imported").iterdir()
    written.write_text(written.read_text().replace("31.0", "41.0"))
    found = make_tables.read_tables(results, REPORTED)
    assert "Theirs" not in found.shown() and "changed after it was written" in found.problems[0]


def ground_truth(path: Path) -> dict:
    square = [10, 10, 40, 10, 40, 40, 10, 40]
    content = {"images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 64}],
               "categories": [{"id": 1, "name": "thing"}],
               "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30], "area": 900,
                                "iscrowd": 0, "segmentation": [square]}]}
    path.write_text(json.dumps(content))
    return content["annotations"][0]


def test_import__a_coco_result_file_is_evaluated(tmp_path: Path) -> None:
    truth = ground_truth(tmp_path / "instances.json")
    found = {key: truth[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
    mask = {"size": [64, 64], "counts": pytest.importorskip("pycocotools.mask").encode(_mask())["counts"].decode()}
    (tmp_path / "found.json").write_text(json.dumps([found | {"segmentation": mask}]))
    words = ["--method", "Theirs", "--task", "coco", "--annotations", str(tmp_path / "instances.json")]
    assert import_results.main([str(tmp_path / "found.json"), "--results", str(tmp_path), *words]) == 0
    [written] = (tmp_path / "imported").iterdir()
    metrics = json.loads(written.read_text())["metrics"]
    assert metrics["AP_bb"] == pytest.approx(100) and metrics["AP50_mb"] == pytest.approx(100)


def _mask():
    import numpy as np

    mask = np.zeros((64, 64), np.uint8, order="F")
    mask[10:40, 10:40] = 1
    return mask


@pytest.mark.parametrize(("content", "words", "said"), [
    ("[]", ["--method", "A", "--task", "coco"], "is a COCO result file: give the ground truth with --annotations FILE"),
    ('[{"image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]',
     ["--method", "A", "--task", "coco", "--annotations", "TRUTH"], "does not fit"),
    ('{"total_loss": 1.0}', ["--method", "A", "--task", "keypoints"], "expected a line with keypoints/AP"),
    ('{"total_loss": 1.0}', ["--method", "A", "--task", "coco", "--annotations", "TRUTH"],
     "goes with a COCO result file"),
    ("[]", ["--method", "A"], "is no bundle: figures made elsewhere need --method NAME and --task"),
    ("[]", ["--method", "A", "--task", "cityscapes", "--annotations", "TRUTH"],
     "cannot be evaluated for task cityscapes"),
])
def test_import__mistakes_are_explained(tmp_path: Path, content: str, words: list[str], said: str) -> None:
    ground_truth(tmp_path / "instances.json")
    (tmp_path / "file.json").write_text(content)
    words = [str(tmp_path / "instances.json") if word == "TRUTH" else word for word in words]
    with pytest.raises(UserError) as caught:
        import_results.main([str(tmp_path / "file.json"), "--results", str(tmp_path), *words])
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "imported").exists()


def test_archive__is_plain(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(bundle.archive({"b": b"2", "a": b"1"}))) as tar:
        found = [(entry.name, entry.mtime, entry.uid, entry.uname) for entry in tar]
    assert found == [("a", 0, 0, ""), ("b", 0, 0, "")]
    assert getpass.getuser() not in bundle.archive({"a": b"1"}).decode("latin-1")
