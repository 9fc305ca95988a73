"""The fine-tuning learns: from random weights it overfits two generated images, and only with their own labels.

The null: each of the two images is trained with the other one's labels, and evaluated with its own. Everything else
is the same, objects of the two images do not overlap, so that nothing but wrong labels can keep the figure down.
"""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.structures import Boxes, pairwise_iou
from PIL import Image

from benchmarks.demo import demo_data
from transfer.data.dataset import Where
from transfer.finetuning.finetune import Request, finetune

FIGURE = {"coco": "segm/AP50", "keypoints": "keypoints/AP50", "cityscapes": "segm/AP50"}
FILES = {"coco": "instances", "keypoints": "person_keypoints"}
ITERATIONS = {"coco": 160, "keypoints": 240, "cityscapes": 240}
OVERLAP = 0.3  # largest IoU of an object in one image with an object in the other
# The demo's scale with a ResNet-18: under two minutes a run of coco on one core without AVX-512.
SMALL = (
    "SOLVER.BASE_LR=0.02", "SOLVER.WARMUP_ITERS=10", "SOLVER.CHECKPOINT_PERIOD=1000",
    "TEST.PRECISE_BN.NUM_ITER=5", "INPUT.RANDOM_FLIP=none",
)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "demo"
    demo_data.generate(folder, photos=1)
    return folder


def two_images(generated: Path, task: str, output: Path, *, swapped: bool) -> Path:
    """A dataset of the same two images in train and val; `swapped`: in train each has the other's labels."""
    return (_two_streets if task == "cityscapes" else _two_coco)(generated / task, task, output, swapped)


def _pair(boxes: dict[object, list], sizes: dict[object, tuple]) -> tuple:
    """The first two images of one size with objects that do not overlap across them; boxes are XYXY in pixels."""
    for a, b in itertools.combinations(sorted(boxes), 2):
        if sizes[a] == sizes[b] and boxes[a] and boxes[b]:
            overlaps = pairwise_iou(Boxes(np.array(boxes[a], dtype=np.float32)),
                                    Boxes(np.array(boxes[b], dtype=np.float32)))
            if overlaps.max() < OVERLAP:
                return a, b
    raise AssertionError("no pair of generated images fits")


def _two_coco(source: Path, task: str, output: Path, swapped: bool) -> Path:
    content = json.loads((source / "annotations" / f"{FILES[task]}_train.json").read_text())
    rows = {image["id"]: [row for row in content["annotations"] if row["image_id"] == image["id"]]
            for image in content["images"]}
    rows = {number: own for number, own in rows.items() if not any(row["iscrowd"] for row in own)}
    boxes = {number: [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in own)]
             for number, own in rows.items()}
    pair = _pair(boxes, {image["id"]: (image["width"], image["height"]) for image in content["images"]})
    (output / "annotations").mkdir(parents=True)
    shutil.copytree(source / "images", output / "images")
    for split in ("train", "val"):
        other = dict(zip(pair, reversed(pair) if swapped and split == "train" else pair, strict=True))
        kept = [{**row, "image_id": other[number]} for number in pair for row in rows[number]]
        half = {**content, "images": [image for image in content["images"] if image["id"] in pair], "annotations": kept}
        (output / "annotations" / f"{FILES[task]}_{split}.json").write_text(json.dumps(half))
    return output


def _two_streets(source: Path, task: str, output: Path, swapped: bool) -> Path:
    boxes, sizes = {}, {}
    for path in source.glob("gtFine/train/*/*_instanceIds.png"):
        with Image.open(path) as image:
            numbers = np.asarray(image)
        places = [np.nonzero(numbers == number) for number in np.unique(numbers) if number >= 1000]
        boxes[path] = [[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in places]
        sizes[path] = numbers.shape
    pair = _pair(boxes, sizes)
    stems = [path.name.removesuffix("gtFine_instanceIds.png") for path in pair]
    for split, (number, stem) in itertools.product(("train", "val"), enumerate(stems)):
        labelled = 1 - number if swapped and split == "train" else number
        images, labels = output / "leftImg8bit" / split / "two", output / "gtFine" / split / "two"
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        image = next(source.glob(f"leftImg8bit/train/*/{stem}leftImg8bit.png"))
        shutil.copy(image, images / f"two_{number:06}_000000_leftImg8bit.png")
        for file in pair[labelled].parent.glob(f"{stems[labelled]}gtFine_*"):
            shutil.copy(file, labels / f"two_{number:06}_000000_{file.name.removeprefix(stems[labelled])}")
    return output


def figure(task: str, data: Path, output: Path, *overrides: str) -> float:
    """AP50 in percent after one run."""
    iterations = ITERATIONS[task]
    schedule = (f"SOLVER.MAX_ITER={iterations}", f"SOLVER.STEPS={iterations * 5 // 6},")
    request = Request(task=task, weights="random", data=Where(data, same_images=True), output=output, scale="demo",
                      architecture="resnet18", device="cpu", overrides=SMALL + schedule + overrides)
    return finetune(request)["metrics"][FIGURE[task]]


def losses(output: Path) -> list[float]:
    """The total loss, from first to last line of metrics.json."""
    return [json.loads(line)["total_loss"] for line in (output / "metrics.json").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["coco", *(pytest.param(task, marks=pytest.mark.longest)
                                           for task in ("keypoints", "cityscapes"))])
def test_finetune__overfits_two_images_with_their_labels_only(task: str, generated: Path, tmp_path: Path) -> None:
    data = two_images(generated, task, tmp_path / "data", swapped=False)
    wrong = two_images(generated, task, tmp_path / "wrong", swapped=True)
    before = figure(task, data, tmp_path / "before", "SOLVER.MAX_ITER=0")
    after = figure(task, data, tmp_path / "after")
    null = figure(task, wrong, tmp_path / "null")
    print(f"AP50 before {before:.1f}, after {after:.1f}, with the other image's labels {null:.1f}")
    assert before < 5 and after > 50 and null < 5
    # The null is one of labels, not of training: what it was given it did learn.
    assert losses(tmp_path / "null")[-1] < losses(tmp_path / "null")[0] / 2
