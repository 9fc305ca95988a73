"""What every objective promises the loop: CLoVE, supervised, and two more that stand in files of their own."""

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

import pretrain.trainer
from pretrain import objectives
from pretrain.common.backbone_file import load_backbone
from pretrain.common.errors import UserError
from pretrain.config import Config, load_config
from pretrain.data.batches import Batch, list_images, make_loader
from pretrain.distributed import Process
from pretrain.runs.drill import difference
from pretrain.trainer import Trainer
from pretrain.watch.probes import Probe
from tests.pretrain.conftest import TINY, write_photos
from tests.pretrain.exact_step import batch as made_batch
from tests.pretrain.exact_step import close, free_port, join, one_step, part

ALONE = Process(0, 1, torch.device("cpu"))
EXAMPLES = Path(__file__).parents[1] / "example_objectives"
OWN = {
    "clove": {}, "supervised": {"labels": "folder"}, "byol": {"hidden": 16, "momentum": 0.9},
    "moco": {"dim": 8, "queue": 24, "momentum": 0.9},
}
SHARED = {key: value for key, value in TINY.items()
          if key not in ("projector_hidden", "projector_dim", "heads", "k")} | {"batch_size": 8, "device_batch": 4}
CLASSES = ("cat", "dog", "eel")


@pytest.fixture(autouse=True)
def _examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOVE_OBJECTIVES", os.pathsep.join(map(str, sorted(EXAMPLES.glob("*.py")))))


def settings(name: str, **changes: object) -> Config:
    clove = {key: TINY[key] for key in ("projector_hidden", "projector_dim", "heads", "k")} if name == "clove" else {}
    return load_config(None, {"objective": name, **SHARED, **clove, **OWN[name], **changes})


def labelled(config: Config, images: int = 8, seed: int = 0) -> Batch:
    whole = made_batch(images, seed, config)
    whole.labels = torch.from_numpy(np.random.default_rng(seed).integers(0, len(CLASSES), images))
    return whole


def halves(whole: Batch) -> list[Batch]:
    return [share(whole, 0, 4), share(whole, 4, 8)]


def share(whole: Batch, start: int, stop: int) -> Batch:
    found = part(whole, start, stop)
    found.labels = whole.labels[start:stop]
    return found


def trainer_of(config: Config) -> Trainer:
    return Trainer(config, ALONE, 6, 2, CLASSES)


def test_registry__the_table_above_has_every_objective() -> None:
    assert set(objectives.names()) == set(OWN)


def test_objective__gets_the_views_that_its_preset_asks_for(photos: Path) -> None:
    values = {key: value for key, value in SHARED.items() if key != "local_views"} | {"objective": "moco"}
    config = load_config(None, values)
    batch = next(make_loader(list_images(photos), config, range(1), ALONE))
    assert [tuple(group.shape) for group in batch.views] == [(2, 4, 3, 48, 48)]
    assert [len(group) for group in batch.boxes] == [2]
    assert load_config(None, values | {"local_views": 3}).train.local_views == 3  # it gives way to what is given
    assert load_config(None, values | {"objective": "byol"}).train.local_views == 6  # without a preset, the default


@pytest.mark.parametrize("name", OWN)
def test_objective__every_parameter_gets_a_gradient(name: str) -> None:
    """Zero-initialised residual branches block the way at the start; any other value lets it through."""
    trainer = trainer_of(settings(name))
    for module in trainer.student.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.constant_(module.weight, 0.7)
    loss, _ = trainer.loss(labelled(trainer.config, 4))
    loss.backward()
    without = [key for key, value in trainer.student.named_parameters()
               if value.grad is None or not value.grad.abs().max() > 0]
    assert without == []


