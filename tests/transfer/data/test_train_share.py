"""A fixed share of the training images: which ones, whatever the machine and the order."""

import hashlib
import itertools
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog

from tests.transfer.annotations.test_lvis_json import needs_lvis
from transfer import detectron2_compat, tasks
from transfer.data import train_share
from transfer.settings import datasets
from transfer.tasks import Where

ROOT = Path("/data/images")
NAMES = [f"{folder}/{number:03d}.jpg" for folder in ("a", "b") for number in range(100)]


def records(names: list[str], root: Path = ROOT) -> list[dict]:
    return [{"file_name": str(root / name), "annotations": []} for name in names]


def chosen(share: float, names: list[str] = NAMES, root: Path = ROOT) -> list[str]:
    return [Path(record["file_name"]).relative_to(root).as_posix()
            for record in train_share.choose(records(names, root), root, share)]


def test_choose__the_names_with_the_smallest_hash_in_the_order_of_the_file() -> None:
    smallest = sorted(NAMES, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:50]
    assert chosen(0.25) == [name for name in NAMES if name in smallest]


@pytest.mark.parametrize(("share", "count"), [(0.25, 50), (0.1, 20), (0.001, 1), (1.0, 200), (0.0126, 3)])
def test_choose__as_many_as_asked_for_and_at_least_one(share: float, count: int) -> None:
    assert len(chosen(share)) == count


def test_choose__smaller_shares_are_part_of_larger_ones() -> None:
    shares = [set(chosen(percent / 100)) for percent in range(1, 101)]
    assert all(small <= large for small, large in itertools.pairwise(shares))


def test_choose__order_and_machine_do_not_matter() -> None:
    assert set(chosen(0.3, NAMES[::-1])) == set(chosen(0.3)) == set(chosen(0.3, root=Path("elsewhere")))


def test_choose__a_name_outside_the_image_folder_counts_by_its_last_part() -> None:
    there, here = (records(NAMES, Path(place)) for place in ("/one/machine", "/another"))
    taken = [[Path(record["file_name"]).name for record in train_share.choose(some, ROOT, 0.3)]
             for some in (there, here)]
    assert taken[0] == taken[1] and len(taken[0]) == 60


@pytest.mark.parametrize(("row", "teaches"), [
    ({"bbox": [0, 0, 1, 1]}, True), ({"iscrowd": 0}, True), ({"iscrowd": 1}, False),
    ({"iscrowd": 0, "keypoints": [0, 0, 0, 5, 5, 2]}, True), ({"iscrowd": 0, "keypoints": [0, 0, 0, 5, 5, 0]}, False)])
def test_teaches__an_object_to_learn_from(row: dict, teaches: bool) -> None:
    assert train_share.teaches({"annotations": [row]}) is teaches
    assert not train_share.teaches({"annotations": []})


@pytest.mark.parametrize("task", [*(name for name in tasks.TASKS if name != "lvis"),
                                  pytest.param("lvis", marks=needs_lvis)])
def test_share__of_every_tasks_images(task: str, small_data: Path) -> None:
    detectron2_compat.apply()
    folder = small_data / tasks.get(task).demo_layout
    whole, part = (datasets.find(Where(folder, train_share=share), task) for share in (1.0, 0.67))
    assert (whole.train.images, part.train.images, part.val) == (3, 2, whole.val)
    names, _ = datasets.register(whole)
    everything = {record["file_name"] for record in DatasetCatalog.get(names)}
    names, _ = datasets.register(part)
    assert {record["file_name"] for record in DatasetCatalog.get(names)} < everything
    assert len(DatasetCatalog.get(names)) == 2
