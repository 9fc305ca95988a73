"""The loop: killed and resumed equals uninterrupted, bit for bit; mistakes end in one line."""

import hashlib
import itertools
import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import pretrain.loss
import pretrain.train
import pretrain.trainer
from pretrain.common.backbone_file import load_backbone
from pretrain.runs.drill import difference

TIMING = ("images_per_second", "loader_wait")
KILL = "os.kill(os.getpid(), signal.{})"
KILL_IN_SAVE = """
import os, pathlib, signal
original = pathlib.Path.write_bytes
def write_bytes(self, content):
    if "step_00000004" not in self.name:
        return original(self, content)
    original(self, content[:len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.write_bytes = write_bytes
"""


def metrics(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMING} for line in lines]


def final_state(output):
    return torch.load(output / "checkpoints" / "step_00000006.pt", weights_only=True)


@pytest.fixture(scope="module")
def whole(photos, run_pretrain, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    done = run_pretrain(photos, output, prelude="")
    assert done.returncode == 0, done.stderr
    return output


def test_train__leaves_backbone_metrics_and_pictures(whole, tiny):
    for name in ("backbone.safetensors", "metrics.jsonl", "curves.png", "views.png", "show.png", "run.json",
                 "done.json"):
        assert (whole / name).stat().st_size > 0
    tensors, info = load_backbone(whole / "backbone.safetensors")
    assert len(tensors) == 100 and (info.architecture, info.branch, info.epochs) == ("resnet18", "student", 3)
    run = json.loads((whole / "run.json").read_text())
    assert info.pretraining == {"objective": "clove", "seed": 0, "recipe_sha256": tiny(seed=1).recipe_hash(),
                                "images_sha256": run["images_hash"]}
    assert run["config_hash"] == info.source_sha256 == tiny().hash() and info.classes is None
    names = [f"{number:02d}.png" for number in range(9)]
    assert run["images_hash"] == hashlib.sha256("".join(name + "\0" for name in names).encode()).hexdigest()
    lines = metrics(whole)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5, 6, 6]
    assert "retrieval_backbone" in lines[0] and "retrieval_backbone" in lines[-1]
    assert lines[1]["lr"] == pytest.approx(16 * 4 / 256 / 100)


@pytest.mark.parametrize("how, code", [
    pytest.param({"at_step": (1, KILL.format("SIGKILL"))}, -9, id="before-first-save", marks=pytest.mark.slow),
    pytest.param({"at_step": (3, KILL.format("SIGKILL"))}, -9, id="middle"),
    pytest.param({"at_step": (5, KILL.format("SIGKILL"))}, -9, id="last-step", marks=pytest.mark.slow),
    pytest.param({"prelude": KILL_IN_SAVE}, -9, id="inside-save", marks=pytest.mark.slow),
    pytest.param({"at_step": (3, KILL.format("SIGTERM"))}, 143, id="SIGTERM", marks=pytest.mark.slow),
    pytest.param({"at_step": (2, KILL.format("SIGINT"))}, 130, id="SIGINT", marks=pytest.mark.slow)])
def test_train__killed_and_resumed_equals_uninterrupted(whole, photos, run_pretrain, tmp_path, how, code):
    killed = run_pretrain(photos, tmp_path, **how)
    assert killed.returncode == code, killed.stderr
    assert not (tmp_path / "backbone.safetensors").exists()
    if code > 0:
        assert "saved; run the same command again to resume" in killed.stderr
    again = run_pretrain(photos, tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "backbone.safetensors").read_bytes() == (whole / "backbone.safetensors").read_bytes()
    assert difference(final_state(tmp_path), final_state(whole)) == ""
    assert metrics(tmp_path) == metrics(whole)


@pytest.mark.slow
def test_train__other_number_of_workers_gives_the_same_weights(whole, photos, run_pretrain, tmp_path):
    assert run_pretrain(photos, tmp_path, workers=2, probe_every=1).returncode == 0
    assert (tmp_path / "backbone.safetensors").read_bytes() == (whole / "backbone.safetensors").read_bytes()


