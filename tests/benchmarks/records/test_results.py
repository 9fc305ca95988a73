"""Result files are whole, valid and unchanged, or named with the reason."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.records import results
from benchmarks.records.results import FIELDS, file_name, read_results, validate, write_result
from pretrain.common.errors import UserError

ROOT = Path(results.__file__).resolve().parents[2]


def test_write_result__is_read_back_equal_with_lists_for_tuples(make_result, tmp_path: Path) -> None:
    result = make_result(config__SOLVER__STEPS=(60000, 80000), more={"per class": {1: 2.5}})
    path = write_result(tmp_path / "new" / "runs", result)
    [found], problems = read_results(tmp_path / "new" / "runs")
    assert problems == []
    assert found["config"]["SOLVER"]["STEPS"] == [60000, 80000]
    assert found["more"] == {"per class": {"1": 2.5}}
    assert found.pop("digest") == results.digest(found)
    assert found["metrics"] == result["metrics"]
    assert os.listdir(path.parent) == [path.name]


def test_write_result__names_the_file_after_what_it_holds(make_result, tmp_path: Path) -> None:
    assert write_result(tmp_path, make_result()).name.startswith("CLoVE__200ep__coco__trial0__")
    random = make_result(method="Rand init", epochs=None, trial=3)
    assert write_result(tmp_path, random).name.startswith("Rand-init__noep__coco__trial3__")
    hostile = write_result(tmp_path, make_result(method="../a b/ü|__'x"))
    assert hostile.parent == tmp_path
    assert hostile.name.startswith("a-b-x__200ep__coco__trial0__")
    assert len(read_results(tmp_path)[0]) == 3


def test_file_name__is_the_same_for_a_stage_that_ran_again_and_no_other(make_result) -> None:
    again = make_result(ended="2026-02-02T00:00:00+00:00", wall_seconds=1)
    assert file_name(again) == file_name(make_result())
    others = [make_result(stage__key="ef" * 32), make_result(method="CLoVE "), make_result(method="C/LoVE"),
              make_result(method="C-LoVE"), make_result(trial=1), make_result(epochs=None)]
    assert len({file_name(result) for result in [make_result(), *others]}) == 7


def test_write_result__refuses_an_invalid_one_and_writes_nothing(make_result, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="metrics.bbox/AP: expected a number from 0 to 100 or null, found nan; noth"):
        write_result(tmp_path, make_result(**{"metrics__bbox/AP": float("nan")}))
    assert list(tmp_path.iterdir()) == []


def test_validate__accepts_each_table_and_undefined_metrics(make_result) -> None:
    for table in ("coco_detection_segmentation", "coco_keypoints", "cityscapes_instance_segmentation"):
        assert validate(make_result(table)) == []
    assert validate(make_result("cityscapes_instance_segmentation", [None, 0])) == []
    assert validate(make_result(method="Rand init", weights__method="Rand init", weights__pkl_sha256=None)) == []


def test_validate__a_checkpoint_is_no_random_row(make_result) -> None:
    assert validate(make_result(method="Rand init", weights__pkl_sha256="cd" * 32)) == [
        "method: expected another name than 'Rand init', for the weights are those of a checkpoint"]


def test_validate__names_every_missing_field(make_result) -> None:
    for name in FIELDS:
        if name in results.OPTIONAL:
            continue
        result = make_result()
        *parents, key = name.split(".")
        place = result
        for parent in parents:
            place = place[parent]
        del place[key]
        assert validate(result) == [f"{name}: missing, expected {FIELDS[name][0]}"]


@pytest.mark.parametrize(("change", "problem"), [
    ({"schema": 3}, "schema: expected 2, found 3"),
    ({"schema": True}, "schema: expected 2, found True"),
    ({"method": " "}, "method: expected a printable text that is not empty, found ' '"),
    ({"method": "a\nb"}, r"method: expected a printable text that is not empty, found 'a\nb'"),
    ({"epochs": "200"}, "epochs: expected an integer from 0 or null, found '200'"),
    ({"demo": 0}, "demo: expected true or false, found 0"),
    ({"trial": -1}, "trial: expected an integer from 0, found -1"),
    ({"iterations": -1}, "iterations: expected an integer from 0, found -1"),
    ({"dataset": []}, "dataset: expected a mapping, found []"),
    ({"dataset__name": 3}, "dataset.name: expected a printable text that is not empty, found 3"),
    ({"dataset__classes": []}, "dataset.classes: expected a list of at least one class name, found []"),
    ({"dataset__val__annotations_sha256": "12"},
     "dataset.val.annotations_sha256: expected 64 hexadecimal digits, found '12'"),
    ({"overrides": "SEED=1"}, "overrides: expected a list of KEY=VALUE texts, found 'SEED=1'"),
    ({"ended": "yesterday"}, "ended: expected a time in ISO 8601 with its zone, found 'yesterday'"),
    ({"ended": "2026-01-01T00:00:00"},
     "ended: expected a time in ISO 8601 with its zone, found '2026-01-01T00:00:00'"),
    ({"metrics__bbox/AP": 100.1}, "metrics.bbox/AP: expected a number from 0 to 100 or null, found 100.1"),
    ({"metrics__bbox/AP": -1}, "metrics.bbox/AP: expected a number from 0 to 100 or null, found -1"),
    ({"metrics__bbox/AP": True}, "metrics.bbox/AP: expected a number from 0 to 100 or null, found True"),
    ({"metrics": {"AP_bb": 1}}, "metrics: expected GROUP/NAME, such as bbox/AP, found 'AP_bb'"),
    ({"metrics": {"/AP": 1}}, "metrics: expected GROUP/NAME, such as bbox/AP, found '/AP'"),
    ({"metrics": {}}, "metrics: expected a mapping of at least one metric, found {}"),
    ({"dataset__label": 3}, "dataset.label: expected a printable text that is not empty, or null, found 3"),
    ({"dataset__train_share": {"share": 0, "images": 5}}, "dataset.train_share: expected a mapping of share (above 0, "
     "at most 1) and images, or null, found {'share': 0, 'images': 5}"),
    ({"training": "x"}, "training: expected a mapping or null, found 'x'"),
    ({"evaluation": 3}, "evaluation: expected a mapping or null, found 3"),
    ({"weights__pkl_sha256": None},
     "weights: expected pkl_sha256 or path_sha256 of 64 hexadecimal digits, found neither"),
])
def test_validate__says_what_was_expected_and_found(make_result, change: dict, problem: str) -> None:
    assert validate(make_result(**change)) == [problem]


def test_validate__finds_infinity_and_foreign_types_deep_inside(make_result) -> None:
    for value in (float("inf"), float("nan"), {1, 2}):
        [problem] = validate(make_result(more={"sizes": [1.0, {"APs": value}]}))
        assert problem.startswith("expected finite numbers and plain JSON types everywhere")


def test_validate__asks_for_no_table_and_no_column(make_result) -> None:
    assert validate(make_result(task="a task of somebody", metrics={"dots/F1": 50.0, "dots/F1-a/b": None})) == []
    assert validate([]) == ["expected a mapping, found []"]


def of_schema_1(make_result, **changes) -> dict:
    """A result as the first schema stored it: the table's columns, and the rest under `details`."""
    columns = dict(zip(("AP_bb", "AP50_bb", "AP75_bb", "AP_mb", "AP50_mb", "AP75_mb"), (40.5, 60, None, 36, 57, 39),
                       strict=True))
    return make_result() | {"schema": 1, "table": "coco_detection_segmentation", "metrics": columns,
                            "details": {"bbox/APs": 20.5, "segm/AP-car": None}} | changes


