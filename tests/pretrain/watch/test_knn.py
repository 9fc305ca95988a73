"""k-NN on features made by hand, and on folders with and without labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pretrain.common.errors import UserError
from pretrain.config import Config
from pretrain.data.batches import list_images
from pretrain.watch.knn import KnnProbe, centre_crop, choose, knn_top1

CPU = torch.device("cpu")


def at_angles(*degrees: float) -> Tensor:
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_knn__one_when_classes_lie_apart() -> None:
    features = at_angles(0, 5, 10, 90, 95, 100) * torch.tensor([[1.0], [9], [2], [5], [1], [7]])  # lengths do not count
    assert knn_top1(features, torch.tensor([0, 0, 0, 1, 1, 1])) == 1.0


def test_knn__each_image_is_left_out_of_its_own_vote() -> None:
    """Two pairs of equal features with different labels: an image that saw itself would draw with its twin."""
    assert knn_top1(at_angles(0, 0, 90, 90), torch.tensor([0, 1, 0, 1])) == 0.0


def test_knn__near_neighbours_outweigh_many_far_ones() -> None:
    """The first image: one fellow at 10 degrees, three strangers at 60: exp(cos 10 / 0.07) = 1.3e6 against 3 x 1.3e3.
    The fellow has the same vote; a majority would have got both wrong."""
    features = at_angles(0, 10, 60, 61, 62)
    assert knn_top1(features, torch.tensor([0, 0, 1, 1, 1])) == 1.0


def test_knn__no_more_than_twenty_neighbours_vote() -> None:
    """One image of class 0 at 0 degrees, 20 of class 1 at 30, then 400 of class 0 at 35 degrees, whose votes together
    would win. With 20 votes only the first image is wrong: it sees nothing but class 1."""
    features = at_angles(*[0.0], *[30.0] * 20, *[35.0] * 400)
    labels = torch.tensor([0] + [1] * 20 + [0] * 400)
    cos = torch.deg2rad(torch.tensor([30.0, 35.0])).cos()
    assert (400 * (cos[1] / 0.07).exp()) > 20 * (cos[0] / 0.07).exp()
    assert round((1 - knn_top1(features, labels)) * len(labels)) == 1


def test_choose__images_of_classes_with_two_or_more() -> None:
    names = ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg", "dog/old/3.jpg", "4.jpg", "eel/1.jpg"]
    assert choose(names, 100, "folder") == [("cat", 0), ("cat", 1), ("dog", 2), ("dog", 3), ("dog", 4)]
    by_prefix = ["b__1.jpg", "x/a__1.jpg", "b__2.jpg", "c.jpg", "a__2.jpg"]
    assert choose(by_prefix, 100, "prefix") == [("a", 1), ("a", 4), ("b", 0), ("b", 2)]


@pytest.mark.parametrize("names, found", [
    (["1.jpg", "2.jpg"], r"found 0 of them \(2 images without a class\): use --knn-images 0"),
    (["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "4.jpg"], r"found 1 of them \(1 images without a class\)"),
    (["a/cat/1.jpg", "a/cat/2.jpg", "a/dog/1.jpg"], r"found 1 of them \(0 images without a class\)"),
], ids=["flat", "one class", "one folder above"])
def test_choose__missing_labels_are_told(names: list[str], found: str) -> None:
    with pytest.raises(UserError, match="expected CLASS/IMAGE with two classes or more.*" + found):
        choose(names, 10, "folder")


def test_choose__spread_over_classes_and_images() -> None:
    names = [f"{label}/{i}" for label in "abcde" for i in range(10)]
    chosen = choose(names, 10, "folder")
    assert [label for label, _ in chosen] == list("aabbccddee") and chosen[:2] == [("a", 0), ("a", 9)]
    assert [label for label, _ in choose(names, 5, "folder")] == list("aaee")  # no class with a single image
    assert len(choose(names, 1000, "folder")) == len(set(choose(names, 1000, "folder"))) == 50


def test_centre_crop__middle_of_the_longer_side() -> None:
    """White middle third of a wide picture; the crop covers 224/256 of the height, here 56 of 64 pixels."""
    picture = Image.new("RGB", (192, 64))
    picture.paste((255, 255, 255), (64, 0, 128, 64))
    crop = centre_crop(picture, 56)
    assert crop.shape == (3, 56, 56) and crop.dtype == np.uint8 and crop.min() == 255
    wider = centre_crop(picture.resize((384, 64)), 56)
    assert wider.min() == 255
    picture.paste((0, 0, 0), (64, 0, 70, 64))  # now the crop, columns 68 to 124, has two black columns
    assert (centre_crop(picture, 56)[:, :, :2] == 0).all() and centre_crop(picture, 56)[:, :, 3:].min() == 255


class Colour(nn.Module):
    """Stands for an encoder: its features are the colours of the pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return images


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Two classes, reds and blues, 6 pictures each."""
    for label, channel in (("blue", 2), ("red", 0)):
        (tmp_path / label).mkdir()
        for number in range(6):
            pixels = np.zeros((40, 50, 3), dtype=np.uint8)
            pixels[..., channel] = 150 + 10 * number
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    return tmp_path


def test_probe__colours_are_told_apart(colours: Path, tiny: Callable[..., Config]) -> None:
    probe = KnnProbe(list_images(colours), 12, tiny().train, CPU)
    assert probe.pixels.shape == (12, 3, 48, 48)
    assert probe(Colour()) == {"knn_top1": 1.0}
    probe.labels = torch.arange(12) % 2  # labels that say nothing of the colour
    assert probe(Colour())["knn_top1"] < 1.0


def test_probe__leaves_the_encoder_and_the_random_state(colours: Path, tiny: Callable[..., Config]) -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    probe = KnnProbe(list_images(colours), 8, tiny().train, CPU)
    state, before = torch.get_rng_state(), {name: value.clone() for name, value in encoder.state_dict().items()}
    assert probe(encoder) == probe(encoder)
    assert torch.equal(torch.get_rng_state(), state) and not encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_probe__unreadable_images_are_left_out(colours: Path, tiny: Callable[..., Config]) -> None:
    for number in range(5):
        (colours / "red" / f"{number}.png").write_bytes(b"")
    assert KnnProbe(list_images(colours), 12, tiny().train, CPU)(Colour()) == {}
    (colours / "red" / "4.png").write_bytes((colours / "red" / "5.png").read_bytes())
    probe = KnnProbe(list_images(colours), 12, tiny().train, CPU)
    assert len(probe.pixels) == 8 and probe(Colour()) == {"knn_top1": 1.0}
