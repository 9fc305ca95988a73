"""An anonymous bundle: whatever a record's free fields hold, no byte of the archive has it, and the tables stand."""

import copy
import gzip
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.formats import all_tables
from benchmarks.records import comparisons, imported
from benchmarks.records.record_kinds import KINDS
from benchmarks.records.results import digest, parse_sealed, write_result
from benchmarks.sharing import anonymous, bundle, import_results
from pretrain.common.errors import UserError
from tests.benchmarks.probe_files import make_probe
from transfer.tasks import TASKS

SECRETS = ["janedoe", "Jane Doe, Institute of Vision", "/home/janedoe/runs", "~janedoe/x", r"C:\Users\janedoe",
           "git@code.lab.example:janedoe/clove.git", "https://code.lab.example/janedoe?token=1", "jane@lab.example",
           "node17.lab.example", "10.20.30.40", "slurm_acct_77", "0123456789abcdef0123456789abcdef01234567",
           "17 Elm Street, 12345 Town", "clove-janedoe", "CLoVE by janedoe", "NVIDIA janedoe"]
TRACES = ["jane", "vision", "lab.example", "node17", "10.20.30", "acct_77", "01234567", "elm str", "home", "scratch",
          "users", "git@", "http"]


def places(value: Any, above: tuple = ()) -> Iterator[tuple]:
    """The path of every value in nested mappings and lists."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield (*above, key)
        yield from places(one, (*above, key))


def poisoned(kind: str, record: dict) -> dict:
    """The record with a secret in every text and under a new key of every mapping that its check lets have one."""
    secrets = iter(SECRETS * 100)

    def try_it(place: tuple, value: object) -> None:
        nonlocal record
        other = copy.deepcopy(record)
        inside = other
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] = value
        try:
            parse_sealed(json.dumps(other | {"digest": digest(other)}).encode(), KINDS[kind].check)
        except ValueError:
            return
        record = other

    for place in [(), *places(record)]:
        value: Any = record
        for key in place:
            value = value[key]
        secret = next(secrets)
        if isinstance(value, dict):
            try_it((*place, secret), secret)
            try_it((*place, f"bbox/AP-{secret}"), 5.0)
        elif (isinstance(value, str) and place != ("task",)) or value is None:
            try_it(place, secret)
    return record


def put(folder: Path, kind: str, record: dict) -> None:
    record = record | {"digest": digest(record)}
    (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / kind / KINDS[kind].file_name(record)).write_text(json.dumps(record))


def everything(make_result: Callable[..., dict], number: int = 0) -> dict[str, dict]:
    """A record of each kind with all that one may hold."""
    sha = f"{number + 1}" * 64
    return {
        "runs": make_result(
            method=f"mine {number}", overrides=["MODEL.X=/home/janedoe/x.pkl", "SOLVER.BASE_LR=0.02"],
            hardware={"cpu": "x", "cores": 4, "gpus": ["NVIDIA H100 80GB HBM3"], "node": "x"}, schedule="1x",
            predictions={"file": "x", "sha256": sha}, evaluator="pycocotools", kind="finetuning", solver="common",
            dataset__name="coco", dataset__label="x", training={"sha256": sha}, evaluation={"sha256": sha},
            weights__init="x", weights__pretraining={"objective": "clove", "seed": 0, "recipe_sha256": sha,
                                                     "images_sha256": sha},
            weights__pixel_format={"channel_order": "x", "mean": [1.0, "x"], "std": [1.0], "stride_in_1x1": False},
            weights__conversion={"source": "x", "consumed": 265, "input": "x", "family": "x", "notes": ["x"],
                                 "targets": {"detectron2": {"file": "x", "sha256": sha}, "x": {"file": "x"}}},
            code={"git_sha": "78" * 20, "dirty": True, "transfer_sha256": sha}),
        "probes": make_probe(dataset__labels=["x"], protocol__account="x", method="mine"),
        "imported": {"schema": 2, "kind": "imported", "task": "coco", "method": "Theirs", "epochs": 800,
                     "metrics": {"bbox/AP": 31.25}, "source": {"file": "x.json", "sha256": sha},
                     "annotations_sha256": None, "imported": "2026-01-01T00:00:00+02:00", "tool_version": "1.0.0"},
        "comparisons": {"schema": 2, "kind": "bootstrap", "task": "coco", "names": ["CLoVE 200", "mine"],
                        "predictions_sha256": [sha, "f" * 64], "annotations_sha256": sha, "samples": 100, "seed": 0,
                        "outcome": {"bbox/AP": {"difference": 1.0, "low": 0.5, "high": 1.5, "x": "x"}}, "made": "x"}}


def make(folder: Path, path: Path) -> dict[str, bytes]:
    """An anonymous bundle's members."""
    assert bundle.main([str(path), "--results", str(folder), "--anonymous"]) == 0
    with tarfile.open(path) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}