def test_train__finished_run_says_so(whole, photos, cli):
    before = (whole / "done.json").stat().st_mtime_ns
    done = cli(photos, whole)
    assert done.returncode == 0 and "is finished already" in done.stdout
    assert (whole / "done.json").stat().st_mtime_ns == before


def test_train__finished_run_whose_backbone_went_astray_writes_it_again(whole, photos, cli, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "backbone.safetensors").unlink()
    done = cli(photos, tmp_path)
    assert done.returncode == 0 and "resumes from step 6 of 6" in done.stdout
    assert (tmp_path / "backbone.safetensors").read_bytes() == (whole / "backbone.safetensors").read_bytes()
    assert metrics(tmp_path) == metrics(whole)


def test_train__other_numbers_in_the_same_folder_are_refused(whole, photos, cli):
    done = cli(photos, whole, seed=9, k=6)
    assert done.returncode == 2
    assert "holds a run with other values (seed 0 -> 9; k 5 -> 6)" in done.stderr
    assert "Traceback" not in done.stderr


def test_train__other_images_in_the_same_folder_are_refused(whole, make_photos, cli, tmp_path):
    done = cli(make_photos(tmp_path / "more", 10), whole)
    assert done.returncode == 2 and "holds a run on other images (then 9, now 10)" in done.stderr


