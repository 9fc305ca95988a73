"""The converted backbone is the same network inside detectron2, and nothing else passes for it."""

import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_backbone, build_model

import transfer.conversion.proof as proof_module
import transfer.conversion.writers as writers_module
from pretrain.common.backbone_file import BackboneInfo
from pretrain.common.errors import UserError
from transfer.conversion.proof import assert_loaded, backbone_config, prove_detectron2
from transfer.conversion.stage_maps import (
    STAGES,
    reference_network,
    relative_differences,
    stage_maps,
    torchvision_maps,
)
from transfer.conversion.writers import WRITERS, detectron2_name, read_detectron2

BOUND = 1e-5  # of each map's standard deviation: what counts as the same network
INFO = BackboneInfo(method="CLoVE", architecture="resnet50")


def images(size, count=1, kind=torch.float64):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5), dtype=kind)


@pytest.fixture(scope="session")
def resnet50_weights(resnet50_folder):
    return resnet50_folder[0] / "detectron2.pkl"


# The same network

@pytest.fixture(scope="session")
def mask_rcnn(resnet50_weights):
    """detectron2's Mask R-CNN with FPN, loaded by its own checkpointer from the converted file; evaluation mode."""
    config = backbone_config("resnet50")
    config.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    config.MODEL.MASK_ON = True
    config.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    config.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    config.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    config.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    config.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    config.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    config.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    config.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    config.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    model = build_model(config).eval()
    DetectionCheckpointer(model).load(str(resnet50_weights))
    return model


def test_converted_backbone__same_maps_inside_mask_rcnn(mask_rcnn, resnet50_weights, random_state):
    assert assert_loaded(mask_rcnn, resnet50_weights) == 265
    batch = images(128, count=2, kind=torch.float32)
    expected = torchvision_maps(random_state("resnet50"), "resnet50", batch)
    found = stage_maps(mask_rcnn.backbone.bottom_up, batch, STAGES)
    assert [tuple(found[stage].shape[1:]) for stage in STAGES] == [(64, 32, 32), (256, 32, 32), (512, 16, 16),
                                                                    (1024, 8, 8), (2048, 4, 4)]
    assert max(relative_differences(expected, found).values()) < BOUND


def test_torchvision_maps__are_what_the_network_computes(random_state):
    # The reference side of every comparison, once by hand.
    state, batch = random_state("resnet18"), images(64, kind=torch.float32)
    network = torchvision.models.resnet18().eval()
    network.load_state_dict(state | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, strict=False)
    with torch.no_grad():
        x = network.maxpool(network.relu(network.bn1(network.conv1(batch))))
        by_hand = {"stem": x}
        layers = (network.layer1, network.layer2, network.layer3, network.layer4)
        for stage, layer in zip(STAGES[1:], layers, strict=True):
            by_hand[stage] = x = layer(x)
    maps = torchvision_maps(state, "resnet18", batch)
    assert all(torch.equal(maps[stage], by_hand[stage]) for stage in STAGES)


def test_converted_backbone__training_mode_is_given_back(mask_rcnn):
    bottom_up = mask_rcnn.backbone.bottom_up
    bottom_up.train()
    before = bottom_up.stem.conv1.norm.running_mean.clone()
    stage_maps(bottom_up, images(32, kind=torch.float32), STAGES)
    assert bottom_up.training
    assert torch.equal(bottom_up.stem.conv1.norm.running_mean, before)
    bottom_up.eval()


class Comparison:
    """Torchvision's maps against detectron2's, one stage at a time from the maps before it, in float64.

    One differing map is enough for a comparison to fail, so only the stage that a tensor belongs to is computed.
    """

    def __init__(self, state, weights):
        self.batch = images(32)
        self.expected = torchvision_maps(state, "resnet50", self.batch)
        backbone = build_backbone(backbone_config("resnet50"))
        self.initial = {name: value.double() for name, value in backbone.bottom_up.state_dict().items()}
        DetectionCheckpointer(backbone).load(str(weights))
        self.bottom_up = backbone.bottom_up.double().eval()
        self.tensors = {name: value for name, value in self.bottom_up.state_dict().items()
                        if not name.endswith("num_batches_tracked")}
        self.inputs = dict(zip(STAGES, (self.batch, *(self.expected[stage] for stage in STAGES[:-1])), strict=True))

    def same(self, stage):
        with torch.no_grad():
            found = getattr(self.bottom_up, stage)(self.inputs[stage])
        # Not `>`: a map full of nan must not pass.
        return relative_differences({stage: self.expected[stage]}, {stage: found})[stage] <= BOUND

    def same_with(self, name, value):
        """Whether the maps are still the same when the tensor `name` has other content."""
        kept = self.tensors[name].clone()
        self.tensors[name].copy_(value)
        try:
            return self.same(name.split(".")[0])
        finally:
            self.tensors[name].copy_(kept)


