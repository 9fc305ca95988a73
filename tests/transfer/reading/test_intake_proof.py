"""A method is named only where its layout proves it; networks that are no ResNet are refused for what they are."""

import pytest
import torch

from pretrain.common.errors import UserError
from tests.transfer.image_files import dino, moco, redundancy, simsiam, somebodys
from tests.transfer.state_parts import OPTIMIZER, batch_norm, layer, mlp, prefixed, resnet, with_counters
from transfer.reading.intake import read_checkpoint


@pytest.fixture(scope="module")
def net():
    return resnet("resnet18")


@pytest.fixture(scope="module")
def other():
    return resnet("resnet18", 2000)


def read(content, tmp_path, **options):
    torch.save(content, tmp_path / "run.pth")
    return read_checkpoint(tmp_path / "run.pth", **options)


def without(content, key, text):
    return {**content, key: {name: value for name, value in content[key].items() if text not in name}}


def unproved(net, other):
    """Files that are nearly those of a method."""
    vicreg = redundancy(net, mlp("projector", 2048, 8192, 8192, 8192, last_bias=False), epoch=3)
    return {
        "two layers": somebodys(("module.backbone.", net), ("module.", mlp("projector", 2048, 2048, 128))),
        "a last bias": redundancy(net, mlp("projector", 2048, 8192, 8192, 8192), epoch=3),
        "vicreg and more": {**vicreg, "model": vicreg["model"] | layer("module.predictor.0", 4, 4)},
        "vicreg with a queue": {**vicreg, "model": vicreg["model"] | {"module.queue": torch.zeros(3)}},
        "barlow's norm alone": somebodys(("backbone.", net), ("", layer("projector.0", 4, 4)),
                                         ("", batch_norm("bn", 4, affine=False))),
        "simsiam's predictor": without(simsiam(net, other), "state_dict", "fc.7"),
        "simsiam and more": {**simsiam(net, other), "state_dict": simsiam(net, other)["state_dict"]
                             | layer("module.prototypes", 4, 4)},
        "dino without its loss": {key: value for key, value in dino(net, other).items() if key != "dino_loss"},
        "esvit's names": dino(net, other),
        "vicreg, narrower": redundancy(net, mlp("projector", 512, 64, 64, 64, last_bias=False), epoch=3),
        "barlow twins, narrower": redundancy(net, mlp("projector", 512, 64, 64, 64, last_bias=False),
                                             batch_norm("bn", 64, affine=False), epoch=3),
        "simsiam, narrower": {"state_dict": simsiam(net, other)["state_dict"]
                              | mlp("module.predictor", 64, 8, 64)},
        "lightning's container": {"pytorch-lightning_version": "2.0",
                                  "state_dict": prefixed("backbone.", net)},
        "a backbone alone": {"state_dict": prefixed("backbone.", net)},
        "a queue of one's own": {"state_dict": prefixed("backbone.", net) | {"queue2": torch.zeros(3)}},
        "two backbones": {"online_backbone": net, "target_backbone": other},
        "moco's names": moco(net, other),
        "pcl's prototypes": {"state_dict": moco(net, other)["state_dict"]},
        "online and target": {"model": prefixed("online_network.encoder.", net)
                              | prefixed("target_network.encoder.", other)},
        "a classifier": {"epoch": 90, "arch": "resnet50", "state_dict": prefixed("module.", net)
                         | layer("module.fc", 1000, 512), "optimizer": OPTIMIZER},
    }


@pytest.mark.parametrize("file", unproved({}, {}))
def test_read_checkpoint__nearly_a_methods_file_has_candidates(tmp_path, net, other, file):
    reading = read(unproved(net, other)[file], tmp_path)
    assert (reading.info.method, reading.method_from) == ("run", "file name")
    assert len(reading.candidates) > 1


def test_read_checkpoint__other_heads_on_a_momentum_pair_are_not_guessed_at(tmp_path, net, other):
    content = moco(net, other)
    content["state_dict"] |= layer("module.encoder_q.grid", 4, 4)
    with pytest.raises(UserError, match=r"expected a checkpoint of a known layout .* --prefix 'state_dict:module.enc"):
        read(content, tmp_path)


@pytest.mark.parametrize(("method", "extra"), [
    ("CLoVE", {"self_attn.in_proj_weight": torch.zeros(6, 2)} | layer("projector", 4, 4)),
    ("CLoVE", {"self_attn.in_proj_weight": torch.zeros(768, 256)} | layer("projector.linear1", 4, 4)
     | layer("decoder", 4, 4)),
    ("PixPro", layer("value_transform", 4, 4) | layer("decoder", 4, 4)),
    ("VICRegL", layer("maps_projector.0", 4, 4)),
])
def test_read_checkpoint__one_name_of_a_method_does_not_make_its_file(tmp_path, net, method, extra):
    content = {"model": prefixed("encoder.", net) | prefixed("backbone.", net) | extra}
    with pytest.raises(UserError, match=r"expected a checkpoint of a known layout .* name the network with --prefix"):
        read(content, tmp_path)


