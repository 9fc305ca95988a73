"""Files for torchvision, timm and mmdetection, MSRA's network, and a pretrained FPN."""

import importlib.util
import json
import pickle

import pytest
import safetensors.torch
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_backbone

import transfer.conversion.proof as proof_module
from pretrain.common.backbone_file import BackboneInfo, load_backbone, save_backbone
from pretrain.common.errors import UserError
from tests.transfer import dense_files, other_names
from transfer.conversion.certificate import read_certificate
from transfer.conversion.convert import convert, describe
from transfer.conversion.proof import PROOFS, assert_loaded, backbone_config
from transfer.conversion.stage_maps import (
    STAGES,
    fixed_images,
    relative_differences,
    stage_maps,
    torchvision_maps,
)
from transfer.conversion.writers import WRITERS, pixel_format, read_detectron2
from transfer.reading.intake import read_checkpoint

MSRA = {"channel_order": "BGR", "mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0], "stride_in_1x1": True}


@pytest.fixture(scope="module")
def small(tmp_path_factory, random_state):
    """A ResNet-18 in all targets: folder, certificate, state."""
    folder = tmp_path_factory.mktemp("targets")
    torch.save(random_state("resnet18"), folder / "net.pth")
    certificate = convert(folder / "net.pth", folder / "out", targets=tuple(WRITERS))
    return folder / "out", certificate, random_state("resnet18")


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in state.items())


def test_writers_and_proofs_are_of_the_same_targets():
    assert list(WRITERS) == list(PROOFS) == ["detectron2", "torchvision", "timm", "mmdet"]


def test_convert__all_targets(small):
    folder, certificate, _ = small
    assert sorted(path.name for path in folder.iterdir()) == [
        "backbone.safetensors", "conversion.json", "detectron2.pkl", "mmdet.pth", "timm.safetensors", "torchvision.pth"]
    assert all(read_certificate(folder, target) for target in WRITERS)
    targets = certificate["targets"]
    assert {name: written["tensors"] for name, written in targets.items()} == dict.fromkeys(WRITERS, 100)
    assert targets["torchvision"]["loader"].endswith("load_state_dict(strict=False): only fc missing")
    for name, package in (("timm", "timm"), ("mmdet", "mmengine")):
        if importlib.util.find_spec(package) is None:
            assert targets[name]["loader"] == (f"none: {package} cannot be imported here; names, shapes and values "
                                               "were read back")
            assert targets[name]["largest_difference"] is None
    text = describe(certificate, folder)
    assert "timm.create_model('resnet18', num_classes=0, checkpoint_path='timm.safetensors')" in text
    assert "init_cfg=dict(type='Pretrained', checkpoint='mmdet.pth')" in text