@pytest.fixture(scope="session")
def comparison(random_state, resnet50_weights):
    return Comparison(random_state("resnet50"), resnet50_weights)


def perturbed(value):
    """A thousandth of the tensor's own spread, as noise."""
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=value.dtype)
    return value + 1e-3 * value.std() * noise


def neighbours(tensors):
    """Every tensor with another one of its shape; those whose shape is theirs alone are left out."""
    by_shape = {}
    for name, value in tensors.items():
        by_shape.setdefault(tuple(value.shape), []).append(name)
    return [pair for names in by_shape.values() if len(names) > 1 for pair in pairwise([*names, names[0]])]


# The eight tensors of a ResNet-50 with no other of their shape. Whatever is put in their place has another shape, and
# detectron2 then warns and keeps what it initialised: for the maps that is a dropped tensor, which is tested for all.
ALONE = ["stem.conv1.weight", "res2.0.conv1.weight", "res3.0.conv1.weight", "res3.0.shortcut.weight",
         "res4.0.conv1.weight", "res4.0.shortcut.weight", "res5.0.conv1.weight", "res5.0.shortcut.weight"]


def alone(tensors):
    """Names of the tensors whose shape no other has."""
    paired = {name for pair in neighbours(tensors) for name in pair}
    return [name for name in tensors if name not in paired]


def test_comparison__passes_untouched_and_covers_all(comparison):
    assert len(comparison.tensors) == 265
    assert all(comparison.same(stage) for stage in STAGES)
    pairs = neighbours(comparison.tensors)
    assert len(pairs) == len({name for name, _ in pairs}) == 265 - 8
    assert sorted(alone(comparison.tensors)) == sorted(ALONE)


def test_comparison__fails_when_any_tensor_is_perturbed(comparison):
    survived = [name for name, value in comparison.tensors.items() if comparison.same_with(name, perturbed(value))]
    assert survived == []
    assert all(comparison.same(stage) for stage in STAGES)  # everything is as it was


@pytest.mark.slow
def test_comparison__fails_when_any_tensor_is_dropped(comparison):
    # A dropped tensor keeps what detectron2 initialised it with.
    assert [name for name in comparison.tensors if comparison.same_with(name, comparison.initial[name])] == []


@pytest.mark.slow
def test_comparison__fails_when_any_tensor_is_swapped_with_its_neighbours(comparison):
    pairs = neighbours(comparison.tensors)
    pairs += [(second, first) for first, second in pairs]
    assert [pair for pair in pairs if comparison.same_with(pair[0], comparison.tensors[pair[1]])] == []


# The file: every change of one tensor is refused, and by whom

def swaps(tensors):
    """A pair for each of the 265: of the same shape where there is one, else with the next tensor of another shape."""
    names = list(tensors)
    return neighbours(tensors) + [(name, names[names.index(name) - 1]) for name in alone(tensors)]


def test_proof__every_perturbed_swapped_or_dropped_tensor_of_the_file_is_refused(resnet50_weights, random_state):
    source = {detectron2_name(name): value for name, value in random_state("resnet50").items()}
    found = read_detectron2(resnet50_weights)
    require_equal = proof_module._require_equal
    require_equal(source, found, "tensors", "")

    def refused(name, content):  # of one tensor: what the whole file's comparison does with each
        with pytest.raises(UserError, match="found 0 equal, 1 (different|missing)"):
            require_equal({name: source[name]}, content, "tensors", "")

    pairs = swaps(found)
    assert {name for name, _ in pairs} == set(found) and len(pairs) == len(found) == 265
    for first, second in pairs:
        refused(first, {first: found[second]})
        refused(second, {second: found[first]})
    for name, value in found.items():
        refused(name, {})
        flipped = value.copy()
        flipped.reshape(-1).view(np.uint32)[-1] ^= 1  # the last bit of one number
        refused(name, {name: flipped})
    assert sorted(alone(found)) == sorted(ALONE)


