"""Names of other programs against the libraries that made them."""

import pytest
import torch
import torchvision

from tests.transfer import other_names, state_parts
from transfer.reading.architecture import expected_shapes
from transfer.reading.naming import dialect, to_torchvision


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_to_torchvision__names_of_torchvisions_own_children(architecture):
    with torch.device("meta"):
        network = torchvision.models.get_model(architecture, weights=None)
    children = torch.nn.Sequential(*list(network.children())[:-1])
    assert [to_torchvision("index", name) for name in children.state_dict()] == [
        name for name in network.state_dict() if not name.startswith("fc.")]


def test_to_torchvision__as_detectron2_renames():
    from detectron2.checkpoint.c2_model_loading import convert_basic_c2_names
    state = state_parts.resnet("resnet50")
    names = [name for name in other_names.msra(state, {}) if not name.startswith(("fc1000", "conv1_b"))]
    assert [to_torchvision("Caffe2", name) for name in names] == list(expected_shapes("resnet50"))
    renamed = convert_basic_c2_names(names)
    assert [to_torchvision("detectron2", name) for name in renamed] == list(expected_shapes("resnet50"))
    short = [name.replace("_gamma", "_s").replace("_beta", "_b").replace("_running_mean", "_rm")
             .replace("_running_var", "_riv") for name in names]
    assert [to_torchvision("Caffe2", name) for name in short] == list(expected_shapes("resnet50"))
    renamed = convert_basic_c2_names(short)
    assert [to_torchvision("detectron2", name) for name in renamed] == list(expected_shapes("resnet50"))


def test_to_torchvision__every_tensor_of_its_own_network():
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone
    config = get_cfg()
    config.MODEL.DEVICE = "cpu"
    config.MODEL.RESNETS.NORM = "BN"
    config.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    names = [name for name in build_backbone(config).state_dict() if not name.endswith("num_batches_tracked")]
    assert sorted(to_torchvision("detectron2", name) for name in names) == sorted(expected_shapes("resnet50"))


@pytest.mark.parametrize("title, name", [
    ("Caffe2", "conv1_b"), ("Caffe2", "fc1000_w"), ("Caffe2", "res2_0_branch2a_w_momentum"),
    ("Caffe2", "fpn_res2_2_sum_w"), ("detectron2", "stem.fc.0.weight"), ("detectron2", "fpn_lateral5.weight"),
    ("index", "2.weight"), ("index", "8.weight"), ("index", "fc.weight")])
def test_names__of_no_resnet(title, name):
    assert to_torchvision(title, name) is None


def test_dialect__by_a_few_names():
    assert dialect(["layer1.0.conv1.weight"])== "torchvision"
    assert dialect(["stem.conv1.weight"])== "detectron2"
    assert dialect(["conv1_w", "res2_0_branch2a_w"])== "Caffe2"
    assert dialect(["0.weight", "4.0.conv1.weight"])== "index"
    assert dialect([])== "torchvision"