def test_read_checkpoint__two_stacked_heads_of_a_query_are_not_setsim(tmp_path, net, other):
    state = prefixed("encoder_q.0.", net) | prefixed("encoder_k.0.", other) | layer("encoder_q.1.0", 4, 4)
    with pytest.raises(UserError, match=r"expected a checkpoint of a known layout .* --prefix 'state_dict:encoder_q.0"):
        read({"state_dict": state}, tmp_path)


def test_read_checkpoint__a_student_with_attention_is_not_our_pretraining(tmp_path, net, other):
    content = {"student": prefixed("encoder.", net) | layer("attention.out", 4, 4),
               "teacher": prefixed("encoder.", other)}
    with pytest.raises(UserError, match="expected a checkpoint of a known layout"):
        read(content, tmp_path)


def test_read_checkpoint__who_transfers_which_network_is_said_when_it_is_not_known(tmp_path, net, other):
    content = {"student": prefixed("backbone.", net), "teacher": prefixed("backbone.", other)}
    reading = read(content, tmp_path)
    assert reading.info.branch == "teacher" and torch.equal(reading.state["bn1.bias"], other["bn1.bias"])
    assert "is not known: the teacher is read, as in DINO; --branch student takes the other." in reading.notes[0]


def test_read_checkpoint__what_was_left_over_and_why(tmp_path, net, other):
    content = moco(with_counters(net), other)
    content["ema"] = dict(net)
    left = read(content, tmp_path).left
    assert left["module.encoder_k.conv1.weight"] == "the teacher"
    assert left["module.queue"] == left["module.encoder_q.fc.0.weight"] == "not of the ResNet"
    assert left["ema/conv1.weight"] == "another network"
    assert not any("num_batches_tracked" in name for name in left)


# Relatives of a ResNet

def clip(net):
    """openai/CLIP, clip/model.py, ModifiedResNet: the stages have a ResNet's own names and shapes."""
    stem = {"conv1.weight": torch.zeros(32, 3, 3, 3), "conv2.weight": torch.zeros(32, 32, 3, 3),
            "conv3.weight": torch.zeros(64, 32, 3, 3)} | batch_norm("bn1", 32) | batch_norm("bn2", 32) | batch_norm(
                "bn3", 64)
    pool = {"attnpool.positional_embedding": torch.zeros(50, 8)} | layer("attnpool.k_proj", 8, 8)
    return {name: value for name, value in net.items() if name.startswith("layer")} | stem | pool


def test_read_checkpoint__clip_is_refused_for_what_it_is(tmp_path, net):
    text = {"positional_embedding": torch.zeros(77, 8)} | layer("transformer.resblocks.0.mlp.c_fc", 8, 8)
    said = "a modified ResNet of CLIP (attention pool, stem of three convolutions, pooling before strides)"
    for content in (prefixed("visual.", clip(net)) | text, {"state_dict": prefixed("module.visual.", clip(net)) | text},
                    clip(net), {"model": prefixed("image_encoder.", clip(net))}):
        with pytest.raises(UserError) as caught:
            read(content, tmp_path)
        assert said in str(caught.value) and str(caught.value).endswith(": other architectures cannot be converted")
    stem = {name: value for name, value in clip(net).items() if "attnpool" not in name}
    with pytest.raises(UserError, match="found .*a ResNet with a stem of three convolutions, as the modified ones of"):
        read(prefixed("visual.", stem), tmp_path)


def test_read_checkpoint__a_deep_stem_is_named(tmp_path, net):
    deep = {name: value for name, value in net.items() if not name.startswith("conv1.")} | {
        f"conv1.{i}.weight": torch.ones(4, 4, 3, 3) for i in (0, 3, 6)}
    with pytest.raises(UserError, match="found a ResNet with a deep stem of several convolutions, as timm's resnet50d"):
        read(deep, tmp_path)


def test_read_checkpoint__a_shortcut_that_pools_is_another_network(tmp_path, net):
    pooled = {name.replace("downsample.1.", "downsample.2.").replace("downsample.0.", "downsample.1."): value
              for name, value in net.items()}
    with pytest.raises(UserError, match=r"a ResNet-18 has no layer2.0.downsample.2.weight.*: this is another network"):
        read(pooled, tmp_path)


@pytest.mark.parametrize("name", ["conv1.weight", "layer3.1.conv2.weight", "layer2.0.downsample.0.weight"])
def test_read_checkpoint__a_convolution_of_zeros_proves_nothing(tmp_path, net, name):
    empty = {**net, name: torch.zeros_like(net[name])}
    with pytest.raises(UserError) as caught:
        read(empty, tmp_path)
    assert f"found nothing but zeros in {name}: its maps could not prove the conversion" in str(caught.value)
    assert read({**net, "layer3.1.bn2.weight": torch.zeros(256)}, tmp_path).state["layer3.1.bn2.weight"].sum() == 0
