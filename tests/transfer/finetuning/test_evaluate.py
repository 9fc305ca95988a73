"""The evaluators: ground truth against itself is 100, and every figure gets its name."""

import json
import math
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from benchmarks.demo import demo_data
from tests.transfer.resolved import resolve
from transfer import detectron2_compat, tasks
from transfer.data.dataset import Where
from transfer.finetuning import evaluate
from transfer.settings import datasets

detectron2_compat.apply()


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "demo"
    demo_data.generate(folder, photos=1, train=2, val=4)
    return folder


def _mask(record: dict, row: dict) -> torch.Tensor:
    """[H, W] boolean, as pycocotools draws it."""
    runs = row["segmentation"]
    if isinstance(runs, list):
        runs = mask_util.merge(mask_util.frPyObjects(runs, record["height"], record["width"]))
    return torch.from_numpy(mask_util.decode(runs).astype(bool))


def _street_masks(record: dict) -> tuple[list[torch.Tensor], list[int]]:
    """The instances of one Cityscapes image from its instanceIds: ([H, W] masks, contiguous classes)."""
    from transfer.data.cityscapes import instance_labels

    classes = {label.id: number for number, label in enumerate(instance_labels())}
    path = record["file_name"].replace("leftImg8bit", "gtFine", 1).replace("leftImg8bit", "gtFine_instanceIds")
    with Image.open(path) as image:
        numbers = np.asarray(image)
    kept = [number for number in np.unique(numbers) if number >= 1000 and number // 1000 in classes]
    return [torch.from_numpy(numbers == number) for number in kept], [classes[number // 1000] for number in kept]


def truth(task: str, record: dict) -> Instances:
    """The annotations of one image as if a model had predicted them, all with score 1; groups and crowds left out."""
    instances = Instances((record["height"], record["width"]))
    rows = [row for row in record["annotations"] if not row.get("iscrowd")]
    if task == "keypoints":  # persons without a labelled keypoint are not counted: nobody knows what to predict
        rows = [row for row in rows if any(row["keypoints"][2::3])]
    if task == "cityscapes":
        masks, classes = _street_masks(record)
        instances.pred_masks = torch.stack(masks) if masks else torch.zeros((0, *instances.image_size), dtype=bool)
    else:
        classes = [row["category_id"] for row in rows]
        boxes = [BoxMode.convert(row["bbox"], row["bbox_mode"], BoxMode.XYXY_ABS) for row in rows]
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        if task == "keypoints":
            points = torch.tensor([row["keypoints"] for row in rows], dtype=torch.float32)
            instances.pred_keypoints = points.reshape(len(rows), -1, 3)
        elif task != "voc":
            masks = [_mask(record, row) for row in rows]
            instances.pred_masks = torch.stack(masks) if masks else torch.zeros((0, *instances.image_size), dtype=bool)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    instances.scores = torch.ones(len(classes))
    return instances


def score(task: str, generated: Path, keep: float = 1.0, shift: int = 0) -> tuple[dict, dict]:
    """(columns, other metrics) of the ground truth as predictions: the first `keep` of each image, masks and boxes
    `shift`ed right."""
    if task == "lvis":
        pytest.importorskip("lvis", reason="task lvis needs the package lvis: pip install --no-deps lvis")
    own = generated / tasks.get(task).demo_layout
    dataset = datasets.find(own if own.is_dir() else generated, task)
    _, name = datasets.register(dataset)
    evaluator = tasks.get(task).evaluator(dataset, get_cfg())
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        instances = truth(task, record)
        instances = instances[:math.ceil(keep * len(instances))]
        if shift and instances.has("pred_masks"):
            instances.pred_masks = torch.roll(instances.pred_masks, shift, dims=2)
        evaluator.process([record], [{"instances": instances}])
    metrics = evaluate.all_metrics(evaluator.evaluate())
    columns = {column.metric for column in tasks.get(task).columns}
    return evaluate.columns(task, metrics), {key: value for key, value in metrics.items() if key not in columns}


@pytest.mark.parametrize("task", tuple(tasks.TASKS))
def test_evaluate__ground_truth_against_itself_is_100(task: str, generated: Path) -> None:
    metrics, details = score(task, generated)
    assert set(metrics) == {column.name for column in tasks.get(task).columns}
    assert metrics == pytest.approx(dict.fromkeys(metrics, 100.0))
    defined = [value for value in details.values() if value is not None]
    assert defined == pytest.approx([100.0] * len(defined)) and defined


@pytest.mark.parametrize("task", tuple(tasks.TASKS))
def test_evaluate__every_dataset_that_a_config_names_has_a_loader_and_an_evaluator(task: str, generated: Path) -> None:
    if task == "lvis":
        pytest.importorskip("lvis", reason="task lvis needs the package lvis: pip install --no-deps lvis")
    dataset = datasets.find(generated / tasks.get(task).demo_layout, task)
    datasets.register(dataset)
    cfg = resolve(dataset, tasks.get(task).default_heads, "full")
    for name, split in zip((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), (dataset.train, dataset.val), strict=True):
        assert len(DatasetCatalog.get(name)) == split.images > 0
    assert hasattr(tasks.get(task).evaluator(dataset, cfg), "evaluate")


@pytest.mark.parametrize("task", tuple(tasks.TASKS))
def test_evaluate__half_of_the_ground_truth_is_less(task: str, generated: Path) -> None:
    metrics, _ = score(task, generated, keep=0.5)
    assert all(0 < value < 100 for value in metrics.values())


@pytest.mark.parametrize(("task", "name"), [("coco", "AP_mb"), ("cityscapes", "AP"), ("lvis", "AP_mb")])
def test_evaluate__masks_elsewhere_are_worth_nothing(task: str, name: str, generated: Path) -> None:
    metrics, _ = score(task, generated, shift=60)
    assert metrics[name] < 5


@pytest.mark.parametrize("task", tuple(tasks.TASKS))
def test_evaluate__no_detection_is_zero_not_undefined(task: str, generated: Path) -> None:
    metrics, details = score(task, generated, keep=0.0)
    assert metrics == dict.fromkeys((column.name for column in tasks.get(task).columns), 0.0)
    assert all(value is None or value == 0.0 for value in details.values())


def test_evaluate__lvis_classes_average_to_the_figure_of_all(generated: Path) -> None:
    metrics, details = score("lvis", generated, keep=0.5)
    for group, name in (("bbox", "AP_bb"), ("segm", "AP_mb")):
        classes = [value for key, value in details.items() if key.startswith(f"{group}/AP-") and value is not None]
        assert len(set(classes)) > 1 and sum(classes) / len(classes) == pytest.approx(metrics[name])


def test_evaluate__details_have_sizes_and_classes(generated: Path) -> None:
    _, coco = score("coco", generated)
    assert {"bbox/APs", "segm/APm", "bbox/AP-disc", "segm/AP-star"} <= set(coco)
    _, people = score("keypoints", generated)
    assert {"bbox/AP", "bbox/AP50", "keypoints/APm"} <= set(people)
    _, streets = score("cityscapes", generated)
    assert {"segm/AP-car", "segm/AP50-bicycle"} <= set(streets)
    _, voc = score("voc", generated)
    assert len(voc) == 40 and voc["bbox/AP-sofa"] is voc["bbox/AP50-sofa"] is None  # shapes borrow four other names
    assert voc["bbox/AP-train"] == voc["bbox/AP50-train"] == pytest.approx(100)


def test_evaluate__lvis_details_have_sizes_and_frequencies(generated: Path) -> None:
    _, details = score("lvis", generated)
    assert {key for key in details if "/AP-" not in key} == {
        f"{group}/AP{kind}" for group in ("bbox", "segm") for kind in "smlrcf"}
    assert details["bbox/APc"] == details["segm/APf"] == details["segm/APm"] == pytest.approx(100)


def test_evaluate__voc_is_detectron2s_own_mean_over_the_classes_that_are_there(generated: Path) -> None:
    metrics, details = score("voc", generated, keep=0.5)
    present = sum(value is not None for name, value in details.items() if name.startswith("bbox/AP-"))
    evaluator = PascalVOCDetectionEvaluator("voc_val")
    evaluator.reset()
    for record in DatasetCatalog.get("voc_val"):
        instances = truth("voc", record)
        evaluator.process([record], [{"instances": instances[:math.ceil(0.5 * len(instances))]}])
    own = evaluator.evaluate()["bbox"]  # a class without objects counts as 0 there
    assert 1 < present < 20 and 0 < metrics["AP"] < 100
    assert metrics == pytest.approx({name: value * 20 / present for name, value in own.items()})


def test_evaluate__voc_takes_the_11_points_of_2007(tmp_path: Path) -> None:
    objects = "".join(
        f"<object><name>dog</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult><bndbox><xmin>{x}"
        f"</xmin><ymin>1</ymin><xmax>{x + 9}</xmax><ymax>10</ymax></bndbox></object>" for x in (1, 21))
    for year in ("VOC2007", "VOC2012"):
        for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
            (tmp_path / year / name).mkdir(parents=True)
        for listed in ("trainval", "test"):
            (tmp_path / year / "ImageSets/Main" / f"{listed}.txt").write_text("1\n")
        Image.new("RGB", (40, 20)).save(tmp_path / year / "JPEGImages/1.jpg")
        (tmp_path / year / "Annotations/1.xml").write_text(
            f"<annotation><size><width>40</width><height>20</height></size>{objects}</annotation>")
    dataset = datasets.find(Where(tmp_path, same_images=True), "voc")
    _, name = datasets.register(dataset)
    evaluator = tasks.get("voc").evaluator(dataset, get_cfg())
    evaluator.reset()
    record = DatasetCatalog.get(name)[0]
    evaluator.process([record], [{"instances": truth("voc", record)[:1]}])
    # Precision 1 up to a recall of 1/2: six of the points 0, 0.1, ..., 1 are reached; the area would be 1/2.
    assert evaluate.all_metrics(evaluator.evaluate())["bbox/AP50"] == pytest.approx(100 * 6 / 11)


def test_evaluate__cityscapes_leaves_no_file_behind(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    score("cityscapes", generated)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out.strip() == ""


def test_all_metrics__everything_by_its_group_and_undefined_is_null() -> None:
    raw = {"bbox": {"AP": 40.0, "AP50": 60.0, "AP75": 50.0, "APs": float("nan"), "APl": -1.0},
           "segm": {"AP": 30.0, "AP50": 55.0, "AP75": 35.0, "AP-disc": 12.5}}
    metrics = evaluate.all_metrics(raw)
    assert metrics == {"bbox/AP": 40.0, "bbox/AP50": 60.0, "bbox/AP75": 50.0, "bbox/APs": None, "bbox/APl": None,
                       "segm/AP": 30.0, "segm/AP50": 55.0, "segm/AP75": 35.0, "segm/AP-disc": 12.5}
    json.dumps(metrics, allow_nan=False)
    assert evaluate.columns("coco", metrics) == {"AP_bb": 40.0, "AP50_bb": 60.0, "AP75_bb": 50.0, "AP_mb": 30.0,
                                                 "AP50_mb": 55.0, "AP75_mb": 35.0}


def test_columns__those_of_the_task_in_its_order_and_a_dash_for_what_was_not_measured() -> None:
    persons = {"bbox/AP": 1.0, "keypoints/AP50": 2.0, "keypoints/AP": 3.0}
    assert evaluate.columns("keypoints", persons) == {"AP_kp": 3.0, "AP50_kp": 2.0, "AP75_kp": None}
    assert evaluate.in_words("keypoints", persons) == "AP_kp 3.0, AP50_kp 2.0, AP75_kp -"


@pytest.mark.parametrize(("task", "folder"), [("coco", "coco_mini"), ("keypoints", "keypoints_mini"),
                                              ("coco", "nuclei")])
def test_evaluate__ground_truth_of_real_images_is_100(task: str, folder: str, shared_data: Path) -> None:
    metrics, _ = score(task, shared_data / folder)
    assert metrics == pytest.approx(dict.fromkeys(metrics, 100.0), abs=1e-6)


@pytest.mark.parametrize(("value", "recorded"), [(None, None), (float("nan"), None), (-1.0, None), (0.0, 0.0),
                                                 (np.float64(12.5), 12.5)])
def test_percent__plain_or_null(value: float | None, recorded: float | None) -> None:
    assert evaluate.percent(value) == recorded and type(evaluate.percent(value)) in (float, type(None))
