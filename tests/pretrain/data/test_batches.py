"""Images as a stream: replacements, batches, and an order that any number of processes repeats."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pretrain.common.errors import UserError
from pretrain.config import Config
from pretrain.data import shards
from pretrain.data.batches import (
    REPLACEMENTS,
    Batch,
    MicroBatchOrder,
    ViewDataset,
    images_at_once,
    list_images,
    make_loader,
    steps_per_epoch,
)
from pretrain.distributed import Process
from pretrain.options.shared_options import Train

CPU = torch.device("cpu")
ALONE = Process(0, 1, CPU)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.fixture
def small() -> Train:
    return replace(Train(), global_size=32, local_size=16, local_views=2, batch_size=4)


def test_dataset__corrupt_image_is_replaced_and_reported(tmp_path: Path, make_photos: Callable, small: Train) -> None:
    folder = make_photos(tmp_path, 4)
    (folder / "01.png").write_bytes(b"no image")
    (folder / "02.png").write_bytes((folder / "02.png").read_bytes()[:200])
    dataset = ViewDataset(list_images(folder), small)
    item = dataset[0, 1]
    assert item.name == "03.png" and sorted(item.unreadable) == ["01.png", "02.png"]
    assert all("cannot be decoded" in why for why in item.unreadable.values())
    batch = dataset.collate([dataset[0, 0], dataset[0, 1]])
    assert batch.names == ["00.png", "03.png"] and sorted(batch.unreadable) == ["01.png", "02.png"]


def test_dataset__last_image_is_replaced_by_the_first(tmp_path: Path, make_photos: Callable, small: Train) -> None:
    folder = make_photos(tmp_path, 3)
    (folder / "02.png").write_bytes(b"no image")
    assert ViewDataset(list_images(folder), small)[0, 2].name == "00.png"


def test_dataset__more_in_a_row_than_ten_where_the_share_allows_it(
    tmp_path: Path, make_photos: Callable, small: Train
) -> None:
    folder = make_photos(tmp_path, 30)
    for number in range(REPLACEMENTS + 2):
        (folder / f"{number:02d}.png").write_bytes(b"")
    allowed = replace(small, max_corrupt_share=0.5)
    assert ViewDataset(list_images(folder), allowed)[0, 0].name == f"{REPLACEMENTS + 2:02d}.png"
    with pytest.raises(UserError, match=f"^{REPLACEMENTS} images in a row cannot be read"):
        ViewDataset(list_images(folder), small)[0, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_loader__too_many_unreadable_in_a_row_is_one_line(tmp_path: Path, tiny: Callable[..., Config],
                                                          workers: int) -> None:
    touch(tmp_path, *(f"{number:02d}.jpg" for number in range(12)))
    config = tiny(workers=workers)
    loader = make_loader(list_images(tmp_path), config, range(1), ALONE)
    with pytest.raises(UserError) as error:
        next(loader)
    text = str(error.value)
    assert text.startswith(f"{REPLACEMENTS} images in a row cannot be read in {tmp_path}, the first is ")
    assert "\n" not in text


def test_collate__shapes_and_order(tmp_path: Path, make_photos: Callable, small: Train) -> None:
    folder = make_photos(tmp_path, 3)
    dataset = ViewDataset(list_images(folder), small)
    items = [dataset[0, index] for index in (2, 0, 1)]
    batch = dataset.collate(items)
    assert [tuple(group.shape) for group in batch.views] == [(2, 3, 3, 32, 32), (2, 3, 3, 16, 16)]
    assert [tuple(group.shape) for group in batch.boxes] == [(2, 3, 4), (2, 3, 4)]
    assert batch.sizes.tolist() == [[80, 60], [80, 60], [60, 72]]
    assert batch.names == ["02.png", "00.png", "01.png"] and batch.unreadable == {}
    for image in range(3):
        for view in range(4):
            group, at = divmod(view, 2)
            assert np.array_equal(batch.views[group][at, image], items[image][0][view])
            assert np.array_equal(batch.boxes[group][at, image], items[image][1][view])


def test_steps_per_epoch__drops_the_incomplete_batch() -> None:
    train = replace(Train(), batch_size=8)
    assert [steps_per_epoch(images, train) for images in (8, 15, 16)] == [1, 1, 2]


def test_steps_per_epoch__batch_larger_than_the_folder() -> None:
    with pytest.raises(UserError, match=r"batch_size 64 needs at least as many images, found 20: use a smaller "
                                        r"batch_size, for example 5, or more images"):
        steps_per_epoch(20, replace(Train(), batch_size=64))


def order(images: int, train: Train, first: int, last: int, rank: int = 0, world: int = 1) -> list:
    sampler = MicroBatchOrder(images, train, 4 // world, range(first, last), Process(rank, world, CPU))
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


@pytest.fixture
def twelve() -> Train:
    return replace(Train(), batch_size=12)


def test_order__each_epoch_is_another_permutation(twelve: Train) -> None:
    batches = order(30, twelve, 0, 6)  # 2 steps of 3 micro-batches an epoch
    epochs = [[item for batch in batches[start:start + 6] for item in batch] for start in (0, 6, 12)]
    for number, epoch in enumerate(epochs):
        assert {at for at, _ in epoch} == {number}
        assert len({index for _, index in epoch}) == 24  # no image twice
    assert [index for _, index in epochs[0]] != [index for _, index in epochs[1]]
    assert order(30, replace(twelve, seed=1), 0, 6) != batches


@pytest.mark.parametrize("world", [2, 4])
def test_order__ranks_together_are_the_single_process(twelve: Train, world: int) -> None:
    single = order(30, twelve, 0, 6)
    ranks = [order(30, twelve, 0, 6, rank, world) for rank in range(world)]
    for number, batch in enumerate(single):
        assert [item for rank in ranks for item in rank[number]] == batch


@pytest.mark.parametrize("step", [1, 2, 5])
def test_order__resumed_is_the_tail(twelve: Train, step: int) -> None:
    assert order(30, twelve, step, 6) == order(30, twelve, 0, 6)[3 * step:]


@pytest.mark.parametrize(("batch_size", "device_batch", "world", "expected"), [
    (2048, 128, 8, 128), (2048, 128, 1, 128), (2048, 128, 2, 128), (2048, 1000, 8, 256), (2048, 100, 4, 64),
    (48, 32, 1, 24), (12, 128, 3, 4), (7, 7, 7, 1)])
def test_images_at_once__accumulation_makes_up_the_batch(batch_size: int, device_batch: int, world: int,
                                                         expected: int) -> None:
    at_once = images_at_once(batch_size, device_batch, world)
    assert at_once == expected and batch_size % (at_once * world) == 0


def test_images_at_once__what_cannot_be_divided_is_told() -> None:
    with pytest.raises(UserError, match=r"batch_size 4 over 3 processes: expected equal shares .* found 1\.33333 "):
        images_at_once(4, 2, 3)
    with pytest.raises(UserError, match=r"batch_size 134 over 2 processes: expected equal shares that a number from "
                                        r"32 to 64 \(device_batch\) divides, found 67 images each; choose another"):
        images_at_once(134, 64, 2)


def equal(one: Batch, other: Batch) -> bool:
    return (one.names == other.names and torch.equal(one.sizes, other.sizes)
            and all(torch.equal(a, b) for a, b in zip(one.views + one.boxes, other.views + other.boxes, strict=True)))


def test_loader__two_workers_and_a_resume_give_the_same_batches(photos: Path, tiny: Callable[..., Config]) -> None:
    names = list_images(photos)

    def batches(workers: int, first: int) -> list[Batch]:
        return list(make_loader(names, tiny(workers=workers, device_batch=2), range(first, 6), ALONE))

    alone = batches(0, 0)
    assert len(alone) == 12
    assert all(equal(*pair) for pair in zip(batches(2, 0), alone, strict=True))
    assert all(equal(*pair) for pair in zip(batches(0, 4), alone[8:], strict=True))
    assert not equal(alone[0], alone[4])


@pytest.mark.parametrize("packed", [False, True])
def test_loader__labels_follow_the_image(tmp_path: Path, make_photos: Callable, tiny: Callable[..., Config],
                                         packed: bool) -> None:
    """With any number of loader processes and of processes, after a resume, from shards, and for an image that stands
    in for one that cannot be read."""
    for number, label in enumerate(("ant", "bee", "cat")):
        make_photos(tmp_path / "photos" / label, 3, seed=number)
    (tmp_path / "photos" / "bee" / "02.png").write_bytes(b"no image")
    folder = tmp_path / "photos"
    if packed:
        shards.pack(folder, tmp_path / "packed", 0.03)
        folder = tmp_path / "packed"
    names = list_images(folder)
    names.label_by("folder")
    assert names.classes == ("ant", "bee", "cat")

    def found(workers: int, first: int, rank: int, world: int) -> list[tuple[str, int]]:
        config = tiny(workers=workers, device_batch=2)
        batches = list(make_loader(names, config, range(first, 6), Process(rank, world, CPU)))
        assert all(batch.labels.dtype == torch.int64 and batch.labels.shape == (2,) for batch in batches)
        return [(name, label) for batch in batches for name, label in
                zip(batch.names, batch.labels.tolist(), strict=True)]

    alone = found(0, 0, 0, 1)
    assert len(alone) == 24 and {label for _, label in alone} == {0, 1, 2}
    assert all(names.classes[label] == name.split("/")[0] for name, label in alone)
    assert all(name != "bee/02.png" for name, _ in alone) and ("cat/00.png", 2) in alone
    assert found(2, 0, 0, 1) == alone and found(0, 3, 0, 1) == alone[12:]
    assert sorted(found(0, 0, 0, 2) + found(1, 0, 1, 2)) == sorted(alone)


def test_loader__without_labels_there_are_none(photos: Path, tiny: Callable[..., Config]) -> None:
    assert next(make_loader(list_images(photos), tiny(), range(6), ALONE)).labels is None


def test_loader__views_follow_the_image_not_its_place_in_the_batch(photos: Path, tiny: Callable[..., Config]) -> None:
    """Rank 1 of two sees what the second half of a single process's micro-batch holds."""
    names = list_images(photos)
    whole = next(make_loader(names, tiny(), range(6), ALONE))
    half = next(make_loader(names, tiny(), range(6), Process(1, 2, CPU)))
    assert half.names == whole.names[2:]
    assert torch.equal(half.views[0], whole.views[0][:, 2:]) and torch.equal(half.boxes[1], whole.boxes[1][:, 2:])


