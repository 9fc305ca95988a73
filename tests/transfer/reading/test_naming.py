"""Names of other programs against the libraries that made them."""

import pytest
import torch
import torchvision

from tests.transfer import other_names, state_parts
from transfer.reading.architecture import expected_shapes
from transfer.reading.naming import dialect, from_caffe2, from_detectron2, from_index


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_from_index__names_of_torchvisions_own_children(architecture):
    with torch.device("meta"):
        network = torchvision.models.get_model(architecture, weights=None)
    children = torch.nn.Sequential(*list(network.children())[:-1])
    assert [from_index(name) for name in children.state_dict()] == [
        name for name in network.state_dict() if not name.startswith("fc.")]


def test_from_caffe2__as_detectron2_renames():
    from detectron2.checkpoint.c2_model_loading import convert_basic_c2_names
    state = state_parts.resnet("resnet50")
    names = [name for name in other_names.msra(state, {}) if not name.startswith(("fc1000", "conv1_b"))]
    assert [from_caffe2(name) for name in names] == list(expected_shapes("resnet50"))
    assert [from_detectron2(name) for name in convert_basic_c2_names(names)] == list(expected_shapes("resnet50"))
    short = [name.replace("_gamma", "_s").replace("_beta", "_b").replace("_running_mean", "_rm")
             .replace("_running_var", "_riv") for name in names]
    assert [from_caffe2(name) for name in short] == list(expected_shapes("resnet50"))
    assert [from_detectron2(name) for name in convert_basic_c2_names(short)] == list(expected_shapes("resnet50"))


def test_from_detectron2__every_tensor_of_its_own_network():
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone
    config = get_cfg()
    config.MODEL.DEVICE = "cpu"
    config.MODEL.RESNETS.NORM = "BN"
    config.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    names = [name for name in build_backbone(config).state_dict() if not name.endswith("num_batches_tracked")]
    assert sorted(map(from_detectron2, names)) == sorted(expected_shapes("resnet50"))


@pytest.mark.parametrize("function, name", [
    (from_caffe2, "conv1_b"), (from_caffe2, "fc1000_w"), (from_caffe2, "res2_0_branch2a_w_momentum"),
    (from_caffe2, "fpn_res2_2_sum_w"), (from_detectron2, "stem.fc.0.weight"), (from_detectron2, "fpn_lateral5.weight"),
    (from_index, "2.weight"), (from_index, "8.weight"), (from_index, "fc.weight")])
def test_names__of_no_resnet(function, name):
    assert function(name) is None


def test_dialect__by_a_few_names():
    assert dialect(["layer1.0.conv1.weight"])[0] == "torchvision"
    assert dialect(["stem.conv1.weight"])[0] == "detectron2"
    assert dialect(["conv1_w", "res2_0_branch2a_w"])[0] == "Caffe2"
    assert dialect(["0.weight", "4.0.conv1.weight"])[0] == "index"
    assert dialect([])[0] == "torchvision"
