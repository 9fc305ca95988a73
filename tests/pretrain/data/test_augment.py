"""Pixel operations against PIL and torchvision on the same parameters, and a batch on a device against the loader."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter

from pretrain.data import augment, augment_batch
from pretrain.data.augment import BRIGHTNESS, CONTRAST, HUE, ORDERS, SATURATION, Colour
from pretrain.data.augment_batch import finished_views
from pretrain.data.batches import ViewDataset, list_images
from pretrain.data.views import Draws, ViewKind, random_colour
from pretrain.options.shared_options import Train

# Mean and largest difference in levels that an operation may have.
EXACT = (0.0, 0)
OPERATIONS: list[tuple[str, Callable, Callable, tuple[float, int]]] = [
    *((f"brightness {f}", lambda p, f=f: augment.adjust_brightness(p, f), lambda i, f=f: TF.adjust_brightness(i, f),
       EXACT) for f in (0.6, 0.93, 1.0, 1.4)),
    *((f"contrast {f}", lambda p, f=f: augment.adjust_contrast(p, f), lambda i, f=f: TF.adjust_contrast(i, f), EXACT)
      for f in (0.6, 0.93, 1.0, 1.4)),
    *((f"saturation {f}", lambda p, f=f: augment.adjust_saturation(p, f), lambda i, f=f: TF.adjust_saturation(i, f),
       (0.03, 1)) for f in (0.8, 0.95, 1.2)),
    *((f"hue {s}", lambda p, s=s: augment.adjust_hue(p, s), lambda i, s=s: TF.adjust_hue(i, s), (0.45, 13))
      for s in (-0.5, -0.1, 0.03, 0.1)),
    ("grey", augment.to_grey, lambda i: TF.rgb_to_grayscale(i, 3), (0.01, 1)),
    ("solarize", augment.solarize, lambda i: TF.solarize(i, 128), EXACT),
    # PIL's Gaussian is three box blurs.
    *((f"blur {s}", lambda p, s=s: augment.blur(p, s), lambda i, s=s: i.filter(ImageFilter.GaussianBlur(s)), (0.65, 12))
      for s in (0.1, 0.5, 1.0, 2.0)),
]


def photograph(seed: int = 0, width: int = 160, height: int = 120) -> np.ndarray:
    """Colours that change at every scale, as in a photograph."""
    rng, picture = np.random.default_rng(seed), np.zeros((height, width, 3))
    for cells in (3, 6, 12, 24, 48, 96):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        picture += (np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) - 127.5) * (3 / cells) ** 0.4
    return (picture + 127.5).clip(0, 255).astype(np.uint8)


def difference(one: object, other: object) -> tuple[float, int]:
    """Mean and largest distance in levels."""
    distance = np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int))
    return distance.mean(), distance.max()


@pytest.mark.parametrize(("ours", "pils", "bound"), [case[1:] for case in OPERATIONS],
                         ids=[case[0] for case in OPERATIONS])
def test_operation__is_pils(ours: Callable, pils: Callable, bound: tuple[float, int]) -> None:
    pixels = photograph()
    before = pixels.copy()
    mean, largest = difference(ours(pixels), pils(Image.fromarray(pixels)))
    assert mean <= bound[0] and largest <= bound[1]
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("crop", "size"), [((3, 4, 153, 104), 96), ((20, 10, 60, 70), 96), ((0, 0, 160, 120), 32),
                                            ((50, 50, 53, 52), 24)], ids=str)
def test_cut__is_pils_antialiased_bicubic(crop: tuple[int, ...], size: int, mirrored: bool) -> None:
    pixels = photograph()
    image = Image.fromarray(pixels).crop(crop).resize((size, size), Image.Resampling.BICUBIC)
    expected = np.asarray(TF.hflip(image) if mirrored else image)
    view = augment.cut(pixels, crop, size, mirrored)
    assert view.shape == (3, size, size) and view.flags.c_contiguous
    mean, largest = difference(view.transpose(1, 2, 0), expected)
    assert mean < 0.05 and largest <= 5


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_saturation__a_grey_picture_stays(factor: float) -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert np.array_equal(augment.adjust_saturation(grey, factor), grey)


def test_blur__spreads_by_sigma_and_keeps_flat_pictures() -> None:
    flat = np.full((20, 30, 3), 77, np.uint8)
    assert np.array_equal(augment.blur(flat, 2.0), flat)
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    spread, at = augment.blur(point * 1, 1.5)[..., 0].astype(float), np.arange(41) - 20
    assert np.sqrt(spread.sum(0) @ at**2 / spread.sum()) == pytest.approx(1.5, rel=0.1)


@pytest.mark.parametrize("order", ORDERS[::5], ids=str)
def test_apply__jitter_in_every_order_then_grey_blur_solarize(order: tuple[int, ...]) -> None:
    pixels = photograph(1, 64, 64)
    colour = Colour(order, 0.7, 1.3, 0.85, -0.07, grey=order[0] == HUE, sigma=0.8, solarize=order[0] == CONTRAST)
    image = Image.fromarray(pixels)
    for operation in order:
        image = {BRIGHTNESS: lambda i: TF.adjust_brightness(i, 0.7), CONTRAST: lambda i: TF.adjust_contrast(i, 1.3),
                 SATURATION: lambda i: TF.adjust_saturation(i, 0.85), HUE: lambda i: TF.adjust_hue(i, -0.07),
                 }[operation](image)
    image = TF.rgb_to_grayscale(image, 3) if colour.grey else image
    image = image.filter(ImageFilter.GaussianBlur(0.8))
    image = TF.solarize(image, 128) if colour.solarize else image
    view = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    result = augment.apply(view, colour)
    assert result.flags.c_contiguous and difference(result.transpose(1, 2, 0), image)[0] < 1.5
    assert np.array_equal(augment.apply(view, Colour()), view)


def test_views__statistics_are_those_of_the_reference() -> None:
    """Whole views: mean and deviation of each channel, share of grey pictures, over the same photographs."""
    from benchmarks.speed.reference_loader import view_transform
    from pretrain.data.views import make_view
    from pretrain.model import normalise

    torch.manual_seed(0)
    photographs = [photograph(seed) for seed in range(8)]
    kind, transform = ViewKind(48, (0.08, 0.3), 0.5, 0.2), view_transform(48, (0.08, 0.3), blur=0.5, solarize=0.2)
    ours = torch.stack([normalise(torch.from_numpy(make_view(photographs[n % 8], kind, np.random.default_rng(n))[0]))
                        for n in range(1200)])
    reference = torch.stack([transform(Image.fromarray(photographs[n % 8])) for n in range(1200)])
    assert (ours.mean((0, 2, 3)) - reference.mean((0, 2, 3))).abs().max() < 0.08
    assert (ours.std((0, 2, 3)) / reference.std((0, 2, 3)) - 1).abs().max() < 0.05
    # Contrast inside a view, sharpness, and the spread of the views' brightness.
    for measure in (lambda v: v.std((2, 3)).mean(), lambda v: v.diff(dim=-1).abs().mean(),
                    lambda v: v.mean((1, 2, 3)).std()):
        assert measure(ours) / measure(reference) == pytest.approx(1, abs=0.08)
    scale = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    shift = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    greys = [((v * scale + shift).diff(dim=1).abs().amax((1, 2, 3)) < 1e-4).float().mean() for v in (ours, reference)]
    assert greys[0] == pytest.approx(0.2, abs=0.035) and greys[1] == pytest.approx(0.2, abs=0.035)


@pytest.mark.parametrize(("colour", "bound"), [
    (Colour(), EXACT),
    (Colour(grey=True), (0.01, 1)),
    (Colour(solarize=True), EXACT),
    (Colour(sigma=2.0), (0.1, 1)),
    (Colour(sigma=0.1), EXACT),
    (Colour((HUE, BRIGHTNESS, CONTRAST, SATURATION), hue=0.09), (0.05, 6)),
    (Colour((HUE, BRIGHTNESS, CONTRAST, SATURATION), hue=-0.1), (0.05, 6)),
    (Colour((BRIGHTNESS, SATURATION, HUE, CONTRAST), brightness=1.37), (0.05, 6)),
    (Colour((CONTRAST, BRIGHTNESS, HUE, SATURATION), contrast=0.61), (0.05, 6)),
    (Colour((SATURATION, HUE, CONTRAST, BRIGHTNESS), saturation=1.2), (0.1, 6)),
], ids=str)  # a hue that lies between two of its 256 steps may be rounded the other way: single pixels
def test_device__each_operation_is_the_loaders(colour: Colour, bound: tuple[float, int]) -> None:
    views = np.stack([np.ascontiguousarray(photograph(seed, 72, 72).transpose(2, 0, 1)) for seed in range(3)])
    expected = np.stack([augment.apply(view, colour) for view in views])
    result = augment_batch.apply(torch.from_numpy(views), torch.tensor([colour.row()] * 3))
    mean, largest = difference(result, expected)
    assert mean <= bound[0] and largest <= bound[1]


def test_device__samples_of_a_batch_are_independent() -> None:
    """Each has its own order and its own parameters; together they give what they give alone."""
    kind = ViewKind(48, (0.1, 1.0), blur=0.5, solarize=0.3)
    drawn = [random_colour(Draws.of(np.random.default_rng(seed)), kind) for seed in range(40)]
    assert len({colour.order for colour in drawn}) > 12
    views = np.stack([np.ascontiguousarray(photograph(seed, 48, 48).transpose(2, 0, 1)) for seed in range(40)])
    rows = torch.tensor([colour.row() for colour in drawn])
    together = augment_batch.apply(torch.from_numpy(views), rows)
    expected = np.stack([augment.apply(view, colour) for view, colour in zip(views, drawn, strict=True)])
    distance = np.abs(together.numpy().astype(int) - expected)
    assert distance.mean() < 0.2 and np.quantile(distance, 0.999) <= 6
    alone = torch.cat([augment_batch.apply(torch.from_numpy(views[n:n + 1]), rows[n:n + 1]) for n in range(40)])
    assert difference(alone, together)[1] <= 1  # sums over a batch may be added in another order


def test_finished_views__a_batch_that_was_only_cut(photos, tiny) -> None:
    train: Train = tiny().train
    images = list_images(photos)
    batches = []
    for place in ("loader", "device"):
        dataset = ViewDataset(images, replace(train, colour_on=place))
        batches.append(dataset.collate([dataset[0, index] for index in range(4)]))
    assert batches[0].colours == [] and [tuple(c.shape) for c in batches[1].colours] == [(2, 4, 11), (1, 4, 11)]
    finished, made = (finished_views(batch, torch.device("cpu")) for batch in batches)
    for one, other, cut in zip(finished, made, batches[1].views, strict=True):
        assert one.shape == other.shape and other.dtype == torch.uint8
        assert difference(one, other)[0] < 0.5 < difference(one, cut)[0]
