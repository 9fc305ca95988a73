"""What differs between two runs: by folder, by result, and what is refused."""

import json
from pathlib import Path

import pytest
import yaml

from pretrain.common.errors import UserError
from tests.transfer.resolved import resolve
from transfer.__main__ import build_parser as _parser
from transfer.data.dataset import Dataset, Split
from transfer.settings import resolved_config
from transfer.trained import diff

SPLIT = Split(2, Path("annotations.json"), Path("images"), "0" * 64)
COCO = Dataset("coco", SPLIT, SPLIT, ("disc", "star"), ("boxes", "masks"))


def config(schedule: str | None = None, **words: object) -> dict:
    return resolved_config.plain(resolve(COCO, "2fc", "full", schedule=schedule, **words))


def result(path: Path, method: str = "CLoVE", torch: str = "2.14.1", **words: object) -> Path:
    content = {
        "schema": 1, "task": "coco", "trial": 0, "weights": {"method": method, "conversion": {"tolerance": 1e-9}},
        "metrics": {"AP_bb": 40.0 + len(method)}, "details": {}, "versions": {"torch": torch}, "wall_seconds": 3.0,
        "config": config(), **words}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def main(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str]:
    code = diff.run(_parser("diff").parse_args(["diff", *map(str, words)]))
    return code, capsys.readouterr().out


def test_diff__the_same_run_under_two_places_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a = result(tmp_path / "a/result.json", config=config(output="a", weights="x.pkl"))
    b = result(tmp_path / "b.json", config=config(output="b", weights="y.pkl"), wall_seconds=9.0, metrics={})
    assert main(capsys, a, b) == (0, "no difference\n")
    assert main(capsys, a.parent, b) == (0, "no difference\n")  # a folder is its result


def test_diff__config_and_provenance_are_named_with_both_values(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a = result(tmp_path / "a.json")
    b = result(tmp_path / "b.json", "PixPro", "2.15.0", config=config("2x"))
    code, shown = main(capsys, a, b)
    assert code == 1
    assert [line.split() for line in shown.splitlines() if line and not line.startswith("-")] == [
        ["configuration", "A", "B"], ["SOLVER.MAX_ITER", "90000", "180000"],
        ["SOLVER.STEPS", "[60000,", "80000]", "[120000,", "160000]"],
        ["where", "it", "comes", "from", "A", "B"], ["versions.torch", "2.14.1", "2.15.0"],
        ["weights.method", "CLoVE", "PixPro"]]
    code, shown = main(capsys, a, b, "--json")
    assert code == 1 and json.loads(shown) == {
        "config": {"SOLVER.MAX_ITER": [90000, 180000], "SOLVER.STEPS": [[60000, 80000], [120000, 160000]]},
        "provenance": {"versions.torch": ["2.14.1", "2.15.0"], "weights.method": ["CLoVE", "PixPro"]},
        "unrecorded": {}}


def test_diff__an_unfinished_run_is_compared_by_what_it_has(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cfg = resolve(COCO, "2fc", "full", trial=3)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "request.json").write_text(json.dumps({"task": "coco", "trial": 3}))
    code, shown = main(capsys, tmp_path, result(tmp_path / "b.json"))
    assert code == 1
    assert [line.split() for line in shown.splitlines() if line[:4] in ("SEED", "tria", "task")] == [
        ["SEED", "3", "0"], ["trial", "3", "0"]]
    assert shown.endswith("recorded in B alone, not compared: versions, weights\n")
    (tmp_path / "request.json").write_text(json.dumps({"weights": {"method": "CLoVE", "init": "random"}, "fit": None}))
    assert diff.compare(diff.read(tmp_path / "b.json"), diff.read(tmp_path)).unrecorded == {
        "fit": "B", "task": "A", "trial": "A", "versions": "A", "weights.init": "B"}
    (tmp_path / "request.json").unlink()
    assert set(diff.read(tmp_path).config) == set(yaml.safe_load(cfg.dump())) and diff.read(tmp_path).provenance == {}


def test_diff__long_values_are_cut_in_the_table_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a, b = result(tmp_path / "a.json", note="x" * 100), result(tmp_path / "b.json", note="y" * 100)
    assert "x" * 57 + "..." in main(capsys, a, b)[1]
    assert json.loads(main(capsys, a, b, "--json")[1])["provenance"]["note"] == ["x" * 100, "y" * 100]


@pytest.mark.parametrize(("name", "written", "text"), [
    ("none.json", None, "no such file or folder: expected a run's folder, or a result"),
    ("a.json", "{", "cannot be read"), ("a.json", "[]", "is not a result: it has no config"),
    ("a.json", "{}", "is not a result: it has no config"),
    ("", None, "holds no run: expected config.yaml or result.json in it"),
])
def test_read__names_what_is_no_run(name: str, written: str | None, text: str, tmp_path: Path) -> None:
    path = tmp_path / name if name else tmp_path
    if written is not None:
        path.write_text(written)
    with pytest.raises(UserError) as caught:
        diff.read(path)
    assert text in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_read__binary_and_broken_yaml(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"\x80\x02\xff")
    with pytest.raises(UserError, match="cannot be read"):
        diff.read(tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match="config.yaml cannot be read"):
        diff.read(tmp_path)
