"""metrics.json and TensorBoard of an interrupted fine-tuning are those of one that was not."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from transfer.finetuning.curves import METRICS, TIMES, Curves

ITERATIONS, PERIOD = 47, 10


def train(folder: Path, start: int, end: int, state: dict | None) -> dict:
    """Iterations `start` to `end` of a training whose values follow from the iteration; the state at the end."""
    folder.mkdir(exist_ok=True)
    curves = Curves(str(folder), PERIOD, start)
    if state is not None:
        curves.load_state_dict(state)
    with EventStorage(start) as storage:
        curves.trainer = SimpleNamespace(storage=storage, iter=start, max_iter=ITERATIONS)
        curves.before_train()
        for number in range(start, end):
            curves.trainer.iter = storage.iter = number
            chance = np.random.default_rng(number)
            storage.put_scalars(total_loss=chance.random(), data_time=chance.random() + start)
            storage.put_scalar("lr", number / 7, smoothing_hint=False)
            if number - start >= 2:  # as IterationTimer
                storage.put_scalar("time", chance.random())
            if number % 15 == 14:  # as EarlyEvaluation
                storage.put_scalar("early/AP", number, smoothing_hint=False)
                for writer in curves.writers:
                    writer.write()
            curves.after_step()
        state = json.loads(json.dumps(curves.state_dict()))
        curves.after_train()
    return state


def lines(folder: Path) -> list[dict]:
    entries = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in entries]


def points(folder: Path) -> dict[str, list]:
    found = EventAccumulator(str(folder)).Reload()
    return {name: sorted((one.step, one.value) for one in found.Scalars(name))
            for name in ("total_loss", "lr", "early/AP")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curves") / "whole"
    train(folder, 0, ITERATIONS, None)
    assert [entry["iteration"] for entry in lines(folder)] == [9, 14, 19, 29, 39, 44, 46]
    return folder


@pytest.mark.parametrize("stops", [[23], [20], [1, 2, 45], [46], [15, 30], [29, 30, 31]])
def test_curves__stopped_and_resumed_ones_are_the_undisturbed_ones(
    whole: Path, stops: list[int], tmp_path: Path
) -> None:
    state, before = None, 0
    for stop in [*stops, ITERATIONS]:
        state = train(tmp_path / "parts", before, stop, state)
        before = stop
    assert lines(tmp_path / "parts") == lines(whole)
    assert points(tmp_path / "parts") == points(whole)


def test_curves__killed_after_the_checkpoint(whole: Path, tmp_path: Path) -> None:
    """The lines behind the checkpoint come again, the last one cut off or not."""
    state = train(tmp_path / "parts", 0, 25, None)
    train(tmp_path / "parts", 25, 41, state)
    with open(tmp_path / "parts" / METRICS, "a") as file:
        file.write('{"iteration": 4')
    train(tmp_path / "parts", 25, ITERATIONS, state)
    assert lines(tmp_path / "parts") == lines(whole)


def test_curves__a_checkpoint_of_an_older_version_has_none(tmp_path: Path) -> None:
    train(tmp_path / "parts", 0, 25, None)
    train(tmp_path / "parts", 25, ITERATIONS, None)
    assert [entry["iteration"] for entry in lines(tmp_path / "parts")] == [9, 14, 19, 29, 39, 44, 46]