def test_bundle__no_free_field_reaches_any_byte_of_the_archive(make_result, tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(len(SECRETS)):
        for kind, record in everything(make_result, number % 9).items():
            turned = dict(sorted(record.items(), key=lambda item: (zlib.crc32(item[0].encode()) + number) % 7))
            put(tmp_path / "results", kind, poisoned(kind, turned | {"seed": number}))
    found = make(tmp_path / "results", tmp_path / "blind.tar.gz")
    packed = gzip.decompress((tmp_path / "blind.tar.gz").read_bytes()).decode().lower()
    public = "".join(content.decode().lower() for name, content in found.items() if name.startswith("reported/"))
    for trace in [*TRACES, *map(str.lower, SECRETS)]:
        assert packed.count(trace) == public.count(trace) == 0, trace
    assert {name.split("/")[0] for name in found} > set(KINDS)
    with tarfile.open(tmp_path / "blind.tar.gz") as tar:
        heads = {(one.uid, one.gid, one.uname, one.gname, one.mtime, one.mode, one.linkname) for one in tar}
    assert heads == {(0, 0, "", "", 0, 0o644, "")}
    said = json.loads(found["manifest.json"])
    for kind in KINDS:
        assert sum(name.startswith(f"{kind}/") for name in found) == len(list((tmp_path / "results" / kind).iterdir()))
    assert said["left_out_values"] > 100 and said["left_out_records"] == 0
    assert f"left out {said['left_out_values']} values that are not on the list" in capsys.readouterr().out


def test_bundle__the_poison_of_this_test_is_seen_without_anonymous(make_result, tmp_path: Path) -> None:
    for kind, record in everything(make_result).items():
        put(tmp_path / "results", kind, poisoned(kind, record))
    assert bundle.main([str(tmp_path / "open.tar.gz"), "--results", str(tmp_path / "results")]) == 0
    packed = gzip.decompress((tmp_path / "open.tar.gz").read_bytes()).decode().lower()
    assert [trace for trace in TRACES if trace not in packed] == ["scratch"]


def test_bundle__the_tables_of_an_anonymous_one_are_rebuilt_and_differ_in_names_alone(
        make_result, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for trial in range(2):
        for method in ("janedoe", "CLoVE"):
            write_result(here / "runs", make_result(method=method, trial=trial, seed=trial, dataset__label="our lab",
                                                    dataset__val__images=7, config__OUTPUT_DIR=f"/home/jane/{trial}"))
    found = make(here, tmp_path / "blind.tar.gz")
    assert "Method A: janedoe (only said here" in (said := capsys.readouterr().out) and "Dataset A: our lab" in said
    assert import_results.main([str(tmp_path / "blind.tar.gz"), "--results", str(there)]) == 0
    assert all_tables.main(["--results", str(there), "--strict"]) == 0
    for name in ("tables.md", "tables.csv"):
        assert (there / "tables" / name).read_bytes() == found[f"tables/{name}"]
    all_tables.main(["--results", str(here), "--strict"])
    mine, theirs = (re.sub(r"[^,;]*\.json", "FILE", text) for text in (
        (here / "tables" / "tables.csv").read_text(), found["tables/tables.csv"].decode()))
    assert theirs == mine.replace("janedoe", "Method A").replace("our lab", "Dataset A")
    assert theirs.count("Method A") > 5
    assert "measured, n=2" in found["tables/tables.md"].decode()


@pytest.mark.parametrize("change", [
    {"config__MODEL": {"WEIGHTS": "x", "MASK_ON": True, "MINE": "/home/jdoe/x"}}, {"config__SOLVER__MINE": [1, "b"]},
    {"config__MODEL": {"WEIGHTS": "x", "MASK_ON": True, "BACKBONE": {"NAME": "janedoe_net"}}},
    {"weights__architecture": "janenet"}, {"heads": "jane_heads"}, {"weights__pkl_sha256": "ef" * 32}])
def test_bundle__rows_that_differ_in_what_is_left_out_stay_apart(make_result, tmp_path: Path, change: dict) -> None:
    for trial, changes in enumerate(({}, change)):
        write_result(tmp_path / "here" / "runs", make_result(trial=trial, seed=trial, stage__key=f"{trial}", **changes))
    found = make(tmp_path / "here", tmp_path / "blind.tar.gz")
    table = found["tables/tables.md"].decode()
    assert "n=2" not in table and table.count("n=1;") + table.count("n=1 ") >= 2
    assert "jane" not in table and "jdoe" not in table


def test_bundle__a_value_set_by_hand_keeps_a_row_out_of_the_paper_s_block(make_result, tmp_path: Path) -> None:
    write_result(tmp_path / "runs", make_result(method="janedoe", overrides=["janedoe.loss=/home/jane"]))
    write_result(tmp_path / "runs", make_result(method="other", overrides=["MODEL.BACKBONE.NAME=janenet"]))
    text = make(tmp_path, tmp_path / "blind.tar.gz")["tables/tables.md"].decode()
    assert "override A" in text and "MODEL.BACKBONE.NAME=value" in text and "jane" not in text


def test_bundle__a_task_that_is_not_public_is_left_out_and_counted(make_result, tmp_path: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path / "runs", make_result(task="jane_cells"))
    with pytest.raises(UserError, match="expected a result of coco, keypoints, .* to bundle anonymously, found none"):
        bundle.main([str(tmp_path / "x.tar.gz"), "--results", str(tmp_path), "--anonymous"])
    write_result(tmp_path / "runs", make_result())
    found = make(tmp_path, tmp_path / "x.tar.gz")
    assert json.loads(found["manifest.json"])["left_out_records"] == 1
    assert "warning: left out 1 records whose task or metrics are not public" in capsys.readouterr().err
    assert b"jane_cells" not in gzip.decompress((tmp_path / "x.tar.gz").read_bytes())


@pytest.mark.parametrize(("rule", "value", "kept"), [
    (anonymous.version, "2.5.1+cu124", "2.5.1"), (anonymous.version, "0.6", "0.6"),
    (anonymous.version, "10.20.30.40", None), (anonymous.version, "1.0.janedoe", None),
    (anonymous.sha256, "ab" * 20, None), (anonymous.sha256, "ab" * 32, "ab" * 32),
    (anonymous.moment, "2026-01-01T02:00:00+02:00", "2026-01-01T00:00:00+00:00"),
    (anonymous.moment, "at janedoe's", None),
    (anonymous.number, 3.5, 3.5), (anonymous.number, "3.5", None), (anonymous.METHOD, "DenseCL", "DenseCL"),
    (anonymous.model, "CLoVE 200", "CLoVE 200"), (anonymous.model, "mine 200", "Method A 200"),
    (anonymous.hardware, {"gpus": ["NVIDIA H100 80GB HBM3", "Tesla V100-SXM2-16GB", "lab A100"], "node": "x"},
     {"gpus": ["NVIDIA H100 80GB HBM3", "Tesla V100-SXM2-16GB"]}), (anonymous.hardware, "jane's", {"gpus": []}),
    (anonymous.overrides, ["SOLVER.STEPS=(1, 2)", "MODEL.RESNETS.NORM=SyncBN", "SOLVER.STEPS=x", "mine=1"],
     ["SOLVER.STEPS=[1, 2]", "MODEL.RESNETS.NORM=SyncBN", "SOLVER.STEPS=value A", "override A"])])
def test_rules__keep_their_shape_alone(rule: anonymous.Rule, value: object, kept: object) -> None:
    assert rule(anonymous.Anonymiser(), value) == kept


def test_letters__go_on_after_z() -> None:
    own = anonymous.Anonymiser()
    found = [own.letter("Method", str(number)) for number in range(30)]
    assert found[0] == "Method A" and found[25:28] == ["Method Z", "Method AA", "Method AB"] and len(set(found)) == 30


def test_lists__are_of_what_the_project_has() -> None:
    from detectron2.config import get_cfg

    from transfer.settings.request import HEADS, SCALES, SOLVERS

    runs = anonymous.RECORDS["runs"]
    own = anonymous.Anonymiser()
    for key, values in (("heads", HEADS), ("scale", SCALES), ("solver", SOLVERS), ("schedule", ("1x", "2x_1gpu"))):
        assert [runs[key](own, value) for value in values] == list(values)
    assert own.letters == {}
    assert set(anonymous.PUBLIC_TASKS) <= TASKS.keys()

    def keys(values: dict, above: str = "") -> Iterator[str]:
        for key, inside in values.items():
            yield from keys(inside, f"{above}{key}.") if isinstance(inside, dict) else [f"{above}{key}"]

    assert set(keys(get_cfg())) <= anonymous.CONFIG_KEYS


def test_older_schemas__become_today_s(make_result) -> None:
    own = anonymous.Anonymiser()
    figures = {"AP_bb": 31.0}
    old = everything(make_result)["imported"] | {"schema": 1, "table": "coco_detection_segmentation",
                                                 "metrics": figures}
    del old["task"]
    assert imported.validate(old) == []
    assert own.record("imported", old)["metrics"] == {"bbox/AP": 31.0}
    old = everything(make_result)["comparisons"] | {"schema": 1, "table": "coco_detection_segmentation",
                                                    "outcome": {"AP_bb": {"difference": 1, "low": 0, "high": 2}}}
    del old["task"]
    assert comparisons.validate(old) == []
    assert own.record("comparisons", old)["outcome"] == {"bbox/AP": {"difference": 1, "low": 0, "high": 2}}


def test_number__any_finite_one_and_true_and_false_are_kept():
    own = anonymous.Anonymiser()
    kept = [0, -2.5, True, False, 10**400]
    assert [anonymous.number(own, one) for one in kept] == kept
    assert [anonymous.number(own, one) for one in (float("nan"), float("inf"), "1", [1])] == [None] * 4
