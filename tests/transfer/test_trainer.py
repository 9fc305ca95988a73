"""The parts of the loop: order of the data, checkpoints, images that cannot be read."""

import itertools
import json
import logging
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.samplers import TrainingSampler
from torch import nn

from benchmarks import demo_data
from pretrain.errors import UserError
from transfer import datasets, settings, trainer


@pytest.fixture
def scenes(tmp_path: Path) -> datasets.Dataset:
    demo_data.generate(tmp_path / "demo", photos=1, train=3, val=2)
    return datasets.find(tmp_path / "demo/coco", "coco")


def take(sampler: TrainingSampler, number: int) -> list[int]:
    return list(itertools.islice(sampler, number))


def test_later_sampler__goes_on_where_the_order_was_left() -> None:
    whole = take(trainer.LaterSampler(10, seed=1, skip=0), 30)
    assert take(trainer.LaterSampler(10, seed=1, skip=13), 17) == whole[13:]
    assert sorted(whole[:10]) == list(range(10)) and whole[:10] != whole[10:20]
    assert take(TrainingSampler(10, seed=1), 30) == whole  # detectron2's own order
    assert take(trainer.LaterSampler(10, seed=2, skip=0), 30) != whole  # a trial is another order


def test_train_loader__order_is_that_of_the_seed(scenes: datasets.Dataset) -> None:
    datasets.register(scenes)
    cfg = settings.resolve(scenes, "2fc", "demo")

    def names(seed: int, skip: int = 0) -> list[str]:
        loader = trainer.train_loader(cfg, 0, seed, skip)
        return [row["file_name"] for batch in itertools.islice(loader, 4) for row in batch]

    assert names(5) == names(5)
    assert names(5) != names(5, skip=1)


def test_checkpoints__only_the_newest_and_a_small_last_one(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    checkpoints = trainer.Checkpoints(model, str(tmp_path))
    checkpoints.add_checkpointable("trainer", torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9))
    (tmp_path / ".model_0000001.77.part.pth").write_bytes(b"of a killed run")
    checkpoints.save("model_0000004", iteration=4)
    checkpoints.save("model_0000009", iteration=9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000009.pth"]
    assert set(torch.load(tmp_path / "model_0000009.pth")) == {"model", "iteration", "trainer"}
    checkpoints.save("model_final", iteration=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]
    assert set(torch.load(tmp_path / "model_final.pth")) == {"model", "iteration"}
    assert checkpoints.get_checkpoint_file() == str(tmp_path / trainer.FINAL)


def test_checkpoints__a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = trainer.Checkpoints(nn.Linear(2, 2), str(tmp_path))
    checkpoints.save("model_0000004", iteration=4)

    def full(content: dict, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save("model_0000009", iteration=9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000004.pth"]
    assert Path(checkpoints.get_checkpoint_file()).name == "model_0000004.pth"


def test_clock__adds_up_over_the_parts_of_a_run() -> None:
    first, second = trainer.Clock(), trainer.Clock()
    first.load_state_dict({"seconds": 100.0, "started": "2026-01-01T00:00:00+00:00"})
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert 100 <= second.seconds < 160 and second.started == "2026-01-01T00:00:00+00:00"


def test_careful_mapper__leaves_out_few_and_stops_at_many(scenes: datasets.Dataset,
                                                          caplog: pytest.LogCaptureFixture) -> None:
    name, _ = datasets.register(scenes)
    records = DatasetCatalog.get(name)
    mapper = trainer.CarefulMapper(settings.resolve(scenes, "2fc", "demo"), images=50)
    assert mapper(records[0])["image"].shape[0] == 3
    content = Path(records[1]["file_name"]).read_bytes()
    Path(records[1]["file_name"]).write_bytes(content[: len(content) // 2])  # a whole header, half of the pixels
    Path(records[2]["file_name"]).write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="detectron2"):
        logging.getLogger("detectron2").propagate = True
        assert mapper(records[1]) is None and mapper(records[1]) is None  # one image, however often it comes
    assert f"left out {records[1]['file_name']}" in caplog.text
    with pytest.raises(UserError, match=r"2 of 50 training images cannot be read, among them .*expected at most 1%"):
        mapper(records[2])
    many = trainer.CarefulMapper(settings.resolve(scenes, "2fc", "demo"), images=1000)
    assert many(records[1]) is None and many(records[2]) is None