def test_torchvision_file__loads_into_torchvisions_network(small):
    folder, _, state = small
    network = torchvision.models.resnet18()
    keys = network.load_state_dict(torch.load(folder / "torchvision.pth", weights_only=True), strict=False)
    assert (keys.missing_keys, keys.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    network.fc = torch.nn.Identity()
    maps = stage_maps(network.double(), fixed_images())
    expected = torchvision_maps(state, "resnet18", fixed_images())
    assert max(relative_differences(expected, maps).values()) < 1e-12


def test_timm_file__is_strict_without_a_classifier(small):
    # What timm's load_checkpoint does, with torchvision's network: the names are the same.
    folder, _, state = small
    tensors = safetensors.torch.load_file(folder / "timm.safetensors")
    assert same(tensors, state)
    network = torchvision.models.resnet18()
    network.fc = torch.nn.Identity()
    assert network.load_state_dict(tensors, strict=True)


def test_mmdet_file__has_mmengines_container_without_a_prefix(small):
    folder, certificate, state = small
    content = torch.load(folder / "mmdet.pth", weights_only=True)
    assert content.keys() == {"state_dict", "meta"} and same(content["state_dict"], state)
    assert content["meta"]["pixel_format"] == certificate["pixel_format"]
    assert content["meta"]["source_sha256"] == certificate["source_sha256"]


@pytest.mark.parametrize("package", ["timm", "mmengine"])
def test_convert__by_the_targets_own_loader_where_it_is_installed(package, small):
    pytest.importorskip(package)
    written = small[1]["targets"][{"mmengine": "mmdet"}.get(package, package)]
    assert written["loader"].startswith(package)
    assert set(written["largest_difference"]) == set(STAGES)
    assert max(written["largest_difference"].values()) < 1e-12


@pytest.mark.parametrize("name", ["torchvision.pth", "timm.safetensors", "mmdet.pth", "detectron2.pkl"])
def test_convert__every_file_is_read_again_as_the_same_network(small, name):
    assert same(read_checkpoint(small[0] / name).state, small[2])


def test_convert__from_the_canonical_file_to_another_target(small, tmp_path):
    folder, first, _ = small
    again = convert(folder / "backbone.safetensors", tmp_path / "timm", targets=("timm",))
    assert sorted(path.name for path in (tmp_path / "timm").iterdir()) == [
        "backbone.safetensors", "conversion.json", "timm.safetensors"]
    assert again["targets"]["timm"]["sha256"] == first["targets"]["timm"]["sha256"]
    assert (again["source"], again["source_sha256"]) == ("net.pth", first["source_sha256"])
    with pytest.raises(UserError, match="expected conversion.json and detectron2.pkl in it; run .* --to detectron2"):
        read_certificate(tmp_path / "timm")


def test_convert__another_target_replaces_the_earlier_files_and_says_so(small, tmp_path, capsys):
    source = small[0] / "backbone.safetensors"
    convert(source, tmp_path / "out", targets=("torchvision",))
    assert capsys.readouterr().err == ""
    convert(source, tmp_path / "out", targets=("timm", "mmdet"))
    assert "note: torchvision.pth of an earlier conversion is removed from" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "backbone.safetensors", "conversion.json", "mmdet.pth", "timm.safetensors"]


@pytest.mark.parametrize("target", ["torchvision", "timm", "mmdet"])
@pytest.mark.parametrize("change", ["perturb", "drop", "swap", "add"])
def test_proof__a_changed_file_is_refused_by_every_target(target, change, small, tmp_path):
    state = dict(small[2])
    if change == "perturb":
        state["layer1.0.bn1.bias"] = state["layer1.0.bn1.bias"].nextafter(torch.tensor(9.0))
    elif change == "drop":
        del state["layer4.1.conv2.weight"]
    elif change == "swap":
        state["bn1.weight"], state["bn1.running_var"] = state["bn1.running_var"], state["bn1.weight"]
    else:
        state["layer5.weight"] = torch.zeros(1)
    info = BackboneInfo("", "resnet18")
    path = tmp_path / WRITERS[target].file
    WRITERS[target].write(path, state, info, {})
    with pytest.raises((UserError, RuntimeError), match="expected|Missing|Unexpected"):
        PROOFS[target](path, small[2], info, {})


@pytest.mark.parametrize("targets, text", [
    (("caffe",), "expected --to to name some of detectron2, torchvision, timm, mmdet, found 'caffe'"),
    ((), "found ''"), (("timm", ""), "found ''"),
])
def test_convert__unknown_targets(targets, text, tmp_path):
    with pytest.raises(UserError, match=text):
        convert(tmp_path / "none.pth", tmp_path / "out", targets=targets)


# MSRA's network: BGR, no division, stride in the 1x1

@pytest.fixture(scope="module")
def msra(tmp_path_factory, random_state):
    """MSRA's layout with random weights, converted: source, folder, certificate."""
    folder = tmp_path_factory.mktemp("msra")
    (folder / "R-50.pkl").write_bytes(pickle.dumps(other_names.msra(random_state("resnet50"), {}), protocol=2))
    return folder / "R-50.pkl", folder / "out", convert(folder / "R-50.pkl", folder / "out",
                                                        targets=("detectron2", "mmdet"))


def test_msra__certificate_says_what_to_feed(msra):
    _, folder, certificate = msra
    assert certificate["pixel_format"] == read_certificate(folder)["pixel_format"] == MSRA
    assert certificate["reference"] == "torchvision's resnet50, stride moved from conv2 to conv1 in layers 2 to 4"
    assert max(certificate["targets"]["detectron2"]["largest_difference"].values()) < 1e-12
    text = describe(certificate, folder)
    assert "feed BGR images, mean [103.53, 116.28, 123.675], std [1.0, 1.0, 1.0] of 0..255; stride in the 1x1" in text
    assert "style='caffe'" in certificate["targets"]["mmdet"]["usage"]
    assert "bgr_to_rgb=False" in certificate["targets"]["mmdet"]["usage"]


