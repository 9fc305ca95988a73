"""Bundles: complete, repeatable, read back. Imports are always marked."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from benchmarks.formats import all_tables
from benchmarks.records import comparisons, imported
from benchmarks.records.results import digest, read_results, write_result
from benchmarks.sharing import bundle, import_results
from pretrain import PRINTED
from pretrain.common.errors import UserError

REPORTED = PRINTED / "reported"


@pytest.fixture
def results(make_result, tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for trial in range(2):
        write_result(folder / "runs", make_result(
            trial=trial, seed=trial, config__OUTPUT_DIR="/home/jane doe/node17/runs/one",
            config__MODEL={"WEIGHTS": "~/models/detectron2.pkl", "MASK_ON": True},
            hardware={"node": "node17", "gpus": ["H100"]},
            predictions={"file": "predictions.json.gz", "sha256": str(trial + 1) * 64},
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


def test_bundle__wants_good_results(results: Path, tmp_path: Path) -> None:
    (results / "runs" / "half.json").write_text("{")
    with pytest.raises(UserError, match=r"expected good result files, found 1 with problems, first half.json"):
        bundle.main([str(tmp_path / "x.tar.gz"), "--results", str(results)])
    with pytest.raises(UserError, match="expected results to bundle, found none in"):
        (tmp_path / "empty").mkdir()
        bundle.main([str(tmp_path / "x.tar.gz"), "--results", str(tmp_path / "empty")])


@pytest.mark.parametrize("words", [[], ["--anonymous"]])
def test_import__a_bundle_gives_the_same_tables(results: Path, tmp_path: Path, words: list[str]) -> None:
    path, elsewhere = tmp_path / "one.tar.gz", tmp_path / "elsewhere"
    assert bundle.main([str(path), "--results", str(results), *words]) == 0
    assert import_results.main([str(path), "--results", str(elsewhere)]) == 0
    shown = [all_tables.read_tables(folder, REPORTED).shown() for folder in (results, elsewhere)]
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


def test_import__a_full_disk_leaves_nothing_of_a_bundle(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                        ) -> None:
    path = tmp_path / "one.tar.gz"
    bundle.main([str(path), "--results", str(results)])
    put, calls = import_results.put, []

    def full(*words: object) -> Path:
        calls.append(words)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return put(*words)

    monkeypatch.setattr(import_results, "put", full)
    with pytest.raises(OSError, match="No space left"):
        import_results.main([str(path), "--results", str(tmp_path / "new")])
    assert len(calls) == 2 and not list((tmp_path / "new").rglob("*.json"))


def of_schema_1(make_result, trial: int) -> dict:
    """A result as the first schema stored it."""
    columns = dict.fromkeys(("AP_bb", "AP50_bb", "AP75_bb", "AP_mb", "AP50_mb", "AP75_mb"), 40.0 + trial)
    return make_result(trial=trial, seed=trial) | {
        "schema": 1, "table": "coco_detection_segmentation", "metrics": columns, "details": {"segm/AP-janedoe": 5.0}}


@pytest.mark.parametrize("words", [[], ["--anonymous"]])
def test_bundle__results_of_schema_1_are_carried(make_result, tmp_path: Path, words: list[str]
                                                                   ) -> None:
    folder = tmp_path / "results"
    (folder / "runs").mkdir(parents=True)
    for trial in range(2):
        result = of_schema_1(make_result, trial)
        (folder / "runs" / f"{trial}.json").write_text(json.dumps(result | {"digest": digest(result)}))
    path, elsewhere = tmp_path / "one.tar.gz", tmp_path / "elsewhere"
    assert bundle.main([str(path), "--results", str(folder), *words]) == 0
    assert ("janedoe" in b"".join(members(path).values()).decode()) == (not words)
    same_tables(path, elsewhere)
    stored = [json.loads(file.read_text()) for file in (elsewhere / "runs").iterdir()]
    assert {record["schema"] for record in stored} == {2 if words else 1} and ("details" in stored[0]) == (not words)
    assert "40.5 ± 0.7" in (elsewhere / "tables" / "tables.md").read_text()


def repacked(path: Path, change: dict[str, bytes], target: Path) -> Path:
    target.write_bytes(bundle.archive(members(path) | change))
    return target


def test_import__an_archive_that_claims_a_terabyte_is_refused(tmp_path: Path) -> None:
    claim = tarfile.TarInfo("runs/one.json")
    claim.size = 2 ** 40
    (tmp_path / "claim.tar.gz").write_bytes(gzip.compress(claim.tobuf()))
    with pytest.raises(UserError, match=r"is not a bundle of this suite \(it unpacks to more than 1 GiB\)"):
        import_results.main([str(tmp_path / "claim.tar.gz"), "--results", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


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


def test_archive__is_plain(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(bundle.archive({"b": b"2", "a": b"1"}))) as tar:
        found = [(entry.name, entry.mtime, entry.uid, entry.uname) for entry in tar]
    assert found == [("a", 0, 0, ""), ("b", 0, 0, "")]


def same_tables(path: Path, elsewhere: Path) -> None:
    assert import_results.main([str(path), "--results", str(elsewhere)]) == 0
    assert all_tables.main(["--results", str(elsewhere), "--strict"]) == 0
    for name in ("tables.md", "tables.csv"):
        assert (elsewhere / "tables" / name).read_bytes() == members(path)[f"tables/{name}"]


def with_imported_and_comparison(results: Path) -> None:
    folder = results / "imported"
    source = results / "janedoe_metrics.json"
    source.write_text("{}")
    figures = dict.fromkeys(["bbox/AP", "bbox/AP50", "segm/AP"], 31.25)
    row = {"task": "coco", "method": "Theirs by janedoe", "epochs": 800, "metrics": figures}
    imported.write_imported(folder, row, source)
    record = {"schema": 1, "kind": "bootstrap", "table": "coco_detection_segmentation",
              "names": ["CLoVE 200", "janedoe's"], "predictions_sha256": ["1" * 64, "2" * 64],
              "annotations_sha256": "3" * 64, "samples": 100, "seed": 0, "made": "2026-01-01T00:00:00+00:00",
              "outcome": {"AP_bb": {"first": 2.0, "second": 1.0, "difference": 1.0, "low": 0.5, "high": 1.5,
                                    "better": 1.0}}}
    (results / "comparisons").mkdir()
    path = results / "comparisons" / comparisons.file_name(record)
    path.write_text(json.dumps(record | {"digest": digest(record)}))


@pytest.mark.parametrize("words", [[], ["--anonymous"]])
def test_bundle__carries_imported_rows_and_comparisons(results: Path, tmp_path: Path, words: list[str],
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    with_imported_and_comparison(results)
    path = tmp_path / "one.tar.gz"
    assert bundle.main([str(path), "--results", str(results), *words]) == 0
    assert "2 results, 1 imported, 1 comparisons" in capsys.readouterr().out
    table = members(path)["tables/tables.md"].decode()
    assert ("Method" if words else "Theirs by janedoe") in table and "Paired bootstrap" in table
    assert ("janedoe" in table) == (not words)
    same_tables(path, tmp_path / "elsewhere")
    assert import_results.main([str(path), "--results", str(tmp_path / "elsewhere")]) == 0
    assert "imported 0 of 2 results, 0 of 1 imported, 0 of 1 comparisons" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["imported", "comparisons"])
def test_bundle__wrong_imported_rows_and_comparisons_are_refused(results: Path, tmp_path: Path, kind: str) -> None:
    with_imported_and_comparison(results)
    (results / kind / "bad.json").write_text("[]")
    with pytest.raises(UserError, match=r"expected good \w+ files, found 1 with problems, first bad.json: expected a"):
        bundle.main([str(tmp_path / "x.tar.gz"), "--results", str(results)])


def test_import__other_imported_figures_of_the_same_name_are_refused(results: Path, tmp_path: Path) -> None:
    with_imported_and_comparison(results)
    bundle.main([str(tmp_path / "one.tar.gz"), "--results", str(results)])
    [file] = (results / "imported").iterdir()
    record = json.loads(file.read_text())
    record["metrics"]["bbox/AP"] = 99.0
    file.write_text(json.dumps(record | {"digest": digest(record)}))
    with pytest.raises(UserError, match=r"1 imported of .* are here already with other content, first coco-"):
        import_results.main([str(tmp_path / "one.tar.gz"), "--results", str(results)])


@pytest.mark.parametrize(("manifest", "said"), [
    ({"sha256": []}, "is not a bundle of this suite (its manifest.json has no mapping of hashes)"),
    ([], "is not a bundle of this suite"), ({"sha256": {}}, "holds no results: expected runs, probes, imported, ")])
def test_import__a_manifest_without_results_is_refused(tmp_path: Path, manifest: object, said: str) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(bundle.archive({"manifest.json": json.dumps(manifest).encode()}))
    with pytest.raises(UserError) as caught:
        import_results.main([str(path), "--results", str(tmp_path / "new")])
    assert said in str(caught.value) and not (tmp_path / "new").exists()
    content = bytearray(gzip.compress(os.urandom(5000)))
    content[50:90] = b"x" * 40
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a bundle of this suite"):
        import_results.main([str(path), "--results", str(tmp_path / "new")])


def test_bundle__the_target_must_be_a_file(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a file to write, such as .*results.tar.gz, found the folder"):
        bundle.main([str(tmp_path), "--results", str(results)])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: .*file is not a folder"):
        bundle.main([str(tmp_path / "file" / "x.tar.gz"), "--results", str(results)])


def test_bundle__weights_of_a_model_file_with_a_certificate(make_result, tmp_path: Path) -> None:
    write_result(tmp_path / "runs", make_result(weights={
        "method": "A", "epochs": None, "architecture": "resnet50", "path_sha256": "ef" * 32,
        "conversion": {"consumed": 265}}))
    assert bundle.main([str(tmp_path / "x.tar.gz"), "--results", str(tmp_path)]) == 0
    assert f"certificates/{'ef' * 8}.json" in members(tmp_path / "x.tar.gz")


@pytest.mark.parametrize(("change", "said"), [
    ({"method": None}, "method: expected a printable text that is not empty, found None"),
    ({"epochs": "many"}, "epochs: expected an integer from 0 or null, found 'many'"),
    ({"metrics": {}}, "metrics: expected a mapping of at least one"), ({"task": 3}, "task: expected a printable text"),
    ({"metrics": {"AP": 1.0}}, "metrics: expected GROUP/NAME, such as bbox/AP, found 'AP'"),
    ({"source": []}, "source: expected a mapping, found []")])
def test_imported__a_wrong_file_is_named_and_left_out(results: Path, change: dict, said: str) -> None:
    with_imported_and_comparison(results)
    [file] = (results / "imported").iterdir()
    record = json.loads(file.read_text()) | change
    file.write_text(json.dumps(record | {"digest": digest(record)}))
    found = all_tables.read_tables(results, REPORTED)
    assert "Theirs" not in found.shown() and said in found.problems[0] and found.problems[0].startswith(file.name)
    file.write_text("[]")
    assert "expected a mapping, found []" in all_tables.read_tables(results, REPORTED).problems[0]