@pytest.mark.slow
def test_train__truncated_newest_checkpoint_the_one_before_is_used(whole, photos, run_pretrain, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for name in ("done.json", "backbone.safetensors"):
        (tmp_path / name).unlink()
    newest = tmp_path / "checkpoints" / "step_00000006.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    again = run_pretrain(photos, tmp_path)
    assert again.returncode == 0
    assert "passed over: step_00000006.pt is damaged" in again.stdout
    assert "resumes from step 4 of 6" in again.stdout
    assert (tmp_path / "backbone.safetensors").read_bytes() == (whole / "backbone.safetensors").read_bytes()
    assert metrics(tmp_path) == metrics(whole)


def spoil(monkeypatch, which):
    """NaN as the loss of the calls that `which` picks, counted from 0."""
    true_loss, calls = pretrain.loss.clove_loss, itertools.count()

    def loss(*arguments):
        value, statistics = true_loss(*arguments)
        return value * (float("nan") if which(next(calls)) else 1.0), statistics

    monkeypatch.setattr(pretrain.loss, "clove_loss", loss)


def test_train__nan_losses_are_skipped_counted_and_end_the_run(photos, cli, tmp_path, monkeypatch):
    spoil(monkeypatch, lambda call: True)
    done = cli(photos, tmp_path, nonfinite_limit=3)
    assert done.returncode == 3
    assert "the update is skipped (2 in a row, 3 end the run)" in done.stderr
    assert "error: loss was not finite 3 times in a row up to step 3; images of the last step: 0" in done.stderr
    named = (tmp_path / "nonfinite.log").read_text().splitlines()
    assert [line.split(":")[0] for line in named] == ["step 1"] * 4 + ["step 2"] * 4 + ["step 3"] * 4
    assert ", ".join(line.split(": ")[1] for line in named[8:]) in done.stderr
    assert not (tmp_path / "backbone.safetensors").exists()


@pytest.mark.slow
def test_train__a_nan_now_and_then_does_not_end_the_run(photos, cli, tmp_path, monkeypatch):
    spoil(monkeypatch, lambda call: call in (1, 3))
    done = cli(photos, tmp_path, nonfinite_limit=2)
    assert done.returncode == 0
    assert done.stderr.count("the update is skipped (1 in a row, 2 end the run)") == 2
    lines = [line for line in metrics(tmp_path) if "loss" in line]
    assert [line["loss"] is None for line in lines] == [False, True, False, True, False, False]
    assert [line["skipped"] for line in lines] == [0, 1, 1, 2, 2, 2]
    assert all(value.isfinite().all() for value in load_backbone(tmp_path / "backbone.safetensors")[0].values())


def test_train__nan_losses_in_a_row_are_counted_over_a_restart(photos, cli, tmp_path, monkeypatch):
    def second_ends_with_a_signal(call):
        if call == 1:
            signal.raise_signal(signal.SIGUSR2)
        return True

    spoil(monkeypatch, second_ends_with_a_signal)
    stopped = cli(photos, tmp_path, nonfinite_limit=3)
    assert stopped.returncode == 75 and "stopped after step 2, saved" in stopped.stderr
    again = cli(photos, tmp_path, nonfinite_limit=3)
    assert again.returncode == 3
    assert "error: loss was not finite 3 times in a row up to step 3" in again.stderr


@pytest.mark.slow
def test_train__images_that_changed_under_their_names_are_noticed(make_photos, cli, tmp_path, monkeypatch):
    folder, output = make_photos(tmp_path / "photos", 9), tmp_path / "out"
    spoil(monkeypatch, lambda call: signal.raise_signal(signal.SIGUSR2) if call == 1 else False)
    assert cli(folder, output).returncode == 75
    shutil.copy(folder / "01.png", folder / "03.png")
    changed = cli(folder, output)
    assert changed.returncode == 2 and changed.stderr.count("error: ") == 1
    assert f"error: 1 of 9 images have changed since the run in {output} began (another size: 1," in changed.stderr
    record, = output.glob("images-*.stamps")
    assert f"the first is 03.png: bring the old ones back, choose another --output, or remove {record} to go on" in \
        changed.stderr
    record.unlink()
    again = cli(folder, output)
    assert again.returncode == 0 and "resumes from step 2 of 6" in again.stdout


def test_train__gradients_that_overflow_on_and_on_end_the_run(photos, cli, tmp_path, monkeypatch):
    true_step = pretrain.trainer.Trainer.step

    def step(self, number, batches):
        self.overflowed_in_a_row = 21 + number  # as if the run had begun long before
        return true_step(self, number, batches)

    monkeypatch.setattr(pretrain.trainer.Trainer, "step", step)
    monkeypatch.setattr(pretrain.trainer.Trainer, "_fetch", lambda self, means: [*means.tolist(), 1.0])
    done = cli(photos, tmp_path)
    assert done.returncode == 3
    assert "error: gradients overflowed fp16 24 times in a row up to step 3, though" in done.stderr
    assert [line["overflowed"] for line in metrics(tmp_path) if "loss" in line] == [1, 2]


def test_train__weights_that_are_not_finite_are_never_saved(photos, cli, tmp_path, monkeypatch):
    """A NaN gradient under a finite loss: the checkpoint before stays the newest."""
    true_step = pretrain.trainer.Trainer.step

    def step(self, number, batches):
        result = true_step(self, number, batches)
        if number == 3:
            with torch.no_grad():
                self.student.attention.in_proj_bias[0] = float("nan")
        return result

    monkeypatch.setattr(pretrain.trainer.Trainer, "step", step)
    done = cli(photos, tmp_path)
    assert done.returncode == 3
    assert "error: weights are not finite after step 4 (attention.in_proj_bias), so nothing was saved" in done.stderr
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.pt")) == ["step_00000002.pt"]


@pytest.mark.slow
def test_train__a_signal_before_the_first_step(photos, cli, tmp_path, monkeypatch):
    """While the probe is made ready: the run ends without a probe or a step, and starts from scratch the next time."""
    true_probe = pretrain.train.Probe

    def probe(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return true_probe(*arguments)

    monkeypatch.setattr(pretrain.train, "Probe", probe)
    done = cli(photos, tmp_path)
    assert done.returncode == 143
    assert "stopped before the first step; run the same command again" in done.stderr
    assert (tmp_path / "metrics.jsonl").read_text() == "" and not (tmp_path / "checkpoints").exists()
    monkeypatch.setattr(pretrain.train, "Probe", true_probe)
    assert cli(photos, tmp_path, epochs=3).returncode == 0
    assert [line["step"] for line in metrics(tmp_path)] == [0, 1, 2, 3, 4, 5, 6, 6]


@pytest.mark.slow
def test_train__a_loader_process_that_dies_is_one_line(photos, run_pretrain, tmp_path):
    kill = "import multiprocessing; [os.kill(child.pid, 9) for child in multiprocessing.active_children()]"
    done = run_pretrain(photos, tmp_path, at_step=(1, kill), workers=1, device_batch=1, epochs=20)
    assert done.returncode == 137 and "Traceback" not in done.stderr
    assert "error: a loader process died (DataLoader worker" in done.stderr
    assert "the memory may be too small for 1 (--workers)" in done.stderr


@pytest.mark.slow
def test_train__few_corrupt_images_are_replaced_and_named(make_photos, cli, tmp_path):
    folder = make_photos(tmp_path / "photos", 9)
    (folder / "03.png").write_bytes(b"not a picture")
    done = cli(folder, tmp_path / "out", max_corrupt_share=0.2)
    assert done.returncode == 0, done.stderr
    assert "03.png: cannot be decoded" in (tmp_path / "out" / "unreadable.log").read_text()


def test_train__too_many_corrupt_images_stop_the_run(make_photos, cli, tmp_path):
    folder = make_photos(tmp_path / "photos", 9)
    for number in (1, 3, 5):
        (folder / f"{number:02d}.png").write_bytes(b"not a picture")
    done = cli(folder, tmp_path / "out")
    assert done.returncode == 2
    assert "of 9 images cannot be read, expected at most a share of 0.02" in done.stderr
    assert "Traceback" not in done.stderr


def test_train__a_picture_that_cannot_be_drawn_is_no_end_of_a_run(photos, cli, monkeypatch, tmp_path):
    def broken(*_):
        raise ValueError("no such\nfont")

    monkeypatch.setattr(pretrain.train, "draw_views", broken)
    monkeypatch.setattr(pretrain.train, "draw_run", lambda *given: given[-1].touch())
    done = cli(photos, tmp_path, epochs=1)
    assert done.returncode == 0 and (tmp_path / "done.json").is_file() and (tmp_path / "show.png").is_file()
    assert "views.png could not be drawn (ValueError: no such font)" in done.stderr


@pytest.mark.slow
def test_train__two_torchrun_processes_finish_and_stop_together(photos, environment, tiny_words, tmp_path):
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "pretrain", "--data", str(photos), "--output", str(tmp_path), *tiny_words()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "fp32 on cpu x 2" in done.stdout
    assert [line["step"] for line in metrics(tmp_path)] == [0, 1, 2, 3, 4, 5, 6, 6]


@pytest.mark.slow
def test_train__goes_on_with_another_number_of_processes(whole, photos, tiny_words, environment, tmp_path):
    """The step stays the same images: up to rounding the same weights, and the change is said."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for name in ("done.json", "backbone.safetensors"):
        (tmp_path / name).unlink()
    for path in (tmp_path / "checkpoints").glob("step_00000006.*"):
        path.unlink()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pretrain",
         "--data", str(photos), "--output", str(tmp_path), *tiny_words()],
        env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "resumes from step 4 of 6" in done.stdout
    assert "processes 1 -> 2, images at once 4 -> 4 (batch norm sees these together); a step stays 4 images" \
        in done.stdout
    one, two = final_state(whole)["student"], final_state(tmp_path)["student"]
    for name, value in one.items():
        assert torch.allclose(two[name].float(), value.float(), rtol=1e-3, atol=1e-4), name


@pytest.mark.slow
def test_train__names_that_are_not_utf8(make_photos, cli, tmp_path):
    folder = make_photos(tmp_path / "photos", 9)
    (folder / "03.png").rename(str(folder / "caf\udce9.png"))
    (folder / "04.png").rename(str(folder / "th\udce9.png"))
    (folder / "th\udce9.png").write_bytes(b"no image")
    done = cli(folder, tmp_path / "out", epochs=2, max_corrupt_share=0.5, probe_images=2)
    assert done.returncode == 0, done.stderr
    assert b"th\xe9.png: cannot be decoded" in (tmp_path / "out" / "unreadable.log").read_bytes()
