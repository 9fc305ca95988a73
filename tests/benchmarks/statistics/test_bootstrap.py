"""The bootstrap's AP against pycocotools' own, with images drawn several times; the interval against what is known."""

import copy
import gzip
import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.formats import all_tables
from benchmarks.statistics import bootstrap
from pretrain import PRINTED
from pretrain.common.atomic import sha256_file
from pretrain.common.errors import UserError
from transfer.annotations import plain_coco

IMAGES, CLASSES = 12, 3


def made_up(path: Path, seed: int = 0) -> list[dict]:
    """Ground truth with crowds and an empty image, and noisy detections of it."""
    rng = np.random.default_rng(seed)
    rows, found = [], []
    for image in range(1, IMAGES):  # the last image has nothing
        for _ in range(rng.integers(1, 5)):
            box = [float(value) for value in (*rng.integers(0, 60, 2), *rng.integers(8, 40, 2))]
            category = int(rng.integers(1, CLASSES + 1))
            rows.append({"id": len(rows) + 1, "image_id": image, "category_id": category, "bbox": box,
                         "area": box[2] * box[3], "iscrowd": int(rng.random() < 0.1)})
            if rng.random() < 0.8:
                moved = [box[0] + float(rng.integers(-3, 4)), box[1] + float(rng.integers(-3, 4)), box[2], box[3]]
                found.append({"image_id": image, "category_id": category, "bbox": moved,
                              "score": float(rng.random())})
        if rng.random() < 0.6:
            found.append({"image_id": image, "category_id": int(rng.integers(1, CLASSES + 1)),
                          "bbox": [1.0, 1.0, 9.0, 9.0], "score": float(rng.random())})
    path.write_text(json.dumps({
        "images": [{"id": number, "file_name": f"{number}.jpg", "width": 100, "height": 100}
                   for number in range(1, IMAGES + 1)],
        "categories": [{"id": number, "name": f"c{number}"} for number in range(1, CLASSES + 1)], "annotations": rows}))
    return found


def by_pycocotools(annotations: Path, found: list[dict], counts: np.ndarray) -> float:
    """AP of a dataset in which image k really stands `counts[k]` times."""
    content = json.loads(annotations.read_text())
    truth = {key: [] for key in ("images", "annotations")} | {"categories": content["categories"]}
    copies = []
    for image, number in zip(content["images"], counts.astype(int), strict=True):
        for _ in range(number):
            new = len(truth["images"]) + 1
            truth["images"].append(image | {"id": new})
            for row in content["annotations"]:
                if row["image_id"] == image["id"]:
                    truth["annotations"].append(row | {"id": len(truth["annotations"]) + 1, "image_id": new})
            copies += [copy.deepcopy(row) | {"image_id": new} for row in found if row["image_id"] == image["id"]]
    with redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copies), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def test_average_precision__equals_pycocotools_on_images_that_are_really_there_several_times(tmp_path: Path) -> None:
    found = made_up(tmp_path / "truth.json")
    classes = bootstrap.matched(tmp_path / "truth.json", found, "bbox")
    drawn = np.concatenate([np.ones((1, IMAGES)), *bootstrap.samples(IMAGES, 8, 0)])
    own = bootstrap.average_precision(classes, drawn)
    assert own == pytest.approx([by_pycocotools(tmp_path / "truth.json", found, counts) for counts in drawn], abs=1e-9)
    assert len(set(own)) > 5 and 0.1 < own[0] < 0.9


@pytest.mark.parametrize("kind", [lambda number: number - 1, str, float, "row-{}".format],
                         ids=["from 0", "text", "floats", "names"])
def test_matched__is_the_same_whatever_ids_the_file_has(kind: Callable, tmp_path: Path) -> None:
    found = made_up(tmp_path / "truth.json")
    content = json.loads((tmp_path / "truth.json").read_text())
    for name in ("images", "categories", "annotations"):
        for row in content[name]:
            row.update({key: kind(row[key]) for key in ("id", "image_id", "category_id") if key in row})
    (tmp_path / "own.json").write_text(json.dumps(content))
    own = [row | {"image_id": kind(row["image_id"]), "category_id": kind(row["category_id"])} for row in found]
    for one, other in zip(bootstrap.matched(tmp_path / "truth.json", found, "bbox"),
                          bootstrap.matched(tmp_path / "own.json", own, "bbox"), strict=True):
        for name in ("image", "hit", "counts", "objects"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_matched__crowds_as_objects(tmp_path: Path) -> None:
    found = made_up(tmp_path / "truth.json")
    content = json.loads((tmp_path / "truth.json").read_text())
    for row in content["annotations"]:
        row["iscrowd"] = 1
    (tmp_path / "crowds.json").write_text(json.dumps(content))
    for row in content["annotations"]:
        row["iscrowd"] = 0
    (tmp_path / "truth.json").write_text(json.dumps(content))
    whole = np.ones((1, IMAGES))
    expected = bootstrap.average_precision(bootstrap.matched(tmp_path / "truth.json", found, "bbox"), whole)
    assert expected == bootstrap.average_precision(
        bootstrap.matched(tmp_path / "crowds.json", found, "bbox", crowds_as_objects=True), whole)


def test_samples__draw_as_many_images_as_there_are() -> None:
    weights = np.concatenate(list(bootstrap.samples(IMAGES, 120, 0)))
    assert weights.shape == (120, IMAGES) and (weights.sum(axis=1) == IMAGES).all()
    assert np.array_equal(weights, np.concatenate(list(bootstrap.samples(IMAGES, 120, 0))))
    # Each image is drawn Binomial(N, 1/N) times: mean 1, variance 1 - 1/N; 1,440 draws.
    assert abs(weights.mean() - 1) < 1e-12 and weights.var() == pytest.approx(1 - 1 / IMAGES, rel=0.15)


@pytest.fixture
def kept(tmp_path: Path):
    """`kept(name, predictions)`: a run's folder with its predictions."""
    annotations = tmp_path / "truth.json"

    def build(name: str, predictions: list[dict], task: str = "coco") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        content = {"schema": 1, "task": task, "annotations_sha256": sha256_file(annotations), "image_ids": [],
                   "categories": [], "predictions": predictions}
        (folder / bootstrap.NAME).write_bytes(gzip.compress(json.dumps(content).encode()))
        (folder / "result.json").write_text(json.dumps({"weights": {"method": name, "epochs": 200}}))
        return folder

    return build


def test_main__a_better_model_is_better_and_the_same_is_the_same(kept, tmp_path: Path, capsys) -> None:
    found = made_up(tmp_path / "truth.json")
    worse = [row | {"bbox": [row["bbox"][0] + 4, *row["bbox"][1:]]} for row in found]
    one, other = kept("good", found), kept("bad", worse)
    words = ["--annotations", str(tmp_path / "truth.json"), "--samples", "200", "--results", str(tmp_path / "results")]
    assert bootstrap.main([str(one), str(other), *words]) == 0
    assert bootstrap.main([str(one), str(one / bootstrap.NAME), *words]) == 0
    told = capsys.readouterr().out
    assert "good 200 minus bad 200: AP bb +" in told and "good 200 minus good 200: AP bb +0.0 [+0.0, +0.0]" in told
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "comparisons").iterdir()]
    better = next(record for record in records if record["names"] == ["good 200", "bad 200"])["outcome"]
    assert set(better) == {"bbox/AP"}  # these have no masks
    better = better["bbox/AP"]
    assert 0 < better["low"] < better["difference"] < better["high"] and better["better"] == 1.0
    assert better["difference"] == pytest.approx(better["first"] - better["second"])