@pytest.mark.longest
@pytest.mark.parametrize("kind", ["perturbed", "swapped", "dropped"])
def test_prove_detectron2__refuses_the_whole_file_with_any_one_of_its_265_tensors_spoiled(
    kind, resnet50_weights, random_state, tmp_path
):
    state, path = random_state("resnet50"), tmp_path / "spoiled.pkl"
    content = pickle.loads(resnet50_weights.read_bytes())
    tensors = content["model"]
    partners = {one: other for pair in swaps(tensors) for one, other in (pair, pair[::-1])}
    for name in list(tensors):
        model = dict(tensors)
        if kind == "perturbed":
            model[name] = np.nextafter(model[name], np.float32(np.inf))
        elif kind == "swapped":
            model[name], model[partners[name]] = model[partners[name]], model[name]
        else:
            del model[name]
        path.write_bytes(pickle.dumps(content | {"model": model}, protocol=4))
        with pytest.raises(UserError, match=f"found 26[34] equal, [12] (different|missing in the file) .*{name}"):
            prove_detectron2(path, state, INFO, {})


def spoiled(weights, folder, change):
    """The converted file with `change` applied to its tensors, written to `folder`."""
    content = pickle.loads(weights.read_bytes())
    change(content["model"])
    path = folder / "spoiled.pkl"
    path.write_bytes(pickle.dumps(content))
    return path


def exchange(first, second):
    def change(model):
        model[first], model[second] = model[second], model[first]
    return change


def nudge(model):
    model["stem.conv1.weight"].flat[3] += 1e-4


@pytest.mark.parametrize("change, text", [
    (exchange("res3.1.conv1.norm.bias", "res3.2.conv1.norm.bias"),
     r"expected all 265 tensors of the source .* found 263 equal, 2 different \(res3.1.conv1.norm.bias, res3.2"),
    (nudge, r"found 264 equal, 1 different \(stem.conv1.weight\)"),
    (lambda model: model.pop("res5.0.shortcut.weight"),
     r"found 264 equal, 1 missing in the file \(res5.0.shortcut.weight\): convert the checkpoint again"),
])
def test_prove_detectron2__a_spoiled_file_is_refused(change, text, resnet50_weights, random_state, tmp_path):
    with pytest.raises(UserError, match=text):
        prove_detectron2(spoiled(resnet50_weights, tmp_path, change), random_state("resnet50"), INFO, {})


