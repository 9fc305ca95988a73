"""A certificate that was edited, is of another file, or does not certify the whole network is refused."""

import json
import os
import pickle
import shutil

import pytest
import torch

from pretrain.common.atomic import sha256_file
from pretrain.common.backbone_file import BackboneInfo, save_backbone
from pretrain.common.errors import UserError
from transfer.conversion.certificate import (
    TOLERANCE,
    batch_norm_summary,
    batch_norm_warnings,
    digest,
    read_certificate,
    write_certificate,
)
from transfer.conversion.convert import convert
from transfer.settings.start_weights import read_weights


@pytest.fixture(scope="module")
def converted(tmp_path_factory, random_state):
    """A ResNet-18 converted to two targets: its folder."""
    folder = tmp_path_factory.mktemp("certificate")
    torch.save(random_state("resnet18"), folder / "net.pth")
    convert(folder / "net.pth", folder / "out", targets=("detectron2", "timm"))
    return folder / "out"


@pytest.fixture
def folder(converted, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(converted, tmp_path / "copy")


def content(folder):
    return json.loads((folder / "conversion.json").read_text())


def test_read_certificate__a_whole_folder(converted):
    assert read_certificate(converted) == content(converted)
    assert read_certificate(converted, "timm")["targets"]["timm"]["file"] == "timm.safetensors"


@pytest.mark.parametrize("key, value", [
    ("consumed", 99), ("method", "Better"), ("pixel_format", {"channel_order": "BGR"}), ("epochs", 800),
    ("left_over", ["fc.weight"]), ("tolerance", 1.0), ("digest", "0" * 64)])
def test_read_certificate__every_edit_is_found(folder, key, value):
    edited = {**content(folder), key: value}
    (folder / "conversion.json").write_text(json.dumps(edited))
    with pytest.raises(UserError, match="conversion.json: expected .*, found that it was edited after the conv"):
        read_certificate(folder)


PRETRAINING = {"objective": "clove", "seed": 3, "recipe_sha256": "a" * 64, "images_sha256": "b" * 64}


def test_certificate__says_which_pretraining_made_it_through_every_file_that_keeps_the_header(
        tmp_path, random_state, unproved):
    save_backbone(tmp_path / "own.safetensors", random_state("resnet18"), BackboneInfo(
        "CLoVE", "resnet18", 200, "student", pretraining=PRETRAINING))
    made = convert(tmp_path / "own.safetensors", tmp_path / "one", targets=("detectron2", "mmdet"))
    assert made["pretraining"] == PRETRAINING == read_certificate(tmp_path / "one")["pretraining"]
    assert read_weights(str(tmp_path / "one")).record()["pretraining"] == PRETRAINING
    for number, name in enumerate(("backbone.safetensors", "detectron2.pkl", "mmdet.pth")):
        again = convert(tmp_path / "one" / name, tmp_path / str(number), trust=True)
        assert again["pretraining"] == PRETRAINING, name


def test_certificate__of_elsewhere_and_of_an_older_version_has_no_pretraining(folder):
    assert read_certificate(folder)["pretraining"] is None
    assert read_weights(str(folder)).record()["pretraining"] is None
    write_certificate(folder, {key: value for key, value in content(folder).items() if key != "pretraining"})
    assert "pretraining" not in read_certificate(folder)
    assert read_weights(str(folder)).record()["pretraining"] is None
    assert read_weights("random").record()["pretraining"] is None


def test_read_certificate__its_looks_may_change(folder):
    # Another order and other spaces say the same.
    turned = dict(reversed(content(folder).items()))
    (folder / "conversion.json").write_text(json.dumps(turned, indent=7))
    assert read_certificate(folder) == turned


@pytest.mark.parametrize("change, text", [
    ({"consumed": 99}, r"expected all 100 tensors of a resnet18, found 99 of 100 consumed and 0 missing; convert the"),
    ({"consumed": 99, "expected": 99}, r"expected all 100 tensors .* found 99 of 99 consumed"),
    ({"missing": ["conv1.weight"]}, "found 100 of 100 consumed and 1 missing; convert the checkpoint again"),
    ({"targets": {}}, "expected .* to certify detectron2.pkl, found no file: .* with --to detectron2"),
    ({"schema": 1}, "expected a certificate of schema 2, found schema 1, of another version"),
    ({"schema": 3}, "found schema 3, of another version of this program; convert the checkpoint again"),
])
def test_read_certificate__a_sealed_one_that_does_not_certify_enough(folder, change, text):
    write_certificate(folder, {**content(folder), **change})
    with pytest.raises(UserError, match=text):
        read_certificate(folder)


@pytest.mark.parametrize("differences", [{"res5": 2 * TOLERANCE}, {"res5": float("nan")}, {}, None, {"res5": "small"}])
def test_read_certificate__maps_that_differ(folder, differences):
    values = content(folder)
    values["targets"]["detectron2"]["largest_difference"] = differences
    write_certificate(folder, values)
    with pytest.raises(UserError, match="to show maps within 1e-09 standard deviations, found "):
        read_certificate(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\x00", '"schema"'])
def test_read_certificate__another_file_of_that_name(folder, text):
    (folder / "conversion.json").write_text(text)
    with pytest.raises(UserError, match="conversion.json"):
        read_certificate(folder)


def test_read_certificate__a_file_that_is_not_the_certified_one(folder):
    file = folder / "detectron2.pkl"
    whole = bytearray(file.read_bytes())
    whole[-100] ^= 1
    file.write_bytes(whole)
    with pytest.raises(UserError, match=r"expected .*conversion.json to certify .*detectron2.pkl, found that its "
                                        f"SHA-256 is another one, {sha256_file(file)[:12]}"):
        read_certificate(folder)
    assert read_certificate(folder, "timm")  # that one still fits
    file.unlink()
    with pytest.raises(UserError, match="expected conversion.json and detectron2.pkl in it; run `clove"):
        read_certificate(folder)


def test_read_certificate__a_pickle_that_would_run_code_is_not_loaded(folder, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    (folder / "detectron2.pkl").write_bytes(pickle.dumps({"model": {"stem.conv1.weight": Harm()}, "__author__": ""}))
    values = content(folder)
    values["targets"]["detectron2"]["sha256"] = sha256_file(folder / "detectron2.pkl")
    write_certificate(folder, values)
    with pytest.raises(UserError, match=r"is not a converted checkpoint \(it holds posix.mkdir, expected arrays alone"):
        read_certificate(folder)
    assert not (tmp_path / "harmed").exists()


def test_digest__is_of_all_but_itself():
    assert digest({"a": 1, "digest": "x"}) == digest({"digest": "y", "a": 1}) != digest({"a": 2})


# Batch norm

def test_batch_norm_summary__by_hand():
    state = {"bn1.running_mean": torch.tensor([-2.0, 0.5]), "bn1.running_var": torch.tensor([0.25, 4.0]),
             "bn2.running_mean": torch.zeros(3), "bn2.running_var": torch.ones(3), "bn2.weight": torch.full((3,), 9.0)}
    assert batch_norm_summary(state) == {
        "layers": 2, "untouched": ["bn2"], "running_mean": {"min": -2.0, "max": 0.5},
        "running_var": {"min": 0.25, "median": 1.0, "max": 4.0}, "zero_variances": 0, "zero_weights": []}


def test_batch_norm_warnings__what_looks_untouched(random_state):
    state = dict(random_state("resnet18"))
    assert batch_norm_warnings(batch_norm_summary(state)) == []
    state["bn1.running_mean"] = torch.zeros(64)
    assert batch_norm_warnings(batch_norm_summary(state)) == []  # half of it is no sign
    state["bn1.running_var"] = torch.ones(64)
    state["layer1.0.bn1.running_var"] = torch.zeros(64)
    state["layer1.0.bn2.weight"] = torch.zeros(64)
    one, other, silent = batch_norm_warnings(batch_norm_summary(state))
    assert one.startswith("1 of 20 batch-norm layers have all means 0 and all variances 1, as a new network has")
    assert other == "64 channels have a variance of 0: stored in float16?"
    assert silent.startswith("1 batch-norm layers have weights of 0 alone: the maps prove nothing of the conv")
