"""The order of the images and their random crops: a function of seed and place, with any number of workers."""

import itertools
import logging
import random
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build, build_detection_test_loader
from detectron2.data.samplers import TrainingSampler

from benchmarks.demo import demo_data
from pretrain.common.errors import UserError
from tests.transfer.resolved import resolve
from transfer.finetuning import training_images
from transfer.settings import datasets

WIDE = [True, True, False, True, False, True, True]


def take(size: int, seed: int = 1, skip: int = 0, number: int = 12) -> list[list[training_images.Draw]]:
    return list(itertools.islice(training_images.Batches(WIDE, size, seed, skip), number))


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    """The demo's settings on three registered pictures."""
    demo_data.generate(tmp_path / "demo", photos=1, train=3, val=2)
    dataset = datasets.find(tmp_path / "demo/coco", "coco")
    datasets.register(dataset)
    return resolve(dataset, "2fc", "demo", ("INPUT.MIN_SIZE_TRAIN=96,112,128",))  # chosen at random


def test_batches__detectron2s_order_grouped_by_shape() -> None:
    batches = take(2)
    assert all(WIDE[a] == WIDE[b] for (_, a), (_, b) in batches)
    order = list(itertools.islice(TrainingSampler(len(WIDE), seed=1), 40))
    assert all(order[place] == index for batch in batches for place, index in batch)
    used = sorted(place for batch in batches for place, _ in batch)
    assert used[:20] == list(range(20))  # nothing is left out, a group only waits until it is full
    assert [[index] for index in order[:12]] == [[index for _, index in batch] for batch in take(1)]


def test_batches__go_on_exactly_where_they_were_left() -> None:
    assert take(3, skip=5, number=7) == take(3)[5:]
    assert take(3, seed=2) != take(3)  # a trial is another order


def test_batches__images_with_rare_classes_come_as_often_as_their_factor_says() -> None:
    repeats = torch.tensor([1.0, 1, 1, 4, 1, 1, 2.5])
    batches = itertools.islice(training_images.Batches(WIDE, 1, 0, 0, repeats), 2000)
    counts = torch.bincount(torch.tensor([index for [(_, index)] in batches]), minlength=7)
    assert torch.allclose(counts / counts.sum(), repeats / repeats.sum(), atol=0.02)


def test_train_loader__repeats_what_the_config_says(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(training_images, "Batches", lambda *words: seen.append(words[4]) or [])
    training_images.train_loader(cfg, 0, 0)
    rare = cfg.clone()
    rare.defrost()
    rare.DATALOADER.SAMPLER_TRAIN, rare.DATALOADER.REPEAT_THRESHOLD = "RepeatFactorTrainingSampler", 4.0
    training_images.train_loader(rare, 0, 0)
    records = [{row["category_id"] for row in record["annotations"]} for record in DatasetCatalog.get("coco_train")]
    records = [classes for classes in records if classes]
    share = {number: sum(number in classes for classes in records) / len(records) for number in set.union(*records)}
    expected = [max((4.0 / share[number]) ** 0.5 for number in classes) for classes in records]
    assert seen[0] is None and seen[1].tolist() == pytest.approx(expected) and max(expected) > 2


@pytest.mark.parametrize(("filter_empty", "points"), [(True, 0), (True, 1), (True, 3), (False, 2)])
def test_keeps__is_detectron2s_choice(filter_empty: bool, points: int) -> None:
    rng = random.Random(0)
    records = []
    for number in range(200):
        rows = [{"iscrowd": rng.randrange(2), "keypoints": [rng.randrange(3) for _ in range(6)]}
                for _ in range(rng.randrange(4))]
        for row in rows[1:]:
            del row["keypoints" if rng.random() < 0.5 else "iscrowd"]
        records.append({"number": number, "annotations": rows})
    expected = build.filter_images_with_only_crowd_annotations(records) if filter_empty else records
    if points:
        expected = build.filter_images_with_few_keypoints(expected, points)
    assert [record for record in records if training_images.keeps(record, filter_empty, points)] == expected


def test_train_loader__keeps_one_copy_of_the_records(cfg: CfgNode) -> None:
    first, second = training_images.train_loader(cfg, 0, 0), training_images.train_loader(cfg, 0, 1)
    packed = DatasetCatalog.get("coco_train")
    assert first.dataset.records.dataset is second.dataset.records.dataset is packed
    assert packed[0] is not packed[0]  # bytes, not objects
    validation = build_detection_test_loader(cfg, "coco_val", mapper=lambda record: record)
    assert validation.dataset._dataset is DatasetCatalog.get("coco_val")


@pytest.mark.parametrize("workers", [0, 2])
def test_train_loader__resumed_equals_uninterrupted_with_any_number_of_workers(cfg: CfgNode, workers: int) -> None:
    def pictures(workers: int, seed: int, skip: int, number: int) -> list[torch.Tensor]:
        loader = training_images.train_loader(cfg, workers, seed, skip)
        return [row["image"] for batch in itertools.islice(loader, number) for row in batch]

    whole = pictures(0, 5, 0, 6)
    assert len({tuple(picture.shape) for picture in whole}) > 1  # crops are drawn
    rest = pictures(workers, 5, 4, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole[8:], rest, strict=True))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(whole[:4], whole[8:], strict=True))


def test_mapped_records__few_unreadable_are_replaced_and_many_stop(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = list(DatasetCatalog.get("coco_train"))
    good, half, empty = (record["file_name"] for record in records)
    content = Path(half).read_bytes()
    Path(half).write_bytes(content[: len(content) // 2])  # a whole header, half of the pixels
    Path(empty).write_bytes(b"")
    logging.getLogger("detectron2").propagate = True
    few = training_images.MappedRecords(cfg, records[:2], seed=0)
    with caplog.at_level(logging.WARNING, logger="detectron2"):
        assert [few[place, 1]["file_name"] for place in range(3)] == [good] * 3  # one image, however often it comes
    assert f"left out {half}" in caplog.text
    many = training_images.MappedRecords(cfg, records, seed=0)
    with pytest.raises(UserError, match=r"2 of 3 training images cannot be read, among them .*expected at most 1%"):
        for place in range(20):
            many[place, 1 + place % 2]
    monkeypatch.setattr(training_images, "UNREADABLE_SHARE", 0.7)
    tolerant = training_images.MappedRecords(cfg, records, seed=0)
    assert all(tolerant[place, 1 + place % 2]["file_name"] == good for place in range(20))