def test_prove_detectron2__a_wrong_rule_of_names_is_found_by_the_maps(random_state, tmp_path, monkeypatch):
    # Writer and proof share the rule, so that every tensor is equal; only the network's maps can tell.
    turned = {"res3.1.conv1.norm.bias": "res3.1.conv2.norm.bias", "res3.1.conv2.norm.bias": "res3.1.conv1.norm.bias"}

    def wrong(name):
        return turned.get(detectron2_name(name), detectron2_name(name))

    monkeypatch.setattr(writers_module, "detectron2_name", wrong)
    monkeypatch.setattr(proof_module, "detectron2_name", wrong)
    info = BackboneInfo(method="", architecture="resnet18")
    WRITERS["detectron2"].write(tmp_path / "net.pkl", random_state("resnet18"), info, {})
    with pytest.raises(UserError, match=r"within 1e-09 standard deviations of torchvision's, found res3 \S+, res4 \S+, "
                                        r"res5 \S+: the file is not a conversion"):
        prove_detectron2(tmp_path / "net.pkl", random_state("resnet18"), info, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_detectron2__does_not_load_a_tensor_of_another_shape(name, resnet50_weights, tmp_path):
    # The swaps that the maps above cannot play: detectron2 keeps its own values, and the check after loading says so.
    names = list(read_detectron2(resnet50_weights))
    path = spoiled(resnet50_weights, tmp_path, exchange(name, names[names.index(name) - 1]))
    backbone = build_backbone(backbone_config("resnet50"))
    with proof_module.quiet():
        DetectionCheckpointer(backbone).load(str(path))
    with pytest.raises(UserError, match=rf"found 263 equal, 2 different \(.*{name}"):
        assert_loaded(backbone, path)


# MSRA's stride

def test_reference_network__stride_in_the_1x1_convolution_as_detectron2_has_it(random_state):
    ours = reference_network(random_state("resnet50"), "resnet50", stride_in_1x1=True)
    bottom_up = build_backbone(backbone_config("resnet50", stride_in_1x1=True)).bottom_up
    strides = {detectron2_name(f"{name}.weight").removesuffix(".weight"): module.stride
               for name, module in ours.named_modules() if isinstance(module, torch.nn.Conv2d)}
    theirs = {name: module.stride for name, module in bottom_up.named_modules() if isinstance(module, torch.nn.Conv2d)}
    assert strides == theirs
    assert [name for name, stride in strides.items() if stride == (2, 2) and "shortcut" not in name] == [
        "stem.conv1", "res3.0.conv1", "res4.0.conv1", "res5.0.conv1"]


def test_prove_detectron2__the_stride_of_the_source_is_the_one_compared(resnet50_weights, random_state, monkeypatch):
    msra = replace(INFO, stride_in_1x1=True)
    proof = prove_detectron2(resnet50_weights, random_state("resnet50"), msra, {})
    assert proof["tensors"] == 265 and max(proof["largest_difference"].values()) < 1e-12
    # A detectron2 network that strides elsewhere is another network, with every tensor equal.
    monkeypatch.setattr(proof_module, "backbone_config", lambda architecture, _stride: backbone_config(architecture))
    with pytest.raises(UserError, match=r"torchvision's, found res3 \S+, res4 \S+, res5"):
        prove_detectron2(resnet50_weights, random_state("resnet50"), msra, {})


# What detectron2 loaded

def test_assert_loaded__every_missing_tensor_is_noticed(mask_rcnn, resnet50_weights, monkeypatch):
    whole = pickle.loads(resnet50_weights.read_bytes())["model"]
    monkeypatch.setattr(proof_module, "_same", lambda tensor, array: True)  # names only: quick enough for all
    for name in whole:
        rest = {other: value for other, value in whole.items() if other != name}
        monkeypatch.setattr(proof_module, "read_detectron2", lambda _path, rest=rest: rest)
        with pytest.raises(UserError, match=rf"1 missing in the file \({name}\)"):
            assert_loaded(mask_rcnn, resnet50_weights)


def test_assert_loaded__one_bit_is_noticed(mask_rcnn, resnet50_weights):
    variance = mask_rcnn.backbone.bottom_up.res4[2].conv2.norm.running_var
    kept = variance.clone()
    variance[7] = torch.nextafter(variance[7], torch.tensor(9.0))
    with pytest.raises(UserError, match=r"found 264 equal, 1 different \(res4.2.conv2.norm.running_var\)"):
        assert_loaded(mask_rcnn, resnet50_weights)
    variance.copy_(kept)
    assert assert_loaded(mask_rcnn, resnet50_weights) == 265


def test_assert_loaded__random_init_and_other_architecture(resnet50_weights):
    untouched = build_backbone(backbone_config("resnet50"))
    with pytest.raises(UserError, match=r"265 backbone tensors of the detectron2 model .* 265 different"):
        assert_loaded(untouched, resnet50_weights)
    other = build_backbone(backbone_config("resnet18"))
    with pytest.raises(UserError, match=r"expected all 100 backbone tensors .* 165 unknown to the model"):
        assert_loaded(other, resnet50_weights)


def test_assert_loaded__model_without_a_resnet(resnet50_weights):
    with pytest.raises(UserError, match=r"expected all 0 backbone tensors .* 265 unknown to the model"):
        assert_loaded(torch.nn.Linear(1, 1), resnet50_weights)


def test_assert_loaded__c4_layout_has_res5_in_the_heads(resnet50_weights):
    config = backbone_config("resnet50")
    config.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    config.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    model = build_model(config)
    DetectionCheckpointer(model).load(str(resnet50_weights))
    assert any(name.startswith("roi_heads.res5.") for name in model.state_dict())
    assert assert_loaded(model, resnet50_weights) == 265


def test_assert_loaded__unreadable_file(tmp_path):
    model = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="none.pkl is not a converted checkpoint .*No such file"):
        assert_loaded(model, tmp_path / "none.pkl")
    (tmp_path / "bad.pkl").write_bytes(b"")
    with pytest.raises(UserError, match="is not a converted checkpoint"):
        assert_loaded(model, tmp_path / "bad.pkl")