def test_tables__show_the_comparison_and_find_one_that_was_changed(kept, make_result, tmp_path) -> None:
    from benchmarks.records.results import write_result

    found = made_up(tmp_path / "truth.json")
    results = tmp_path / "results"
    bootstrap.main([str(kept("good", found)), str(kept("bad", found[::2])), "--annotations",
                    str(tmp_path / "truth.json"), "--samples", "100", "--results", str(results)])
    for name in ("good", "bad"):
        kept_file = {"file": bootstrap.NAME, "sha256": sha256_file(tmp_path / name / bootstrap.NAME)}
        write_result(results / "runs", make_result(method=name, predictions=kept_file))
    reported = PRINTED / "reported"
    shown = all_tables.read_tables(results, reported).shown()
    assert "Paired bootstrap over the evaluation images (100 samples" in shown
    [path] = (results / "comparisons").iterdir()
    path.write_text(path.read_text().replace('"better": ', '"better": 1'))
    tables = all_tables.read_tables(results, reported)
    assert "Paired" not in tables.shown() and "changed after it was written" in tables.problems[0]


def test_main__runs_that_read_crowds_as_objects(kept, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = made_up(tmp_path / "truth.json")
    folders = [kept(name, found) for name in ("one", "two", "three")]
    for folder in folders[:2]:
        path = folder / bootstrap.NAME
        content = json.loads(gzip.decompress(path.read_bytes()))
        content["annotations_sha256"] = plain_coco.sha256(tmp_path / "truth.json", crowds_as_objects=True)
        path.write_bytes(gzip.compress(json.dumps(content).encode()))
    words = ["--annotations", str(tmp_path / "truth.json"), "--samples", "100", "--results", str(tmp_path / "results")]
    assert bootstrap.main([str(folders[0]), str(folders[1]), *words]) == 0
    with pytest.raises(UserError, match="expected two runs on the same objects, found --crowds-as-objects in one of"):
        bootstrap.main([str(folders[0]), str(folders[2]), *words])


@pytest.mark.parametrize(("change", "said"), [
    ("absent", r"predictions.json.gz: file not found; run the fine-tuning or evaluation with --keep-predictions"),
    ("half", "two/predictions.json.gz: expected kept predictions, found none"),
    ("other", "expected predictions for annotations .*, found some for 000000000000; pass the validation"),
    ("task", "expected one of the tasks coco, keypoints, coco-c4.*, found voc"),
    ("few", "--samples 5: expected at least 100"),
    ("seed", "--seed -1: expected a number from 0"),
    ("list", r"expected one of the tasks coco, keypoints.*, found \['coco'\]"),
    ("truth", "--annotations .*: file not found"), ("empty", "expected detections to compare, found none")])
def test_main__mistakes_are_explained(kept, tmp_path: Path, change: str, said: str) -> None:
    found = made_up(tmp_path / "truth.json")
    one = kept("one", [] if change == "empty" else found)
    other = kept("two", found, {"task": "voc", "list": ["coco"]}.get(change, "coco"))
    file = other / bootstrap.NAME
    if change == "absent":
        file.unlink()
    elif change == "half":
        file.write_bytes(file.read_bytes()[:50])
    elif change == "other":
        content = json.loads(gzip.decompress(file.read_bytes())) | {"annotations_sha256": "0" * 64}
        file.write_bytes(gzip.compress(json.dumps(content).encode()))
    truth = tmp_path / ("absent.json" if change == "truth" else "truth.json")
    with pytest.raises(UserError, match=said):
        bootstrap.main([str(one), str(other), "--annotations", str(truth), "--results", str(tmp_path / "results"),
                        *{"few": ["--samples", "5"], "seed": ["--seed", "-1"]}.get(change, [])])
    assert not (tmp_path / "results").exists()
