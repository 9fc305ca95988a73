"""What cannot be read safely and whole is refused with one line that says why."""

import argparse
import json
import os
import pickle
import zipfile
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from pretrain.common.backbone_file import BackboneInfo, save_backbone
from pretrain.common.errors import UserError
from tests.transfer.saved import refusal, save
from transfer.reading.architecture import checked, expected_shapes
from transfer.reading.intake import read_checkpoint

# Incomplete, wrong, degenerate

def test_read_checkpoint__missing_tensor_is_named_with_both_counts(tmp_path, random_state, clove_content):
    student = random_state("resnet50")
    content = clove_content(student, student)
    del content["model"]["module.encoder.layer3.2.conv2.weight"]
    path = save(content, tmp_path / "cut.pth")
    assert (f"expected 265 tensors of ResNet-50 under prefix 'module.encoder.' of {path}, found 264; "
            "missing: layer3.2.conv2.weight") in refusal(path)


def test_read_checkpoint__every_single_missing_tensor_is_noticed(tmp_path, small):
    for name in small:
        rest = {other: value for other, value in small.items() if other != name}
        with pytest.raises(UserError, match=rf"found 99; missing: {name}:"):
            checked(rest, "resnet18", "", tmp_path)


def test_read_checkpoint__counters_are_not_counted(tmp_path, small):
    content = small | {f"{name.removesuffix('running_var')}num_batches_tracked": torch.tensor(7)
                       for name in small if name.endswith("running_var")}
    reading = read_checkpoint(save(content, tmp_path / "counters.pth"))
    state, left_over = reading.state, reading.left_over
    assert (len(state), left_over) == (100, [])
    del content["layer1.0.bn1.bias"]
    assert "expected 100 tensors of ResNet-18" in refusal(save(content, tmp_path / "counters.pth"))
    assert "found 99; missing: layer1.0.bn1.bias" in refusal(tmp_path / "counters.pth")


def test_read_checkpoint__wrong_shape_is_named_with_both_shapes(tmp_path, small):
    small["conv1.weight"] = torch.randn(64, 3, 3, 3)
    assert "conv1.weight is [64, 3, 3, 3], not [64, 3, 7, 7]" in refusal(save(small, tmp_path / "cifar.pth"))


@pytest.mark.parametrize("architecture, title", [("resnet101", "ResNet-101"), ("wide_resnet50_2", "Wide ResNet-50-2"),
                                                 ("resnext50_32x4d", "ResNeXt-50 32x4d")])
def test_read_checkpoint__other_resnets_are_named(tmp_path, architecture, title):
    # One number a tensor, stretched: a file of the right shapes that stays small.
    content = {name: torch.ones(1).expand(shape) for name, shape in expected_shapes(architecture).items()}
    message = refusal(save(content, tmp_path / "other.pth"))
    assert "expected a ResNet-18, ResNet-34 or ResNet-50 under prefix ''" in message
    assert f"found a {title}: other architectures cannot be converted" in message


def test_read_checkpoint__vision_transformer_in_clove_layout(tmp_path, small, clove_content):
    content = clove_content(small, small)
    content["model"] = {name: value for name, value in content["model"].items() if ".encoder." not in name}
    content["model"] |= {f"module.encoder.blocks.{i}.attn.qkv.weight": torch.zeros(6, 2) for i in range(12)}
    message = refusal(save(content, tmp_path / "vit.pth"))
    assert "under prefix 'module.encoder.'" in message
    assert "found another network (':blocks.' (12))" in message


def test_read_checkpoint__clove_layout_without_teacher(tmp_path, small, clove_content):
    content = clove_content(small, small)
    content["model"] = {name: value for name, value in content["model"].items() if ".encoder_k." not in name}
    path = save(content, tmp_path / "student.pth")
    assert "(student; CLoVE), found 'teacher'" in refusal(path, branch="teacher")


def test_read_checkpoint__more_layers_than_a_resnet_has(tmp_path, small):
    small["layer2.0.se.fc1.weight"] = torch.zeros(4, 4, 1, 1)
    message = refusal(save(small, tmp_path / "squeeze.pth"))
    assert "found 101; a ResNet-18 has no layer2.0.se.fc1.weight: this is another network" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_read_checkpoint__not_finite_is_named(tmp_path, small, value):
    small["layer3.1.conv1.weight"] = small["layer3.1.conv1.weight"].clone()
    small["layer3.1.conv1.weight"][0, 1, 2, 0] = value
    message = refusal(save(small, tmp_path / "diverged.pth"))
    assert "found NaN or infinity in layer3.1.conv1.weight: the training diverged" in message