def test_loader__processes_start_after_the_main_one_has_used_every_library(photos: Path, tiny: Callable) -> None:
    """Thread pools do not survive a fork: a view made before must not make the loader processes wait for ever."""
    names = list_images(photos)
    ViewDataset(names, Train())[0, 0]
    assert cv2.getNumThreads() == 1
    assert len(list(make_loader(names, tiny(workers=2), range(6), ALONE))) == 6


def test_pin_memory__keeps_everything(tmp_path: Path, make_photos: Callable, small: Train,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())  # needs a GPU otherwise
    dataset = ViewDataset(list_images(make_photos(tmp_path, 2)), replace(small, colour_on="device"))
    batch = dataset.collate([dataset[0, 0], dataset[0, 1]])
    pinned = batch.pin_memory()
    assert equal(batch, pinned) and pinned.unreadable == batch.unreadable
    assert len(pinned.colours) == 2 and all(map(torch.equal, pinned.colours, batch.colours))
    assert pinned.labels is None
    batch.labels = torch.tensor([1, 0])
    assert batch.pin_memory().labels.tolist() == [1, 0]


def test_photos__are_real_files(photos: Path, tmp_path: Path, make_photos: Callable) -> None:
    """The fixture's photographs are deterministic."""
    again = make_photos(tmp_path / "again", 9)
    assert [(again / name).read_bytes() == (photos / name).read_bytes() for name in list_images(photos)] == 9 * [True]
    shutil.rmtree(again)
