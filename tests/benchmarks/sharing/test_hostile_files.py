"""Files that a stranger may have made: FIFOs and links to devices are left out, numbers of any size crash nothing."""

import copy
import json
import os
import signal
from pathlib import Path

import pytest

from benchmarks.formats import all_tables
from benchmarks.records.results import digest, validate, write_result
from benchmarks.report import command
from benchmarks.sharing import bundle, import_results
from pretrain.common.errors import UserError
from pretrain.common.plain_file import read_plain


@pytest.fixture(autouse=True)
def patience():
    """A test that waits for a FIFO ends."""
    def end(*_: object) -> None:
        raise TimeoutError("waited for a FIFO")
    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put_others(folder: Path, name: str) -> None:
    """A FIFO and links to a device, to a FIFO and to nothing, under names that begin with `name`."""
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / f"{name}-fifo.json")
    (folder / f"{name}-device.json").symlink_to("/dev/zero")
    (folder / f"{name}-linked.json").symlink_to(f"{name}-fifo.json")
    (folder / f"{name}-nothing.json").symlink_to("nowhere")


def test_read_plain__reads_files_and_nothing_else(tmp_path: Path) -> None:
    put_others(tmp_path, "a")
    (tmp_path / "plain").write_bytes(b"12345")
    assert read_plain(tmp_path / "plain") == b"12345"
    for name in ("a-fifo.json", "a-linked.json", "a-device.json"):
        with pytest.raises(OSError, match="not a plain file but a FIFO, a socket or a device"):
            read_plain(tmp_path / name)
    with pytest.raises(OSError, match="0 MB, more than 0"):
        read_plain(tmp_path / "plain", 4)


def test_tables_report_and_bundle__name_what_is_no_file_and_go_on(make_result, tmp_path: Path, capsys) -> None:
    output = tmp_path / "run"
    results = output / "results"
    write_result(results / "runs", make_result())
    for kind in ("runs", "probes", "imported", "comparisons"):
        put_others(results / kind, kind)
    stage = output / "finetune-rand-coco-0-12345678"
    put_others(stage, "stage")
    os.mkfifo(stage / "metrics.json")
    (stage / "examples.json").symlink_to("/dev/zero")
    (stage / "predictions.png").symlink_to("/dev/zero")
    (stage / "stage.json").write_text(json.dumps({"name": "finetune-rand-coco-0", "ended": "2026"}))
    os.mkfifo((output / "other-12345678").mkdir() or output / "other-12345678" / "stage.json")

    assert all_tables.main(["--results", str(results)]) == 0
    told = capsys.readouterr()
    assert "measured, n=1" in told.out
    for kind in ("runs", "probes", "imported", "comparisons"):
        for name in ("fifo", "device", "linked"):
            assert f"left out {kind}-{name}.json: cannot be read (not a plain file but a FIFO, a socket" in told.err
        assert f"left out {kind}-nothing.json: cannot be read (No such file or directory)" in told.err
    page = command.page(output, results)
    assert "runs-fifo.json: cannot be read (not a plain file" in page and "16 files left out" in page
    with pytest.raises(UserError, match=r"expected good result files, found 4 with problems, first runs-device.json: "):
        bundle.main([str(tmp_path / "x.tar.gz"), "--results", str(results)])


def test_import__of_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    put_others(tmp_path, "a")
    for name in ("a-fifo.json", "a-device.json", "a-linked.json"):
        with pytest.raises(UserError, match=f"{name}: expected a file, found a folder, a FIFO or a device; name the"):
            import_results.main([str(tmp_path / name), "--results", str(tmp_path / "results")])
    with pytest.raises(UserError, match="a-nothing.json: file not found"):
        import_results.main([str(tmp_path / "a-nothing.json"), "--results", str(tmp_path / "results")])


EXTREMES = (10**400, -10**400, 2**63, 1e308, 5e-324, -1, 0, True, None, "", "\u202e\n<b>", [], {}, [[]],
            {"a": {"b": 1e308}}, "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00")


def places(record: dict, above: tuple = ()) -> list[tuple]:
    """The keys that lead to every value of a record, those of mappings too."""
    found = []
    for key, value in record.items():
        found.append((*above, key))
        if isinstance(value, dict):
            found += places(value, (*above, key))
    return found


def test_validate__whatever_it_accepts_is_shown_bundled_and_imported(make_result, tmp_path: Path) -> None:
    accepted = 0
    (tmp_path / "results" / "runs").mkdir(parents=True)
    start = make_result(scale="mini", dataset__label="own", dataset__classes=["cell"], weights__pretraining={
        "objective": "clove", "seed": 1, "recipe_sha256": "ab" * 32, "images_sha256": "cd" * 32})
    for place in places(start):
        for extreme in EXTREMES:
            result = copy.deepcopy(start)
            inner = result
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = extreme
            result["stage"] = result["stage"] | {"key": f"{accepted}"} if isinstance(result["stage"], dict) else {}
            if not validate(result):
                accepted += 1
                (tmp_path / "results" / "runs" / f"{accepted}.json").write_text(
                    json.dumps(result | {"digest": digest(result)}))
    assert accepted > 100
    found = all_tables.read_tables(tmp_path / "results", all_tables.PRINTED / "reported", include_demo=True)
    known = ("counts instead", "is not known here")
    assert not [problem for problem in found.problems if not any(text in problem for text in known)]
    all_tables.write_tables(found.tables, tmp_path / "tables")
    assert "own" in command.page(tmp_path, tmp_path / "results", include_demo=True)
    assert bundle.main([str(tmp_path / "all.tar.gz"), "--results", str(tmp_path / "results")]) == 0
    assert bundle.main([str(tmp_path / "blind.tar.gz"), "--results", str(tmp_path / "results"), "--anonymous"]) == 0
    assert import_results.main([str(tmp_path / "all.tar.gz"), "--results", str(tmp_path / "again")]) == 0