@pytest.mark.parametrize("value", [0.0, -1e-3])
def test_read_checkpoint__variance_that_is_not_positive_is_named(tmp_path, small, value):
    small["layer2.0.downsample.1.running_var"] = small["layer2.0.downsample.1.running_var"].clone()
    small["layer2.0.downsample.1.running_var"][5] = value
    message = refusal(save(small, tmp_path / "damaged.pth"))
    assert "found zero or negative variances in layer2.0.downsample.1.running_var" in message


def test_read_checkpoint__variance_that_underflowed_in_float16_is_read(tmp_path, small):
    small["bn1.running_var"] = small["bn1.running_var"].clone()
    small["bn1.running_var"][5] = 1e-12
    half = {name: value.half() for name, value in small.items()}
    state = read_checkpoint(save(half, tmp_path / "half.pth")).state
    assert state["bn1.running_var"][5] == 0
    half["bn1.running_var"] = torch.zeros(64, dtype=torch.float16)
    assert "found zero or negative variances in bn1.running_var" in refusal(save(half, tmp_path / "half.pth"))


def test_read_checkpoint__norms_without_statistics(tmp_path, small):
    parameters = {name: value for name, value in small.items() if "running" not in name}
    assert refusal(save(parameters, tmp_path / "a.pth")).endswith(
        ": its norms have no statistics, it is a network with group norm or a file of the parameters alone")


def test_read_checkpoint__integers_are_not_weights(tmp_path, small):
    small["conv1.weight"] = small["conv1.weight"].to(torch.int8)
    said = refusal(save(small, tmp_path / "int8.pth"))
    assert "found conv1.weight (torch.int8, torch.strided, cpu): save the network unquantized" in said


# Unknown layouts

def test_read_checkpoint__unknown_layout_names_prefixes_and_counts(tmp_path, small):
    state = {f"module.encoder_q.{name}": value for name, value in small.items()} | {"module.queue": torch.zeros(2)}
    message = refusal(save({"epoch": 1, "state_dict": state}, tmp_path / "moco.pth.tar"))
    assert "'state_dict:module.encoder_q.' (100), 'state_dict:module.' (1)" in message
    assert "name the network with --prefix, for example --prefix 'state_dict:module.encoder_q.'" in message


def test_read_checkpoint__unknown_layout_shows_only_the_top_prefixes(tmp_path):
    content = {f"part{i}.{j}.weight": torch.zeros(1) for i in range(8) for j in range(i + 1)}
    message = refusal(save(content, tmp_path / "parts.pth"))
    assert "':part7.' (8), ':part6.' (7), ':part5.' (6), ':part4.' (5), ':part3.' (4) and 3 more" in message


def test_read_checkpoint__dictionary_without_tensors(tmp_path):
    assert "no tensors (keys: epoch, lr)" in refusal(save({"epoch": 1, "lr": 0.1}, tmp_path / "a.pth"))
    assert "no tensors (keys: none)" in refusal(save({}, tmp_path / "b.pth"))


@pytest.mark.parametrize("part", ["rpn_head.rpn_conv.weight", "head.fc.weight", "ema_backbone.conv1.weight"])
def test_read_checkpoint__a_detector_or_classifier_of_openmmlab_is_no_self_supervised_file(tmp_path, small, part):
    state = {f"backbone.{name}": value for name, value in small.items()}
    whole = {"meta": {"epoch": 3}, "state_dict": state}
    assert read_checkpoint(save(whole, tmp_path / "a.pth")).family == "mmselfsup"
    whole["state_dict"] = state | {part: torch.zeros(3, 3)}
    said = refusal(save(whole, tmp_path / "b.pth"))
    assert "backbone." in said and "--prefix" in said


def test_read_checkpoint__another_network_in_the_file_is_said(tmp_path, small):
    path = save({"state_dict": small | {"fc.weight": torch.zeros(9, 512)}, "state_dict_ema": small}, tmp_path / "a.pth")
    read = read_checkpoint(path)
    assert "The file holds another network, state_dict_ema, that was not read." in read.notes
    assert "state_dict_ema/conv1.weight" in read.left_over