@pytest.mark.parametrize("name", OWN)
def test_objective__a_step_trains_the_student_and_what_follows_it(name: str) -> None:
    trainer = trainer_of(settings(name))
    before = copy.deepcopy(trainer.state())
    result = trainer.step(1, halves(labelled(trainer.config)))
    assert math.isfinite(result["loss"]) and set(trainer.objective.shown) <= set(result)
    keys = {key for _, panel in trainer.objective.curves for key in panel}
    assert keys <= set(result) and all(math.isfinite(value) for value in result.values())
    after = trainer.state()
    assert difference(after["student"], before["student"]) != ""
    assert (difference(after["follower"], before["follower"]) != "") == (trainer.objective.follower is not None)


@pytest.mark.parametrize("name", OWN)
def test_objective__targets_and_loss_change_no_weight_and_a_skipped_step_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(settings(name))
    first, second = halves(labelled(trainer.config))
    trainer.step(0, [first, second])
    before = copy.deepcopy(trainer.state())
    true_normalise = pretrain.trainer.normalise
    with monkeypatch.context() as patched:
        patched.setattr(pretrain.trainer, "normalise", lambda pixels: true_normalise(pixels) * float("nan"))
        assert math.isnan(trainer.step(1, [first, second])["loss"])
    assert difference(trainer.state(), before | {"skipped": [1, 1]}) == ""
    weights = [value.clone() for network in trainer.objective.networks() for value in network.parameters()]
    loss, statistics = trainer.loss(first)
    now = [value for network in trainer.objective.networks() for value in network.parameters()]
    assert all(torch.equal(*pair) for pair in zip(weights, now, strict=True))
    assert loss.requires_grad and loss.dtype == torch.float32
    assert not any(value.requires_grad for value in statistics.values())


@pytest.mark.parametrize("name", OWN)
def test_objective__resumed_takes_the_same_step_bit_for_bit(name: str, tmp_path: Path) -> None:
    config = settings(name)
    whole, resumed = trainer_of(config), trainer_of(config)
    whole.step(0, halves(labelled(config)))
    torch.save(whole.state(), tmp_path / "a.pt")
    whole.step(1, halves(labelled(config, seed=1)))
    resumed.load(torch.load(tmp_path / "a.pt", weights_only=True))
    resumed.step(1, halves(labelled(config, seed=1)))
    assert difference(resumed.state(), whole.state()) == ""


@pytest.mark.parametrize("name", OWN)
def test_objective__probes_look_at_its_maps_and_leave_it_as_it_is(name: str, photos: Path, tiny: Callable) -> None:
    config = settings(name)
    trainer = trainer_of(config)
    before = copy.deepcopy(trainer.state())
    values = Probe(list_images(photos), config, ALONE.device)(trainer.objective)
    found = {key.removeprefix("retrieval_") for key in values if key.startswith("retrieval_")} - {"chance"}
    assert found == ({"backbone", "contextualized"} if name == "clove" else {"backbone"})
    assert all(math.isfinite(value) for value in values.values())
    assert difference(trainer.state(), before) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_objective__bf16_and_its_kept_casts_survive_a_copy_of_the_state(name: str) -> None:
    config = settings(name, precision="bf16")
    one, other = trainer_of(config), trainer_of(config)
    one.step(0, halves(labelled(config)))
    other.load(copy.deepcopy(one.state()))
    first, second = (trainer.loss(labelled(config, 4, seed=2))[0].item() for trainer in (one, other))
    assert first == second


