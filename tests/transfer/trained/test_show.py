"""Figures of a finished run: on its data, on photographs, and what is refused in one line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from benchmarks.demo import demo_data
from pretrain.common.errors import UserError
from tests.transfer.resolved import resolve
from transfer.__main__ import main
from transfer.data.dataset import SPLITS
from transfer.finetuning import drawing
from transfer.settings import datasets
from transfer.trained import show

THIN = ("MODEL.FPN.OUT_CHANNELS=16", "MODEL.ROI_BOX_HEAD.CONV_DIM=16", "MODEL.ROI_BOX_HEAD.FC_DIM=32",
        "MODEL.ROI_MASK_HEAD.CONV_DIM=16", "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS=16,", "INPUT.MIN_SIZE_TEST=64")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "demo"
    demo_data.generate(folder, photos=2, train=1, val=4)
    return folder


def finished(folder: Path, data: Path, task: str) -> Path:
    """What a finished fine-tuning leaves behind, without the training."""
    dataset = datasets.find(data, task)
    cfg = resolve(dataset, "4conv1fc" if task == "coco" else "2fc", "demo", THIN, architecture="resnet18")
    folder.mkdir()
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict(), "iteration": 0}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "request.json").write_text(json.dumps({"task": task, "dataset": datasets.describe(dataset)}))
    return folder


@pytest.fixture(scope="module")
def coco_run(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("run") / "coco", generated / "coco", "coco")


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["transfer", "show", "--device", "cpu", *map(str, words)])
    return main()


def test_show__truth_left_and_predictions_right(
    generated: Path, coco_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ("--model", coco_run, "--data", generated / "coco", "--images", 1, "--score", 0)
    assert call(monkeypatch, *words, "--output", tmp_path / "a.png") == 0
    assert f"wrote {tmp_path / 'a.png'}: 0000001" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 2 * drawing.WIDTH and drawing.BAR < image.height <= drawing.BAR + drawing.TALLEST
        left, right = np.asarray(image)[drawing.BAR:, :drawing.WIDTH], np.asarray(image)[drawing.BAR:, drawing.WIDTH:]
    assert (left != right).any()
    assert call(monkeypatch, *words, "--output", tmp_path / "b.png") == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_show__photographs_need_no_annotations(
    generated: Path, coco_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(monkeypatch, "--model", coco_run, "--photos", generated / "photos", "--images", 1,
                "--output", tmp_path / "a.png") == 0
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == drawing.WIDTH


class Perfect(torch.nn.Module):
    """Predicts the ground truth of the one image it is asked about, with full confidence."""

    def __init__(self, record: dict) -> None:
        super().__init__()
        self.record = record

    def forward(self, batch: list[dict]) -> list[dict]:
        rows = [row for row in self.record["annotations"] if not row["iscrowd"]]
        boxes = [BoxMode.convert(row["bbox"], row["bbox_mode"], BoxMode.XYXY_ABS) for row in rows]
        points = torch.tensor([row["keypoints"] for row in rows], dtype=torch.float32).view(len(rows), -1, 3)
        return [{"instances": Instances(
            (self.record["height"], self.record["width"]), pred_boxes=Boxes(torch.tensor(boxes)),
            scores=torch.ones(len(rows)), pred_classes=torch.zeros(len(rows), dtype=torch.long),
            pred_keypoints=points)}]


def orange(image: np.ndarray) -> int:
    """Pixels of the skeletons' colour, (255, 160, 0)."""
    return int((np.abs(image[..., :3].astype(int) - (255, 160, 0)).max(-1) < 12).sum())


def test_draw_predicted__skeletons_of_predictions_too(generated: Path) -> None:
    dataset = datasets.find(generated / "keypoints", "keypoints")
    cfg = resolve(dataset, "2fc", "demo", THIN, architecture="resnet18")
    _, name = datasets.register(dataset)
    record = max(DatasetCatalog.get(name), key=lambda record: sum(map(len, record["annotations"])))
    seen = drawing.predicted(Perfect(record), cfg, [record])
    image = np.asarray(drawing.draw_predicted(seen, cfg, MetadataCatalog.get(name)))
    left, right = image[:, :drawing.WIDTH], image[:, drawing.WIDTH:]
    assert orange(left) > 100 and 0.5 < orange(right) / orange(left) < 2


