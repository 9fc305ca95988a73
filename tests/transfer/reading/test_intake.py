"""Every known layout is read bit for bit; what is refused is in test_intake_refusals.py."""

import numpy as np
import pytest
import torch
import torchvision

from pretrain.common.atomic import sha256_file
from pretrain.common.backbone_file import BackboneInfo, save_backbone
from tests.transfer.saved import refusal, save
from transfer.reading.architecture import expected_shapes
from transfer.reading.intake import read_checkpoint


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], value), name


# Layouts

def test_read_checkpoint__clove_student(tmp_path, random_state, clove_content):
    student, teacher = random_state("resnet50"), random_state("resnet50", 1)
    path = save(clove_content(student, teacher, epoch=200), tmp_path / "ckpt_epoch_200.pth")
    reading = read_checkpoint(path)
    state, info, left_over, family = reading.state, reading.info, reading.left_over, reading.family
    assert_same(state, student)
    assert family == "CLoVE"
    assert info == BackboneInfo(method="CLoVE", architecture="resnet50", epochs=200, branch="student",
                                source_name="ckpt_epoch_200.pth", source_sha256=sha256_file(path))
    # 265 of the teacher, 2 x (2 linear + 6 batch norm) of the projectors, 4 of the attention; no counters.
    assert len(left_over) == 265 + 16 + 4
    assert {"module.encoder_k.conv1.weight", "module.projector.bn2.running_var",
            "module.self_attn.in_proj_weight"} <= set(left_over)
    assert not [name for name in left_over if name.startswith("module.encoder.")]


def test_read_checkpoint__clove_teacher_on_request(tmp_path, random_state, clove_content):
    student, teacher = random_state("resnet18"), random_state("resnet18", 1)
    path = save(clove_content(student, teacher), tmp_path / "current.pth")
    reading = read_checkpoint(path, branch="teacher")
    state, info, left_over = reading.state, reading.info, reading.left_over
    assert_same(state, teacher)
    assert (info.branch, info.architecture) == ("teacher", "resnet18")
    assert "module.encoder.conv1.weight" in left_over
    assert "module.encoder_k.conv1.weight" not in left_over


def test_read_checkpoint__unknown_branch_names_the_choices(tmp_path, small, clove_content):
    path = save(clove_content(small, small), tmp_path / "current.pth")
    assert f"one of the branches of {path} (student, teacher; CLoVE), found 'single'" in refusal(path, branch="single")
    plain = save(small, tmp_path / "plain.pth")
    assert "(single; plain torchvision names), found 'teacher'" in refusal(plain, branch="teacher")


def test_read_checkpoint__clove_without_its_attention_is_not_called_clove(tmp_path, small, clove_content):
    content = clove_content(small, small)
    content["model"] = {name: value for name, value in content["model"].items() if "self_attn" not in name}
    message = refusal(save(content, tmp_path / "pixpro.pth"))
    assert "expected a checkpoint of a known layout" in message
    assert "'model:module.encoder.' (100), 'model:module.encoder_k.' (100), " in message


@pytest.mark.parametrize("architecture, count", [("resnet18", 100), ("resnet34", 180), ("resnet50", 265)])
def test_read_checkpoint__torchvision_file(tmp_path, architecture, count):
    network = torchvision.models.get_model(architecture, weights=None)
    path = save(network.state_dict(), tmp_path / f"{architecture}-0676ba61.pth")
    reading = read_checkpoint(path)
    state, info, left_over, family = reading.state, reading.info, reading.left_over, reading.family
    own = network.state_dict()
    assert len(state) == count
    assert_same(state, {name: own[name] for name in expected_shapes(architecture)})
    assert (info.method, info.architecture, info.branch, info.epochs) == (path.stem, architecture, "single", None)
    assert reading.candidates[0] == "Supervised"
    assert (family, left_over) == ("torchvision", ["fc.weight", "fc.bias"])


def test_read_checkpoint__other_head_or_none_takes_the_name_of_the_file(tmp_path, small):
    path = save(small, tmp_path / "my-network.pth")
    reading = read_checkpoint(path)
    state, info, left_over, family = reading.state, reading.info, reading.left_over, reading.family
    assert_same(state, small)
    assert (info.method, left_over, family) == ("my-network", [], "plain torchvision names")
    path = save(small | {"fc.weight": torch.zeros(5, 512), "fc.bias": torch.zeros(5)}, tmp_path / "five-classes.pth")
    assert read_checkpoint(path).info.method == "five-classes"


def test_read_checkpoint__old_container_and_parameters(tmp_path, small):
    content = {name: torch.nn.Parameter(value) for name, value in small.items()}
    path = save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    state = read_checkpoint(path).state
    assert_same(state, small)
    assert not any(value.requires_grad for value in state.values())


def test_read_checkpoint__numpy_arrays_need_no_trust(tmp_path, small):
    content = {name: value.numpy() for name, value in small.items()} | {"fc.bias": np.float64(2)}
    assert_same(read_checkpoint(save(content, tmp_path / "arrays.pth")).state, small)


def test_read_checkpoint__views_of_one_buffer_become_tensors_of_their_own(tmp_path, small):
    flat = torch.cat([value.flatten() for value in small.values()])
    parts = flat.split([value.numel() for value in small.values()])
    content = {name: part.view(value.shape) for part, (name, value) in zip(parts, small.items(), strict=True)}
    state = read_checkpoint(save(content, tmp_path / "flat.pth")).state
    assert_same(state, small)
    assert len({value.untyped_storage().data_ptr() for value in state.values()}) == len(small)


def test_read_checkpoint__own_backbone_keeps_its_header(tmp_path, small):
    info = BackboneInfo(method="CLoVE", architecture="resnet18", epochs=3, branch="student")
    path = tmp_path / "backbone.safetensors"
    sha256 = save_backbone(path, small, info)
    reading = read_checkpoint(path, branch="student")
    state, found, left_over, family = reading.state, reading.info, reading.left_over, reading.family
    assert_same(state, small)
    assert (found.method, found.epochs, found.branch) == ("CLoVE", 3, "student")
    assert (found.source_name, found.source_sha256) == ("backbone.safetensors", sha256)
    assert (left_over, family) == ([], "backbone.safetensors")
    assert "(student; backbone.safetensors), found 'teacher': choose one of these" in refusal(path, branch="teacher")


def test_read_checkpoint__own_backbone_keeps_its_first_source(tmp_path, small):
    path = tmp_path / "renamed.bin"  # known by its first bytes
    save_backbone(path, small, BackboneInfo("M", "resnet18", source_name="first.pth", source_sha256="ab"))
    found = read_checkpoint(path).info
    assert (found.source_name, found.source_sha256) == ("first.pth", "ab")


@pytest.mark.parametrize("kind, title", [(torch.float16, "float16"), (torch.bfloat16, "bfloat16")])
def test_read_checkpoint__half_precision_becomes_float32_with_a_note(tmp_path, small, kind, title, capsys):
    path = save({name: value.to(kind) for name, value in small.items()}, tmp_path / "half.pth")
    assert_same(read_checkpoint(path).state, {name: value.to(kind).float() for name, value in small.items()})
    assert f"note: half.pth stores 100 tensors as {title}; all are converted to float32" in capsys.readouterr().err


def test_read_checkpoint__float32_makes_no_note(tmp_path, small, capsys):
    read_checkpoint(save(small, tmp_path / "full.pth"))
    assert capsys.readouterr() == ("", "")
