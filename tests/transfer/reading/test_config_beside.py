"""A config.json beside the checkpoint tells networks apart that their tensors do not."""

import json

import pytest
import torch
from safetensors.torch import save_file

from pretrain.common.errors import UserError
from tests.transfer import dense_files, other_names, state_parts
from transfer.conversion.convert import convert
from transfer.reading.intake import read_checkpoint

TIMM = {"architecture": "resnet50", "num_classes": 1000, "pretrained_cfg": {
    "tag": "a1_in1k", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}
HUGGING_FACE = {"model_type": "resnet", "layer_type": "bottleneck", "depths": [3, 4, 6, 3], "hidden_act": "relu",
                "downsample_in_first_stage": False}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of timm's and one of Hugging Face's with a ResNet-50's tensors; a test writes the config."""
    folder = tmp_path_factory.mktemp("beside")
    state = state_parts.resnet("resnet50")
    torch.save(state, folder / "timm.pth")
    torch.save(other_names.hugging_face(state, state), folder / "hf.pth")
    return folder


def read(folder, name, config):
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return read_checkpoint(folder / name)


def test_read_checkpoint__timms_config(files):
    reading = read(files, "timm.pth", TIMM)
    assert "config.json beside the file: timm's resnet50, weights a1_in1k." in reading.notes
    assert (reading.info.pixel_mean, reading.info.pixel_std) == ((0.5,) * 3, (0.25,) * 3)
    for name in ("tv_resnet50", "resnet50.a1_in1k", "swsl_resnet50"):
        assert read(files, "timm.pth", {**TIMM, "architecture": name}).info.architecture == "resnet50"


@pytest.mark.parametrize(("change", "said"), [
    ({"architecture": "resnetaa50"}, "timm's resnetaa50"), ({"architecture": "resnetblur50"}, "timm's resnetblur50"),
    ({"architecture": "resnetblur50.bt_in1k"}, "timm's resnetblur50.bt_in1k"),
    ({"model_args": {"output_stride": 16}}, "timm's resnet50 with other arguments (output_stride)")])
def test_read_checkpoint__another_network_with_the_same_tensors_is_refused(files, change, said):
    with pytest.raises(UserError) as caught:
        read(files, "timm.pth", {**TIMM, **change})
    assert str(caught.value).endswith(
        f"found in config.json beside it that it is {said}: another network with the same tensors, which cannot be "
        "converted")


def test_read_checkpoint__hugging_faces_config(files):
    assert read(files, "hf.pth", HUGGING_FACE).info.stride_in_1x1 is False
    info = read(files, "hf.pth", {**HUGGING_FACE, "downsample_in_bottleneck": True}).info
    assert info.stride_in_1x1 is True
    (files / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}')
    try:
        assert read(files, "hf.pth", HUGGING_FACE).info.pixel_mean == (0.1, 0.2, 0.3)
    finally:
        (files / "preprocessor_config.json").unlink()
    for change, said in (({"downsample_in_first_stage": True}, "a ResNet that strides in its first stage"),
                         ({"hidden_act": "silu"}, "a ResNet with silu in the place of ReLU")):
        with pytest.raises(UserError, match=said):
            read(files, "hf.pth", {**HUGGING_FACE, **change})


@pytest.mark.parametrize("config", [
    "{", "[]", {"arch": "resnet50", "lr": 0.03}, {"model_type": "bert"}, {"architecture": None}, {"architecture": 3}])
def test_read_checkpoint__another_config_says_nothing(files, config):
    reading = read(files, "timm.pth", config)
    assert reading.notes[0].startswith("Tensors alone do not tell a ResNet-50 from relatives with the same names and")
    assert "resnetaa50 and resnetblur50" in reading.notes[0]


def test_read_checkpoint__a_config_of_another_file_is_not_used(files):
    reading = read(files, "timm.pth", {**TIMM, "architecture": "resnet18"})
    assert "config.json beside the file is of a resnet18 and this is a resnet50: it was not used." in reading.notes
    assert reading.info.pixel_mean == (0.485, 0.456, 0.406)


def test_read_checkpoint__a_layout_that_says_the_network_needs_no_config(files, tmp_path):
    state = state_parts.resnet("resnet18")
    torch.save(dense_files.clove(state, state), tmp_path / "ckpt.pth")
    (tmp_path / "config.json").write_text(json.dumps({**TIMM, "architecture": "resnetaa50"}))
    assert read_checkpoint(tmp_path / "ckpt.pth").notes == ()


def test_certificate__says_that_tensors_cannot_tell(tmp_path, random_state):
    save_file({name: value.contiguous() for name, value in random_state("resnet18").items()},
              tmp_path / "model.safetensors")
    certificate = convert(tmp_path / "model.safetensors", tmp_path / "out", targets=("timm",))
    assert any(note.startswith("Tensors alone do not tell a ResNet-18") for note in certificate["notes"])