@pytest.mark.slow
@pytest.mark.parametrize("task", ["keypoints", "cityscapes"])
def test_show__other_tasks(generated: Path, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(tmp_path / "run", generated / task, task)
    for place in (("--data", generated / task), ("--photos", generated / "photos")):
        for half in SPLITS:  # a new process knows no dataset
            if f"{task}_{half}" in DatasetCatalog.list():
                DatasetCatalog.remove(f"{task}_{half}")
                MetadataCatalog.remove(f"{task}_{half}")
        assert call(monkeypatch, "--model", run, *place, "--images", 2, "--output", tmp_path / "a.png") == 0
        assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.parametrize(("words", "text"), [
    (("--model", "{none}", "--photos", "{photos}"), "is not a folder: expected one that `clove finetune`"),
    (("--model", "{photos}", "--photos", "{photos}"), "has no config.yaml, request.json, model_final.pth: expected"),
    (("--model", "{run}", "--data", "{none}"), "is not a folder: expected the data of task coco"),
    (("--model", "{run}", "--photos", "{none}"), "does not exist: expected a folder of images"),
    (("--model", "{run}", "--photos", "{photos}", "--score", "50"), "--score 50: expected 0 to 1"),
    (("--model", "{run}", "--photos", "{photos}", "--images", "0"), "--images 0: expected at least 1"),
    (("--model", "{run}", "--photos", "{photos}", "--only", "x.jpg"), "--only x.jpg: none of the 2 images has this"),
])
def test_show__mistakes_are_one_line(
    generated: Path, coco_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple, text: str
) -> None:
    places = {"none": tmp_path / "none", "photos": generated / "photos", "run": coco_run}
    with pytest.raises(UserError, match=text):
        call(monkeypatch, *(word.format(**places) for word in words), "--output", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_show__output_must_be_a_png(
    generated: Path, coco_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"folder.png: expected a file name that ends in .png, found a folder$"):
        call(monkeypatch, "--model", coco_run, "--photos", generated / "photos", "--output", tmp_path / "folder.png")
    with pytest.raises(UserError, match=r"--output a.jpg: expected a file name that ends in .png"):
        call(monkeypatch, "--model", coco_run, "--photos", generated / "photos", "--output", "a.jpg")


def test_read_run__an_unfinished_run_says_how_far_it_is(coco_run: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "request.json"):
        (tmp_path / name).write_bytes((coco_run / name).read_bytes())
    with pytest.raises(UserError, match="not finished .*it has no checkpoint.*same fine-tuning again"):
        show.read_run(tmp_path)
    (tmp_path / "model_0000099.pth").touch()
    with pytest.raises(UserError, match=r"its newest checkpoint is model_0000099.pth"):
        show.read_run(tmp_path)


def test_load_model__a_damaged_file_and_another_model_are_told(coco_run: Path, tmp_path: Path) -> None:
    cfg, _ = show.read_run(coco_run)
    for content, said in ((b"", r"is empty \(0 bytes\)"), (b"PK damaged", "cannot be read|begins like a PyTorch file")):
        (tmp_path / "model_final.pth").write_bytes(content)
        with pytest.raises(UserError, match=f"model_final.pth ({said})"):
            show.load_model(tmp_path, cfg, "cpu")
    torch.save({"model": {"conv1.weight": torch.zeros(1)}}, tmp_path / "model_final.pth")
    with pytest.raises(UserError, match=r"expected the \d+ tensors of the model that config.yaml describes in "):
        show.load_model(tmp_path, cfg, "cpu")


def test_load_model__a_run_of_several_processes_is_shown_by_one(coco_run: Path) -> None:
    cfg, _ = show.read_run(coco_run)
    cfg.defrost()
    cfg.MODEL.ROI_BOX_HEAD.NORM = "naiveSyncBN"
    model = show.load_model(coco_run, cfg, "cpu")
    assert not any("Sync" in type(module).__name__ for module in model.modules())


def test_other_classes_are_refused(generated: Path, coco_run: Path, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    request = json.loads((coco_run / "request.json").read_text())
    request["dataset"]["classes"] = ["cat", "dog"]
    for name in ("config.yaml", "model_final.pth"):
        (tmp_path / name).symlink_to(coco_run / name)
    (tmp_path / "request.json").write_text(json.dumps(request))
    with pytest.raises(UserError, match="the data has the classes disc, plank, triangle, star, the model was trained "
                                        "for cat, dog: expected the same"):
        call(monkeypatch, "--model", tmp_path, "--data", generated / "coco", "--output", tmp_path / "a.png")


def test_choose__by_number_name_and_id() -> None:
    records = [{"file_name": f"/d/{number}.jpg", "image_id": 10 * number, "annotations": [1] * (number % 2)}
               for number in range(1, 6)]
    assert [record["image_id"] for record in show.choose(records, 2, None)] == [10, 30]
    assert [record["image_id"] for record in show.choose(records, 1, "4.jpg, 20,3")] == [40, 20, 30]
    with pytest.raises(UserError, match="--only ,: none of the 5 images has this name or id; there are 1.jpg, 2.jpg"):
        show.choose(records, 1, ",")


@pytest.mark.parametrize(("score", "scores", "kept", "rule"), [
    (None, [0.9, 0.5, 0.2], 2, "predicted: 2 with a score from 0.5"),
    (None, [0.4, 0.1, 0.3, 0.2], 3, "predicted: no score from 0.5; the 3 best of 4"),
    (None, [], 0, "predicted: nothing"),
    (0.8, [0.7], 0, "predicted: none of 1 with a score from 0.8"),
])
def test_choose__which_predictions_are_drawn(score: float | None, scores: list, kept: int, rule: str) -> None:
    instances = Instances((8, 8), pred_boxes=Boxes(torch.zeros(len(scores), 4)), scores=torch.tensor(scores))
    shown, text = drawing.choose(instances, score)
    assert len(shown) == kept and text == rule
    assert shown.scores.tolist() == sorted(shown.scores.tolist(), reverse=True)


def test_canvas__a_class_has_one_colour_and_labels_stay_inside() -> None:
    placed = []
    canvas = drawing._Canvas(np.zeros((60, 80, 3), np.uint8), Metadata(thing_classes=["cell", "platelet"]), [0, 1, 0])
    assert canvas.colours[0] == canvas.colours[2] != canvas.colours[1]
    canvas.output.ax.text = lambda x, y, text, **_: placed.append((x, y))
    canvas.draw_text("platelet 54%", (79, 59), font_size=3)
    height = 3 * drawing.DPI / 72
    assert placed == [(pytest.approx(80 - drawing.LETTER * height * 12), pytest.approx(60 - 1.2 * height))]
    alone = drawing._Canvas(np.zeros((60, 80, 3), np.uint8), Metadata(thing_classes=["cell"]), [0, 0])
    assert alone.colours[0] != alone.colours[1]