def test_read_checkpoint__not_a_dictionary(tmp_path):
    assert "expected a dictionary in" in refusal(save([torch.zeros(2)], tmp_path / "list.pth"))
    assert "found list" in refusal(tmp_path / "list.pth")


# Trust

class Payload:
    """Runs code when it is unpickled: makes a folder."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_read_checkpoint__code_in_a_file_is_not_run(tmp_path, small):
    path = save(small | {"extra": Payload(tmp_path / "made")}, tmp_path / "evil.pth")
    message = refusal(path)
    assert "holds an object of the class posix.mkdir" in message
    assert "add --trust if you know where the file comes from" in message
    assert not (tmp_path / "made").exists()


def test_read_checkpoint__trust_reads_the_rest_and_warns(tmp_path, small, capsys):
    path = save(small | {"share": Fraction(1, 3)}, tmp_path / "shares.pth")
    assert "of the class fractions.Fraction" in refusal(path)
    reading = read_checkpoint(path, trust=True)
    state, left_over = reading.state, reading.left_over
    assert all(torch.equal(state[name], value) for name, value in small.items())
    assert left_over == ["share"]
    assert capsys.readouterr().err == f"warning: --trust: {path} may run any code while it is read\n"


def test_read_checkpoint__trust_takes_a_whole_pickled_network(tmp_path):
    network = torchvision.models.resnet18()
    path = save(network, tmp_path / "network.pth")
    assert "of the class torchvision.models.resnet.ResNet" in refusal(path)
    assert torch.equal(read_checkpoint(path, trust=True).state["conv1.weight"], network.conv1.weight)


def test_read_checkpoint__namespace_with_other_classes_is_refused(tmp_path, small, clove_content):
    content = clove_content(small, small)
    content["opt"] = argparse.Namespace(share=Fraction(1, 3))
    assert "of the class fractions.Fraction" in refusal(save(content, tmp_path / "opt.pth"))


def test_read_checkpoint__trusted_file_whose_code_is_not_installed(tmp_path):
    path = save({"a": torch.zeros(1)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"torch._utils", b"nowhere_else"))
    assert "needs code that is not installed here (No module named 'nowhere_else')" in refusal(path, trust=True)


# Unreadable

def test_read_checkpoint__missing_folder_empty(tmp_path):
    assert refusal(tmp_path / "none.pth").endswith("none.pth: not found; check the path")
    assert f"found the folder {tmp_path}" in refusal(tmp_path)
    (tmp_path / "empty.pth").touch()
    assert "is empty (0 bytes)" in refusal(tmp_path / "empty.pth")


def test_read_checkpoint__text_shows_how_it_begins(tmp_path):
    (tmp_path / "pointer.pth").write_text("version https://git-lfs\noid sha256:12\n")
    message = refusal(tmp_path / "pointer.pth")
    assert "neither a PyTorch nor a safetensors file (it begins with 'version https://git-lfs')" in message


def test_read_checkpoint__noise(tmp_path):
    (tmp_path / "noise.pth").write_bytes(bytes([7, 200, 3, 251] * 300))
    assert refusal(tmp_path / "noise.pth").endswith(
        "is neither a PyTorch nor a safetensors file: download it again or name another file")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_read_checkpoint__cut_off(tmp_path, small, share):
    whole = save(small, tmp_path / "whole.pth").read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[:int(len(whole) * share)])
    assert "begins like a PyTorch file but is damaged or cut off" in refusal(path)


def test_read_checkpoint__cut_off_in_the_old_container(tmp_path, small):
    whole = save(small, tmp_path / "whole.pth", _use_new_zipfile_serialization=False).read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[:len(whole) // 2])
    assert "is a Python pickle, but not a whole one" in refusal(path)


def test_read_checkpoint__plain_pickle_and_plain_zip(tmp_path):
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"model": {"a": [1]}}, protocol=2))
    assert "no tensors (keys: model)" in refusal(tmp_path / "weights.pkl")
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as file:
        file.writestr("a.txt", "b")
    message = refusal(tmp_path / "photos.pth")
    assert "is a zip file, but none that torch.save wrote (a.txt): unpack it with `unzip " in message
    np.savez(tmp_path / "arrays.npz", **{"conv1.weight": np.zeros(3), "fc.bias": np.zeros(2)})
    assert ("is an archive of numpy arrays (conv1.weight, ...; 2 in all): torch.save("
            in refusal(tmp_path / "arrays.npz"))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_read_checkpoint__torchscript(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    assert "is a TorchScript file, which holds a program: torch.save(torch.jit.load(" in refusal(tmp_path / "script.pt")


def test_read_checkpoint__one_changed_bit_in_any_part_is_found(tmp_path, small):
    path = save(small, tmp_path / "whole.pth")
    whole = path.read_bytes()
    read_checkpoint(path)
    with zipfile.ZipFile(path) as file:
        starts = [part.header_offset + 30 + len(part.filename) for part in file.infolist() if part.file_size > 200]
    for start in starts[::20]:
        changed = bytearray(whole)
        changed[start + 150] ^= 1  # past the padding
        path.write_bytes(changed)
        assert "begins like a PyTorch file but is damaged or cut off" in refusal(path), start


def test_read_checkpoint__file_without_sums(tmp_path, small):
    torch.serialization.set_crc32_options(False)
    try:
        path = save(small, tmp_path / "whole.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as file:
        assert not any(part.CRC for part in file.infolist())
    assert len(read_checkpoint(path).state) == 100


def test_read_checkpoint__safetensors_without_header_or_cut_off(tmp_path, small):
    path = tmp_path / "plain.safetensors"
    save_file(small, path, metadata={"backbone": "{not json"})
    assert "expected a backbone header of this version, found " in refusal(path)
    save_file(small, path, metadata={"backbone": '{"pixel_mean": [0, 0, 0], "pixel_std": [1, 1, 1], "colour": "RGB"}'})
    assert "expected a backbone header of this version, found " in refusal(path)
    save_backbone(path, small, BackboneInfo("M", "resnet18"))
    path.write_bytes(path.read_bytes()[:-100])
    assert "is not a whole safetensors file" in refusal(path)


@pytest.mark.parametrize(("name", "value"), [
    ("pixel_mean", ["a", 1, 1]), ("pixel_std", [0, 0, 0]), ("pixel_std", [0.2, 0.2]),
    ("pixel_mean", [float("nan")] * 3),
    ("channel_order", "XYZ"), ("epochs", "many"), ("epochs", -1), ("method", None), ("method", "a\nb"),
    ("architecture", "resnet101"), ("architecture", ["resnet18"]), ("branch", "both"), ("stride_in_1x1", 1),
    ("source_name", 3), ("classes", 1),
    ("pretraining", {"objective": "clove"}), ("pretraining", [1]),
    ("pretraining", {"objective": "clove", "seed": -1, "recipe_sha256": "0" * 64, "images_sha256": "0" * 64}),
    ("pretraining", {"objective": "clove", "seed": 1, "recipe_sha256": "0" * 64, "images_sha256": "G" * 64})])
def test_read_checkpoint__a_backbone_header_with_wrong_values(tmp_path, small, name, value):
    path = tmp_path / "own.safetensors"
    header = asdict(BackboneInfo("M", "resnet18")) | {name: value}
    save_file(small, path, metadata={"backbone": json.dumps(header)})
    assert f"expected a backbone header of this version, found {name} " in refusal(path)


@pytest.mark.parametrize("change", [
    lambda tensor: tensor.to(torch.float8_e4m3fn), lambda tensor: tensor.to_sparse(), lambda tensor: tensor.to("meta"),
    lambda tensor: tensor.to(torch.complex64), lambda tensor: tensor.int()])
def test_read_checkpoint__tensors_that_are_no_dense_floating_numbers(tmp_path, small, change):
    path = save(small | {"layer1.0.bn1.running_var": change(small["layer1.0.bn1.running_var"])}, tmp_path / "odd.pth")
    said = refusal(path)
    assert said.startswith(f"expected 100 tensors of ResNet-18 under prefix '' of {path}, found "
                           "layer1.0.bn1.running_var (torch.")
    assert said.endswith("): save the network unquantized, dense and with its numbers")


def test_read_checkpoint__a_path_below_a_file(tmp_path, small):
    path = save(small, tmp_path / "whole.pth")
    assert refusal(path / "x") == f"{path / 'x'}: not found; check the path"
