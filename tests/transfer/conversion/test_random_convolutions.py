"""The control with random convolutions: what is drawn, what is kept, and that everything says so."""

import math

import pytest
import torch
import torchvision

from pretrain.common.backbone_file import load_backbone
from pretrain.common.errors import UserError
from transfer.conversion.convert import convert, describe
from transfer.conversion.random_convolutions import redraw
from transfer.settings.start_weights import read_weights


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_redraw__convolutions_are_he_normal_and_batch_norm_stays(architecture, random_state):
    state = random_state(architecture)
    before = torch.get_rng_state()
    made = redraw(state, architecture, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(made) == list(state)
    convolutions = [name for name, value in state.items() if value.ndim == 4]
    for name, value in made.items():
        if name not in convolutions:
            assert torch.equal(value, state[name])
            continue
        out_channels, _, height, width = value.shape
        deviation = math.sqrt(2 / (out_channels * height * width))  # He normal, fan out, gain of a ReLU
        # Of n draws: five standard errors of the mean and of the deviation.
        assert abs(value.mean()) < 5 * deviation / math.sqrt(value.numel())
        assert abs(value.std() / deviation - 1) < 5 / math.sqrt(2 * value.numel())
        assert not torch.equal(value, state[name]) and value.dtype == state[name].dtype
    other = redraw(state, architecture, 4)
    assert not any(torch.equal(made[name], other[name]) for name in convolutions)


def test_redraw__is_torchvisions_own_network_of_that_seed(random_state):
    made = redraw(random_state("resnet18"), "resnet18", 3)
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18().state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in made.items() if value.ndim == 4)


def test_convert__the_control_is_proved_and_says_what_it_is(tmp_path, random_state):
    state = random_state("resnet18")
    torch.save(state, tmp_path / "small.pth")
    certificate = convert(tmp_path / "small.pth", tmp_path / "out", "CLoVE", random_convolutions=3)
    assert certificate["method"] == "CLoVE (random convolutions)" and certificate["random_convolutions"] == 3
    assert max(certificate["targets"]["detectron2"]["largest_difference"].values()) < 1e-9
    assert "note: The convolutions are random, drawn from seed 3; batch norm is the source's." in describe(
        certificate, tmp_path / "out")
    written, info = load_backbone(tmp_path / "out" / "backbone.safetensors")
    assert (info.method, info.random_convolutions) == ("CLoVE (random convolutions)", 3)
    expected = redraw(state, "resnet18", 3)
    assert all(torch.equal(value, expected[name]) for name, value in written.items())
    record = read_weights(str(tmp_path / "out")).record()
    assert record["init"] == ("random convolutions (torchvision: He normal, fan out), batch norm of a converted "
                              "checkpoint")
    for name in (None, "CLoVE"):  # what it is stays known
        again = convert(tmp_path / "out" / "backbone.safetensors", tmp_path / "again", name, targets=("timm",))
        assert (again["method"], again["random_convolutions"]) == ("CLoVE (random convolutions)", 3)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_convert__a_seed_that_is_none(seed, tmp_path, random_state):
    torch.save(random_state("resnet18"), tmp_path / "small.pth")
    with pytest.raises(UserError, match=rf"^--random-convolutions {seed}: expected a seed from 0 to 2\*\*63 - 1$"):
        convert(tmp_path / "small.pth", tmp_path / "out", random_convolutions=seed)
    assert not (tmp_path / "out").exists()  # nor is an earlier conversion taken away


def test_convert__no_fpn_beside_random_convolutions(tmp_path):
    with pytest.raises(UserError, match="^--random-convolutions keeps no pretrained convolution, and an FPN is made"):
        convert(tmp_path / "small.pth", tmp_path / "out", fpn=True, random_convolutions=3)