def _worker(rank: int, port: int, folder: str, name: str) -> None:
    process = join(rank, port)
    config = settings(name, device_batch=2)
    whole = labelled(config)
    mine = [share(whole, a * 4 + rank * 2, a * 4 + rank * 2 + 2) for a in range(2)]
    torch.save(one_step(config, process, mine, CLASSES), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_objective__two_processes_equal_one(name: str, tmp_path: Path) -> None:
    """A queue holds the same keys in every process: those of rank 0 of each micro-batch, then rank 1's."""
    config = settings(name)
    whole = labelled(config)
    alone = one_step(config, ALONE, halves(whole), CLASSES)
    mp.spawn(_worker, args=(free_port(), str(tmp_path), name), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert difference(ranks[0]["follower"].get("queue"), ranks[1]["follower"].get("queue")) == ""
    for key, tensor in ranks[0]["student"].items():
        if "running_" not in key:  # sums over processes are the same bits; running statistics are compared below
            assert torch.equal(tensor, ranks[1]["student"][key]), key
    for one in (alone, *ranks):
        if "queue" in one["follower"]:
            one["follower"]["queue"] = one["follower"]["queue"].sort(0).values
    for found in ranks:
        for statistic, value in alone["result"].items():
            assert found["result"][statistic] == pytest.approx(value, rel=1e-5, abs=1e-6), statistic
        close(found, alone, tolerance=1e-9)


def test_supervised__loss_is_the_mean_cross_entropy_over_all_views() -> None:
    trainer = trainer_of(settings("supervised"))
    whole = labelled(trainer.config, 4)
    inputs = trainer._inputs(whole)
    scores = trainer.student(inputs.groups)
    assert [tuple(one.shape) for one in scores] == [(2, 4, 3), (1, 4, 3)]
    expected, right = 0.0, 0
    for view in (*scores[0], *scores[1]):
        for row, label in zip(view.double(), whole.labels.tolist(), strict=True):
            expected += (row.exp().sum().log() - row[label]).item() / 12
            right += int(row.argmax()) == label
    loss, statistics = trainer.objective.loss(scores, None, inputs, watch=True)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert statistics["accuracy"].item() == pytest.approx(right / 12)


def test_supervised__without_labels_is_refused_in_one_line() -> None:
    text = "the objective supervised needs labels, found none: use --labels folder"
    with pytest.raises(UserError, match=text) as error:
        load_config(None, {"objective": "supervised"})
    assert "\n" not in str(error.value)


SUPERVISED = SHARED | {"batch_size": 4, "labels": "folder", "objective": "supervised"}


def run(folder: Path, output: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    words = ["--data", str(folder), "--output", str(output)]
    for key, value in SUPERVISED.items():
        words += [f"--{key.replace('_', '-')}", *str(value).split()]
    return subprocess.run([sys.executable, "-P", "-m", "pretrain", *words], env=environment, capture_output=True,
                          text=True, timeout=600, check=False)


@pytest.mark.slow
def test_supervised__a_whole_run_names_its_method_through_the_conversion_and_resumes(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    for number, name in enumerate(CLASSES):
        write_photos(tmp_path / "photos" / name, 3, seed=number)
    output = tmp_path / "output"
    done = run(tmp_path / "photos", output, environment)
    assert done.returncode == 0, done.stderr
    assert "labels folder: 3 classes (cat, dog, eel)\nsupervised: 9 images, 3 epochs of 2 steps" in done.stdout
    assert "could not be drawn" not in done.stderr
    _, info = load_backbone(output / "backbone.safetensors")
    assert (info.method, info.branch, info.classes, info.epochs) == ("Supervised", "single", 3, 3)
    assert info.pretraining["objective"] == "supervised"
    assert all((output / name).stat().st_size > 0 for name in ("curves.png", "views.png", "show.png"))
    converted = tmp_path / "converted"
    words = ["-m", "transfer", "convert", str(output / "backbone.safetensors"), "--output", str(converted)]
    assert subprocess.run([sys.executable, "-P", *words], env=environment, timeout=600, check=False).returncode == 0
    certificate = json.loads((converted / "conversion.json").read_text())
    assert (certificate["method"], certificate["pretraining"]) == ("Supervised", info.pretraining)
    backbone = (output / "backbone.safetensors").read_bytes()
    for path in (output / "done.json", output / "backbone.safetensors", *output.glob("checkpoints/step_00000006.*")):
        path.unlink()
    again = run(tmp_path / "photos", output, environment)
    assert "resumes from step 4 of 6" in again.stdout, again.stderr
    assert (output / "backbone.safetensors").read_bytes() == backbone
