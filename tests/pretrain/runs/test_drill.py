"""The kill drill: it kills where it says, finds every difference, and the real run passes it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pretrain.common.errors import UserError
from pretrain.runs import drill

STATE = {"student": {"w": torch.arange(3.0)}, "optimizer": {"state": {0: [torch.ones(2), 1]}}, "rng": torch.tensor([1])}


def finished(folder: Path, state: dict, steps: tuple[int, ...] = (1, 2, 3), loss: float = 0.5) -> Path:
    """What a finished run of three steps leaves."""
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(state, folder / "checkpoints" / "step_00000003.pt")
    (folder / "checkpoints" / "step_00000003.json").write_text("{}")
    (folder / "backbone.safetensors").write_bytes(b"weights")
    lines = [{"step": 0, "retrieval_backbone": 0.1}] + [
        {"step": step, "loss": loss, "images_per_second": step * 7.0} for step in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_compare__equal_runs_of_another_speed(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "a", STATE), finished(tmp_path / "b", STATE)
    text = (other / "metrics.jsonl").read_text().replace("7.0", "9.0")
    (other / "metrics.jsonl").write_text(text)
    assert drill.compare(one, other, 3) == []


@pytest.mark.parametrize(("change", "problem"), [
    ({"student": {"w": torch.tensor([0.0, 1.0, 2.0000002])}}, "student differs at student/w"),
    ({"optimizer": {"state": {0: [torch.ones(2), 2]}}}, "optimizer differs at optimizer/state/0/1"),
    ({"optimizer": {"state": {}}}, r"optimizer differs at optimizer/state: keys ['0']"),
    ({"rng": torch.tensor([2])}, "rng differs at rng"),
])
def test_compare__a_difference_is_named(tmp_path: Path, change: dict, problem: str) -> None:
    assert drill.compare(finished(tmp_path / "a", STATE), finished(tmp_path / "b", STATE | change), 3) == [problem]


def test_difference__of_bare_values_and_of_types() -> None:
    assert drill.difference(torch.ones(2), torch.ones(2)) == drill.difference((1, [2]), (1, [2])) == ""
    assert drill.difference(torch.ones(2), torch.zeros(2)) == "the value itself"
    assert drill.difference([torch.ones(2)], [torch.ones(2).double()]) == "/0"
    assert drill.difference([1, 2], [1]) == ": 2 and 1 entries"


@pytest.mark.parametrize("steps", [(1, 2, 2, 3), (1, 3)])
def test_compare__a_doubled_or_missing_step(tmp_path: Path, steps: tuple[int, ...]) -> None:
    found = drill.compare(finished(tmp_path / "a", STATE), finished(tmp_path / "b", STATE, steps), 3)
    assert found[0] == f"metrics.jsonl: expected the steps 1 to 3 once each, found {list(steps)}"


def test_compare__other_figures_and_another_backbone(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "a", STATE), finished(tmp_path / "b", STATE, loss=0.25)
    (other / "backbone.safetensors").write_bytes(b"Weights")
    assert drill.compare(one, other, 3) == ["backbone.safetensors differs", "metrics.jsonl holds other values"]


def test_kills__special_moments_and_random_ones_that_move_on(tmp_path: Path) -> None:
    planned = drill.kills(7, steps=40, step_seconds=0.1, seed=1)
    assert len(planned) == 7
    first, in_save, *random, last = planned
    after = [int(kill.name.rsplit(" ", 1)[1]) for kill in random]
    assert after == sorted(after) and after[0] >= 8 and after[-1] < 39
    assert all(0 <= kill.delay <= 0.1 for kill in random)
    assert not first.due(tmp_path)
    run = finished(tmp_path / "run", STATE)
    assert not first.due(run) and not in_save.due(run) and not last.due(run)
    (run / "checkpoints" / ".step_00000006.ab.part.pt").touch()
    assert in_save.due(run)
    (run / "checkpoints" / "step_00000003.json").unlink()
    assert first.due(run) and not in_save.due(run)
    assert drill.kills(7, 4, 0.1, 1)[-1].due(run)
    assert [kill.name for kill in drill.kills(7, 40, 0.1, 2)] != [kill.name for kill in planned]


def test_few_images__of_a_larger_folder(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert drill.few_images(photos, tmp_path / "few") == photos
    monkeypatch.setattr(drill, "IMAGES", 4)
    few = drill.few_images(photos, tmp_path / "few")
    names = sorted(path.name for path in few.iterdir())
    assert names == ["00.png", "02.png", "05.png", "08.png"]
    assert (few / names[1]).read_bytes() == (photos / "02.png").read_bytes()


def test_few_images__keep_the_folders_that_are_their_classes(
    tmp_path: Path, make_photos: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in ("cat", "dog"):
        make_photos(tmp_path / "photos" / label, 3)
    monkeypatch.setattr(drill, "IMAGES", 2)
    few = drill.few_images(tmp_path / "photos", tmp_path / "few")
    assert list(drill.list_images(few)) == ["cat/00.png", "dog/02.png"]


@pytest.fixture
def words(tiny_words: Callable) -> Callable[..., list[str]]:
    """`tiny_words` without what the drill sets itself."""
    def without(**changes: object) -> list[str]:
        given = tiny_words(**changes)
        for option in ("--checkpoint-every", "--log-every"):
            at = given.index(option)
            del given[at:at + 2]
        return given
    return without


def test_small_arguments__on_the_cpu_unless_asked_and_the_same_kernels_each_time(photos: Path) -> None:
    def asked(**given: object) -> list[str]:
        return drill.small_arguments("demo", photos, {"epochs": 20, "batch_size": 4, **given})

    def value(arguments: list[str], option: str) -> str:
        return arguments[arguments.index(option) + 1]

    assert value(asked(), "--device") == "cpu"
    assert value(asked(device="cuda"), "--device") == "cuda"
    assert value(asked(device="cuda"), "--deterministic") == "True"


def test_main__mistakes(photos: Path, tmp_path: Path, words: Callable) -> None:
    with pytest.raises(UserError, match="--kills must be at least 4, found 3"):
        drill.main(["--data", str(photos), "--output", str(tmp_path / "out"), "--kills", "3"])
    with pytest.raises(UserError, match="--moments must be at least 0, found -1"):
        drill.main(["--data", str(photos), "--output", str(tmp_path / "out"), "--moments", "-1"])
    with pytest.raises(UserError, match="^--log-every: the drill sets this itself"):
        drill.main(["--data", str(photos), "--output", str(tmp_path / "out"), "--log-every", "2"])
    with pytest.raises(UserError, match="out lies inside --data"):
        drill.main(["--data", str(photos), "--output", str(photos / "out")])
    assert not (photos / "out").exists()
    with pytest.raises(UserError, match="the drill needs at least 18 steps, found 6: give more --epochs"):
        drill.main(["--data", str(photos), "--output", str(tmp_path / "out"), *words()])
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    text = "out: expected a new folder, which the drill fills and removes, found that it exists"
    with pytest.raises(UserError, match=text):
        drill.main(["--data", str(photos), "--output", str(tmp_path / "out"), *words(epochs=9)])


@pytest.mark.slow
def test_drill__a_killed_run_ends_as_if_nothing_had_happened(
    photos: Path, tmp_path: Path, words: Callable, capsys: pytest.CaptureFixture, environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = drill.main(["--data", str(photos), "--output", str(tmp_path / "out"), *words(epochs=10)])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "killed before the first save" in said and "killed while a checkpoint is written" in said
    assert "killed in the last step" in said and said.count("killed at random") == 3
    assert "equal, bit for bit: student, follower, optimizer, random state, backbone, metrics.jsonl" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_drill__finds_a_run_that_forgets_something(
    photos: Path, tmp_path: Path, words: Callable, capsys: pytest.CaptureFixture, environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code in a copy whose checkpoints lose the optimizer's momentum."""
    root = Path(drill.__file__).resolve().parents[1]
    shutil.copytree(root, tmp_path / "code" / "pretrain")
    source = tmp_path / "code" / "pretrain" / "trainer.py"
    text = source.read_text()
    line = '        self.optimizer.load_state_dict(state["optimizer"])\n'
    assert text.count(line) == 1
    source.write_text(text.replace(line, ""))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    few = ["--kills", "4"]  # the three special moments and one at random
    code = drill.main(["--data", str(photos), "--output", str(tmp_path / "out"), *few, *words(epochs=10)])
    assert code == 1
    assert "error: student differs at student/" in capsys.readouterr().err