def stored(folder: Path, result: dict) -> Path:
    """The file as that schema's writer left it."""
    path = folder / "old.json"
    path.write_text(json.dumps(result | {"digest": results.digest(result)}))
    return path


def test_read_results__a_file_of_schema_1_reads_like_todays(make_result, tmp_path: Path) -> None:
    old = of_schema_1(make_result)
    stored(tmp_path, old)
    [found], problems = read_results(tmp_path)
    assert problems == [] and found["schema"] == 2 and "details" not in found
    assert found["metrics"] == {
        "bbox/AP": 40.5, "bbox/AP50": 60, "bbox/AP75": None, "segm/AP": 36, "segm/AP50": 57, "segm/AP75": 39,
        "bbox/APs": 20.5, "segm/AP-car": None}
    assert found["digest"] == results.digest(old)  # of what is stored


def test_read_results__a_change_in_a_file_of_schema_1_is_found(make_result, tmp_path: Path) -> None:
    path = stored(tmp_path, of_schema_1(make_result))
    path.write_text(path.read_text().replace('"AP_bb": 40.5', '"AP_bb": 41.5'))
    assert "its digest does not match" in read_results(tmp_path)[1][0]


@pytest.mark.parametrize(("change", "problem"), [
    ({"metrics": {"AP_xy": 1.0}}, "metrics: expected GROUP/NAME or a column of schema 1, found 'AP_xy'"),
    ({"table": "coco_keypoints", "metrics": {"AP": 1.0}},
     "metrics: expected GROUP/NAME or a column of schema 1, found 'AP'"),
    ({"metrics": {"AP_bb": 101}}, "metrics.bbox/AP: expected a number from 0 to 100 or null, found 101"),
    ({"metrics": []}, "metrics: expected a mapping, found []"), ({"table": None}, "table: expected a printable text"),
    ({"details": 3}, "details: expected a mapping, found 3")])