def test_msra__is_the_network_that_detectron2_itself_makes_of_the_source(msra):
    # detectron2 reads Caffe2's names with code of its own (checkpoint/c2_model_loading.py).
    source, folder, _ = msra
    theirs, ours = (build_backbone(backbone_config("resnet50", stride_in_1x1=True)) for _ in range(2))
    with proof_module.quiet():
        DetectionCheckpointer(theirs).load(str(source))
        DetectionCheckpointer(ours).load(str(folder / "detectron2.pkl"))
    assert assert_loaded(theirs, folder / "detectron2.pkl") == 265
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = [stage_maps(network.bottom_up, images, STAGES) for network in (theirs, ours)]
    assert all(torch.equal(maps[0][stage], maps[1][stage]) for stage in STAGES)


def test_msra__is_no_network_of_torchvision_or_timm(msra, tmp_path):
    with pytest.raises(UserError, match=r"strides in its 1x1 convolutions, .* of torchvision and timm in its 3x3 ones: "
                                        "there it would be another network; expected --to detectron2 or mmdet"):
        convert(msra[0], tmp_path / "out", targets=("detectron2", "torchvision", "timm"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("info, expected", [
    (BackboneInfo("", "resnet50"), {"channel_order": "RGB", "mean": [123.675, 116.28, 103.53],
                                    "std": [58.395, 57.12, 57.375], "stride_in_1x1": False}),
    (BackboneInfo("", "resnet50", pixel_std=(0.228, 0.224, 0.225)), {
        "channel_order": "RGB", "mean": [123.675, 116.28, 103.53], "std": [58.14, 57.12, 57.375],
        "stride_in_1x1": False}),
])
def test_pixel_format__is_detectron2s_values_exactly(info, expected):
    assert pixel_format(info) == expected


# A pretrained FPN

@pytest.fixture(scope="module")
def resim(tmp_path_factory, random_state):
    """ReSim's layout, converted with its FPN: source, folder, certificate."""
    folder = tmp_path_factory.mktemp("resim")
    torch.save(dense_files.resim(random_state("resnet50"), random_state("resnet50", 1)), folder / "resim.pth.tar")
    return folder / "resim.pth.tar", folder / "out", convert(folder / "resim.pth.tar", folder / "out", fpn=True)


def fpn_config(norm):
    config = backbone_config("resnet50")
    config.MODEL.FPN.NORM = norm
    return config


def test_fpn__weights_go_over_and_biases_do_not(resim):
    _, folder, certificate = resim
    layers = ["fpn_lateral3", "fpn_lateral4", "fpn_lateral5", "fpn_output3", "fpn_output4"]
    assert certificate["fpn"] == {"transferred": [f"{name}.weight" for name in layers],
                                  "dropped": [f"{name}.bias" for name in layers]}
    assert not [name for name in certificate["left_over"] if name.startswith("module.encoder_q.fpn")]
    assert (certificate["consumed"], certificate["targets"]["detectron2"]["tensors"]) == (265, 270)
    backbone = build_backbone(fpn_config("BN"))
    random = {name: value.clone() for name, value in backbone.state_dict().items()}
    with proof_module.quiet():
        DetectionCheckpointer(backbone).load(str(folder / "detectron2.pkl"))
    loaded, source = backbone.state_dict(), dense_files.fpn()
    assert all(torch.equal(loaded[f"{name}.weight"], source[f"{name}.weight"]) for name in layers)
    for name in ("fpn_lateral2.weight", "fpn_output2.weight", "fpn_output5.weight", "fpn_lateral5.norm.weight"):
        assert torch.equal(loaded[name], random[name])  # ReSim has none of these
    assert assert_loaded(backbone, folder / "detectron2.pkl") == 270
    assert "pretrained FPN: 5 convolutions taken over, 5 biases dropped" in describe(certificate, folder)


def test_fpn__a_changed_or_unloaded_one_is_noticed(resim):
    folder = resim[1]
    backbone = build_backbone(fpn_config("BN"))
    with proof_module.quiet():
        DetectionCheckpointer(backbone).load(str(folder / "detectron2.pkl"))
    with torch.no_grad():
        backbone.fpn_output4.weight[0, 0, 0, 0] += 1
    with pytest.raises(UserError, match=r"found 269 equal, 1 different \(fpn_output4.weight\)"):
        assert_loaded(backbone, folder / "detectron2.pkl")
    with pytest.raises(UserError, match=r"5 unknown to the model \(fpn_lateral3.weight, .*\): this file holds a "
                                        "pretrained FPN: use it with an FPN network, or convert without --fpn"):
        assert_loaded(backbone.bottom_up, folder / "detectron2.pkl")


@pytest.mark.slow
def test_fpn__goes_through_the_canonical_file(resim, tmp_path):
    _, folder, first = resim
    reading = read_checkpoint(folder / "backbone.safetensors")
    assert len(reading.state) == 265 and len(reading.fpn) == 10 and reading.left_over == []
    again = convert(folder / "backbone.safetensors", tmp_path / "fpn", fpn=True)
    assert again["targets"]["detectron2"]["sha256"] == first["targets"]["detectron2"]["sha256"]
    alone = convert(folder / "backbone.safetensors", tmp_path / "alone", targets=("timm",))
    assert alone["fpn"]["transferred"] == [] and len(alone["fpn"]["dropped"]) == 10
    assert len(load_backbone(tmp_path / "alone" / "backbone.safetensors")[0]) == 265
    assert "pretrained FPN: its 10 tensors left out; --fpn takes it over" in describe(alone, tmp_path)


@pytest.mark.slow
def test_fpn__off_by_default(resim, tmp_path, monkeypatch):
    monkeypatch.setitem(PROOFS, "detectron2", lambda path, *_: {
        "loader": "", "tensors": len(read_detectron2(path)), "largest_difference": {}})
    certificate = convert(resim[0], tmp_path / "out")
    assert certificate["targets"]["detectron2"]["tensors"] == 265
    assert certificate["fpn"]["transferred"] == [] and len(certificate["fpn"]["dropped"]) == 10


def test_fpn__asked_for_where_there_is_none(small, tmp_path):
    with pytest.raises(UserError, match="--fpn: expected a pretrained FPN in .* found none in this backbone"):
        convert(small[0] / "backbone.safetensors", tmp_path / "out", fpn=True)
    with pytest.raises(UserError, match="--fpn takes a pretrained FPN over to detectron2: add --to detectron2"):
        convert(small[0] / "backbone.safetensors", tmp_path / "out", fpn=True, targets=("timm",))


def test_canonical_file__of_an_earlier_version_is_read(tmp_path, random_state):
    # Without the field that says of which family the source was.
    path = tmp_path / "old.safetensors"
    save_backbone(path, random_state("resnet18"), BackboneInfo("Mine", "resnet18"))
    tensors = safetensors.torch.load_file(path)
    header = json.loads(json.dumps(BackboneInfo("Mine", "resnet18").__dict__))
    del header["family"]
    safetensors.torch.save_file(tensors, path, metadata={"backbone": json.dumps(header)})
    certificate = convert(path, tmp_path / "out", targets=("timm",))
    assert (certificate["method"], certificate["family"]) == ("Mine", "backbone.safetensors")


@pytest.mark.parametrize("name", ["detectron2.pkl", "mmdet.pth"])
def test_msra__a_written_file_is_read_again_with_its_pixels_and_stride(msra, tmp_path, name):
    again = convert(msra[1] / name, tmp_path / "again")
    assert again["pixel_format"] == MSRA and "stride moved" in again["reference"]
    assert max(again["targets"]["detectron2"]["largest_difference"].values()) < 1e-12


def test_convert__a_file_of_ours_that_does_not_say_what_it_wants_is_refused(small, tmp_path):
    content = pickle.loads((small[0] / "detectron2.pkl").read_bytes())
    del content["backbone"]
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="found a file of an older version without them; convert the original checkp"):
        read_checkpoint(tmp_path / "old.pkl")