def test_validate__a_result_of_schema_1_that_is_none_is_named(make_result, change: dict, problem: str) -> None:
    assert validate(of_schema_1(make_result, **change))[0].startswith(problem)


def test_write_result__writes_one_of_schema_1_as_todays_under_the_same_name(make_result, tmp_path: Path) -> None:
    old = of_schema_1(make_result)
    path = write_result(tmp_path, old)
    assert path.name == file_name(old) == file_name(make_result())
    assert json.loads(path.read_text())["schema"] == 2 and "bbox/APs" in json.loads(path.read_text())["metrics"]


def test_read_results__names_each_broken_file_and_reads_the_others(make_result, tmp_path: Path) -> None:
    good = write_result(tmp_path, make_result())
    text = good.read_text()
    (tmp_path / "a_half.json").write_text(text[: len(text) // 2])
    (tmp_path / "b_empty.json").write_text("")
    (tmp_path / "c_edited.json").write_text(text.replace('"bbox/AP": 40.5', '"bbox/AP": 48.0'))
    (tmp_path / "d_no_digest.json").write_text(json.dumps(make_result()))
    (tmp_path / "e_nan.json").write_text(text.replace('"bbox/AP": 40.5', '"bbox/AP": NaN'))
    (tmp_path / "f_huge.json").write_text(text.replace('"wall_seconds": 12.5', '"more": 1e999, "wall_seconds": 12.5'))
    (tmp_path / "g_binary.json").write_bytes(b"\xff\xfe\xfa\x00\x81")
    (tmp_path / "h_deep.json").write_text("[" * 100_000)
    (tmp_path / "i_folder.json").mkdir()
    (tmp_path / "j_list.json").write_text("[1]")
    (tmp_path / ".writing.1.part.json").write_text("{")
    (tmp_path / "notes.txt").write_text("{")
    found, problems = read_results(tmp_path)
    assert [result["metrics"]["bbox/AP"] for result in found] == [40.5]
    reasons = dict(problem.split(": ", 1) for problem in problems)
    assert [name[0] for name in reasons] == list("abcdefghij")
    assert reasons["a_half.json"].startswith("not whole JSON (")
    assert reasons["b_empty.json"].startswith("not whole JSON (")
    assert reasons["c_edited.json"].startswith("changed after it was written (its digest does not match)")
    assert reasons["d_no_digest.json"] == reasons["c_edited.json"]
    assert reasons["e_nan.json"] == "metrics.bbox/AP: expected a number from 0 to 100 or null, found nan"
    assert reasons["f_huge.json"].startswith("expected finite numbers")
    assert reasons["g_binary.json"].startswith("not whole JSON (")
    assert reasons["h_deep.json"].startswith("not whole JSON (")
    assert reasons["i_folder.json"] == "cannot be read (Is a directory)"
    assert reasons["j_list.json"] == "expected a mapping, found [1]"


def test_read_results__finds_any_single_change(make_result, tmp_path: Path) -> None:
    path = write_result(tmp_path, make_result())
    written = json.loads(path.read_text())
    for change in ({"trial": 1}, {"metrics": {"bbox/AP": 1}}, {"note": "better"}, {"digest": "0" * 64}):
        path.write_text(json.dumps(written | change))
        found, [problem] = read_results(tmp_path)
        assert found == []
        assert "its digest does not match" in problem
    path.write_text(json.dumps(written, indent=8))  # other spaces are no other content
    assert len(read_results(tmp_path)[0]) == 1


def test_read_results__absent_or_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert read_results(tmp_path) == ([], [])
    assert read_results(tmp_path / "absent") == ([], [])


WRITER = """
import json, sys, time
from pathlib import Path
from benchmarks.records.results import read_results, write_result
folder, mine = Path(sys.argv[1]), json.load(sys.stdin)
(folder / f"ready{sys.argv[2]}").touch()
ends = time.monotonic() + 60
while len(list(folder.glob("ready*"))) < 8 and time.monotonic() < ends:
    time.sleep(0.002)
for result in mine:
    write_result(folder / "runs", result)
    problems = read_results(folder / "runs")[1] if result["trial"] % 10 == 0 else []
    assert not problems, problems  # what others are just writing is not seen
"""


def test_write_result__two_hundred_by_eight_processes_at_once_all_arrive_whole(make_result, tmp_path: Path) -> None:
    wanted = [make_result(trial=number, seed=number, values=[number / 10] * 6) for number in range(200)]
    again = make_result(method="the same of all")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(number)], cwd=ROOT, text=True,
                                stdin=subprocess.PIPE, stderr=subprocess.PIPE) for number in range(8)]
    for number, writer in enumerate(writers):
        writer.stdin.write(json.dumps([*wanted[number::8], again]))
        writer.stdin.close()
        writer.stdin = None
    told = [writer.communicate(timeout=120)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 8, told
    found, problems = read_results(tmp_path / "runs")
    assert problems == [] and len(os.listdir(tmp_path / "runs")) == len(found) == 201
    figures = {result["trial"]: result["metrics"]["bbox/AP"] for result in found if result["method"] == "CLoVE"}
    assert figures == {number: number / 10 for number in range(200)}


def test_results__need_the_standard_library_only() -> None:
    code = ("import sys; sys.path.insert(0, sys.argv[1]); "
            "import benchmarks.records.results, benchmarks.tables.trial_groups; "
            "print(sorted({name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names))")
    answer = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip().replace("'__main__', ", "") == "['benchmarks', 'pretrain', 'transfer']"


def test_readme__documents_every_field() -> None:
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    keys = [key.strip() for line in text.splitlines() if line.startswith("| ")
            for key in line.split("|")[1].replace(" or ", ",").split(",")]
    parents = {name.rsplit(".", 1)[0] for name in FIELDS if "." in name}
    assert set(FIELDS) - parents <= set(keys)
    assert "digest" in keys


NEW_KEYS = {
    "kind": "evaluation", "schedule": "1x", "solver": "common", "fit": "accumulate", "processes": 2,
    "earlier_processes": [4],
    "images_at_once": 4, "batch_norm_images": 4, "eval_every": 1000, "predictions": {"file": "p", "sha256": "ab" * 32},
    "weights__init": "converted checkpoint", "weights__branch": "teacher", "weights__fpn": False,
    "weights__pixel_format": {"channel_order": "BGR", "mean": [1, 2, 3], "std": [1, 1, 1], "stride_in_1x1": True},
    "weights__conversion": {"consumed": 265}, "weights__path_sha256": "ab" * 32,
    "weights__pretraining": {"objective": "clove", "seed": 3, "recipe_sha256": "ab" * 32, "images_sha256": "cd" * 32},
    "dataset__label": "half", "dataset__train_share": {"share": 0.25, "images": 10},
    "training": {"sha256": "ab" * 32}, "evaluation": {"sha256": "cd" * 32},
}
MAY_BE_NULL = {"schedule", "solver", "fit", "processes", "batch_norm_images", "eval_every", "predictions",
               "weights__branch", "weights__conversion", "weights__path_sha256", "weights__pretraining",
               "dataset__label", "dataset__train_share", "training", "evaluation"}


@pytest.mark.parametrize("change", [{"seed": None}, {"recipe_sha256": "ab"}, {"objective": ""}, {"images_sha256": 3}])
def test_validate__a_pretraining_has_objective_seed_recipe_and_images(change: dict, make_result) -> None:
    [problem] = validate(make_result(weights__pretraining=NEW_KEYS["weights__pretraining"] | change))
    assert problem.startswith("weights.pretraining: expected a mapping of objective, seed, recipe_sha256 and im")


@pytest.mark.parametrize("name", list(NEW_KEYS))
def test_validate__what_the_fine_tuning_also_records_is_checked_when_it_is_there(name: str, make_result) -> None:
    assert validate(make_result(**{name: NEW_KEYS[name]})) == []
    problems = validate(make_result(**{name: [0.5]}))
    assert len(problems) == 1 and problems[0].startswith(f"{name.replace('__', '.')}: expected")
    assert (validate(make_result(**{name: None})) == []) == (name in MAY_BE_NULL)


@pytest.mark.parametrize("method", results.RANDOM)
def test_validate__random_weights_need_no_hash(method: str, make_result) -> None:
    assert validate(make_result(method=method, weights__method=method, weights__pkl_sha256=None)) == []
