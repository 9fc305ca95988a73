"""Views: where a source pixel lands, what the colour operations do, and that every draw can be repeated."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pretrain.data import augment, views
from pretrain.data.views import Draws, ViewKind, crop_box, make_view, make_views, random_colour, random_crop, view_kinds
from pretrain.options.shared_options import Train

PLAIN = ViewKind(size=84, scale=(0.2, 1.0), blur=0.0, solarize=0.0)
CHANGES = ("JITTER", "GREY", "FLIP")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):
    """only(JITTER=1.0): these probabilities, all others 0."""

    def set_(**probabilities: float) -> None:
        for name in CHANGES:
            monkeypatch.setattr(views, name, probabilities.get(name, 0.0))

    return set_


@pytest.fixture
def noise() -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    return small.resize((160, 120), Image.Resampling.BICUBIC)


def with_blob(width: int, height: int, x: int, y: int) -> Image.Image:
    """Black, with one soft bright spot around pixel (x, y)."""
    rows, columns = np.mgrid[:height, :width]
    spot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2))
    return Image.fromarray(np.repeat(spot[..., None], 3, axis=2).astype(np.uint8))


def centre_of_mass(pixels: np.ndarray) -> tuple[float, float]:
    """x and y of the brightness of a (3, S, S) view, as edge coordinates: the first pixel's centre is 0.5."""
    light = pixels.sum(0).astype(float)
    at = np.arange(light.shape[0]) + 0.5
    return (light.sum(0) @ at) / light.sum(), (light.sum(1) @ at) / light.sum()


@pytest.mark.parametrize("frame", ["edges", "pixel_centres"])
@pytest.mark.parametrize("flip", [0.0, 1.0], ids=["upright", "mirrored"])
def test_make_view__a_pixel_lands_where_the_box_says(only, frame: str, flip: float) -> None:
    """The spot is followed through crop, resize and flip; its cell in a 7 x 7 grid is the one the box gives it."""
    only(FLIP=flip)
    rng = np.random.default_rng(1)
    width, height, size, seen = 200, 130, PLAIN.size, 0
    for _ in range(250):
        x, y = int(rng.integers(15, width - 15)), int(rng.integers(15, height - 15))
        pixels, box = make_view(with_blob(width, height, x, y), PLAIN, rng, frame)
        assert (box[0] > box[2]) == (flip == 1.0) and box[1] < box[3]
        if frame == "edges":  # pixel x covers x..x+1 of the width
            u, v = ((x + 0.5) / width - box[0]) / (box[2] - box[0]), ((y + 0.5) / height - box[1]) / (box[3] - box[1])
            expected = u * size, v * size
        else:  # first and last pixel index are 0 and 1
            u, v = (x / (width - 1) - box[0]) / (box[2] - box[0]), (y / (height - 1) - box[1]) / (box[3] - box[1])
            expected = u * (size - 1) + 0.5, v * (size - 1) + 0.5
        if not all(0.15 < place < 0.85 for place in (u, v)):
            continue  # the spot may be cut by the crop
        seen += 1
        found = centre_of_mass(pixels)
        assert found == pytest.approx(expected, abs=0.6)  # view pixels; a cell is 12
        for one, other in zip(found, expected, strict=True):
            if abs(other / 12 - round(other / 12)) > 0.05:  # not on the border of two cells
                assert int(one // 12) == int(other // 12)
    assert seen > 40


def test_make_view__half_of_the_views_are_mirrored(noise: Image.Image) -> None:
    rng = np.random.default_rng(2)
    mirrored = sum(box[0] > box[2] for _, box in (make_view(noise, replace(PLAIN, size=8), rng) for _ in range(400)))
    assert 150 < mirrored < 250


def test_make_view__size_type_and_box(noise: Image.Image) -> None:
    pixels, box = make_view(noise, replace(PLAIN, size=33), np.random.default_rng(0))
    assert pixels.shape == (3, 33, 33) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert box.shape == (4,) and box.dtype == np.float32


def test_make_view__crop_and_resize_are_pils(only, noise: Image.Image) -> None:
    only()
    pixels, box = make_view(noise, PLAIN, np.random.default_rng(3))
    left, top, right, bottom = (round(float(edge) * side) for edge, side in zip(box, noise.size * 2, strict=True))
    expected = np.asarray(noise.crop((left, top, right, bottom)).resize((84, 84), Image.Resampling.BICUBIC))
    assert np.abs(pixels.transpose(1, 2, 0).astype(int) - expected).mean() < 0.05


@pytest.mark.parametrize(("grey", "solarize", "blur", "reference"), [
    (1.0, 0.0, 0.0, augment.to_grey), (0.0, 1.0, 0.0, augment.solarize),
    (0.0, 0.0, 1.0, lambda view: augment.blur(view, 1.5))], ids=["grey", "solarize", "blur"])
def test_make_view__each_operation_is_applied_when_it_is_drawn(
    only, monkeypatch: pytest.MonkeyPatch, noise: Image.Image, grey: float, solarize: float, blur: float, reference
) -> None:
    monkeypatch.setattr(views, "BLUR_SIGMA", (1.5, 1.5))
    only()
    before, _ = make_view(noise, PLAIN, np.random.default_rng(4))
    only(GREY=grey)
    after, _ = make_view(noise, replace(PLAIN, solarize=solarize, blur=blur), np.random.default_rng(4))
    expected = reference(np.ascontiguousarray(before.transpose(1, 2, 0)))
    assert not np.array_equal(before, after)
    assert np.array_equal(after.transpose(1, 2, 0), expected)


def colours(kind: ViewKind, count: int = 4000) -> list[augment.Colour]:
    return [random_colour(Draws.of(np.random.default_rng([6, number])), kind) for number in range(count)]


def test_random_colour__probabilities_and_ranges_are_those_of_the_recipe() -> None:
    """Table C.2 of the released recipe."""
    drawn = colours(ViewKind(96, (0.08, 0.3), blur=0.5, solarize=0.2))
    jittered = [colour for colour in drawn if colour.order]
    for share, expected in ((len(jittered), 0.8), (sum(c.grey for c in drawn), 0.2),
                            (sum(c.sigma > 0 for c in drawn), 0.5), (sum(c.solarize for c in drawn), 0.2)):
        assert share / len(drawn) == pytest.approx(expected, abs=0.025)
    for name, low, high in (("brightness", 0.6, 1.4), ("contrast", 0.6, 1.4), ("saturation", 0.8, 1.2),
                            ("hue", -0.1, 0.1)):
        values = np.array([getattr(colour, name) for colour in jittered])
        assert low <= values.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
    sigmas = np.array([colour.sigma for colour in drawn if colour.sigma])
    assert 0.1 <= sigmas.min() < 0.12 and 1.98 < sigmas.max() <= 2 and sigmas.mean() == pytest.approx(1.05, abs=0.04)


def test_random_colour__every_order_of_the_jitter_is_as_likely() -> None:
    orders = Counter(colour.order for colour in colours(PLAIN) if colour.order)
    assert len(orders) == 24
    assert all(90 < count < 180 for count in orders.values())  # 3200 / 24 = 133, deviation 11


def test_draws__are_enough_for_the_unluckiest_view() -> None:
    """Ten crops that do not fit, then every colour operation."""
    draws = Draws.of(np.random.default_rng(0))
    random_crop(draws, 1000, 30, (0.9, 1.0))
    draws.chance(0.5)
    assert random_colour(draws, ViewKind(96, (0.9, 1.0), blur=1.0, solarize=1.0)).solarize


@pytest.mark.parametrize(("width", "height"), [(400, 300), (120, 160)])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 0.3)])
def test_random_crop__area_and_ratio(width: int, height: int, scale: tuple[float, float]) -> None:
    rngs = (np.random.default_rng([5, number]) for number in range(2000))
    crops = np.array([random_crop(Draws.of(rng), width, height, scale) for rng in rngs])
    w, h = crops[:, 2] - crops[:, 0], crops[:, 3] - crops[:, 1]
    assert (crops[:, :2] >= 0).all() and (crops[:, 2] <= width).all() and (crops[:, 3] <= height).all()
    share, ratio = w * h / (width * height), w / h
    assert scale[0] * 0.97 < share.min() and share.max() < scale[1] * 1.03
    assert 0.75 * 0.95 < ratio.min() < 0.85 and 1.2 < ratio.max() < 4 / 3 * 1.05
    if scale[1] < 0.5:  # nothing is rejected: uniform in area, and in the logarithm of the ratio
        assert share.mean() == pytest.approx(sum(scale) / 2, rel=0.03)
        assert np.log(ratio).mean() == pytest.approx(0, abs=0.02)
        for start, side, size in ((crops[:, 0], width, w), (crops[:, 1], height, h)):
            assert (start / (side - size)).mean() == pytest.approx(0.5, abs=0.03)
    assert len(np.unique(crops, axis=0)) > 1900


@pytest.mark.parametrize(("width", "height", "expected"), [
    (1000, 30, (480, 0, 520, 30)), (30, 1000, (0, 480, 30, 520)), (1600, 16, (789, 0, 810, 16))])
def test_random_crop__falls_back_to_the_centre(width: int, height: int, expected: tuple[int, ...]) -> None:
    """A picture so long that no crop of an allowed ratio has the area: the largest centre one of ratio 3/4 or 4/3."""
    crop = random_crop(Draws.of(np.random.default_rng(0)), width, height, (0.9, 1.0))
    assert np.abs(np.subtract(crop, expected)).max() <= 1


@pytest.mark.parametrize(("frame", "expected"), [("edges", [0.1, 0.2, 0.6, 0.7]),
                                                 ("pixel_centres", [10 / 99, 10 / 49, 59 / 99, 34 / 49])])
def test_crop_box__frames(frame: str, expected: list[float]) -> None:
    crop = (10, 10, 60, 35)
    assert crop_box(crop, 100, 50, False, frame) == pytest.approx(expected)
    assert crop_box(crop, 100, 50, True, frame) == pytest.approx([expected[i] for i in (2, 1, 0, 3)])


def test_view_kinds__table_of_the_released_recipe() -> None:
    kinds = view_kinds(Train())
    first, second = ViewKind(224, (0.2, 1.0), 1.0, 0.0), ViewKind(224, (0.2, 1.0), 0.1, 0.2)
    assert kinds == [first, second] + 6 * [ViewKind(96, (0.08, 0.3), 0.5, 0.0)]
    assert view_kinds(replace(Train(), global_views=3, local_views=0)) == [first, second, first]


@pytest.fixture
def small() -> Train:
    return replace(Train(), global_size=48, local_size=24, local_views=2)


def test_make_views__sizes_and_boxes(noise: Image.Image, small: Train) -> None:
    pixels, boxes, _ = make_views(noise, small, epoch=0, index=0)
    assert [view.shape for view in pixels] == [(3, 48, 48)] * 2 + [(3, 24, 24)] * 2
    assert boxes.shape == (4, 4) and boxes.min() >= 0 and boxes.max() <= 1


def test_make_views__cut_only_leaves_the_colours_to_the_device(noise: Image.Image, small: Train) -> None:
    """The numbers that travel along are those that the loader would have applied."""
    finished, boxes, rows = make_views(noise, small, 0, 3)
    cut, cut_boxes, cut_rows = make_views(noise, replace(small, colour_on="device"), 0, 3)
    assert np.array_equal(boxes, cut_boxes) and np.array_equal(rows, cut_rows) and rows.shape == (4, 11)
    for one, other, row in zip(finished, cut, rows, strict=True):
        order = tuple(int(operation) for operation in row[:4] if operation >= 0)
        colour = augment.Colour(order, *row[4:8].tolist(), grey=row[8] == 1, sigma=float(row[9]), solarize=row[10] == 1)
        assert np.abs(augment.apply(other, colour).astype(int) - one).max() <= 1  # the row is in float32
    assert any(not np.array_equal(one, other) for one, other in zip(finished, cut, strict=True))


def test_make_views__box_frame_is_passed_on(noise: Image.Image, small: Train) -> None:
    _, edges, _ = make_views(noise, replace(small, box_frame="edges"), 0, 0)
    _, centres, _ = make_views(noise, replace(small, box_frame="pixel_centres"), 0, 0)
    assert 0 < np.abs(edges - centres).max() < 0.03


def test_make_views__repeatable_in_any_order(noise: Image.Image, small: Train) -> None:
    keys = [(epoch, index) for epoch in (0, 1) for index in (0, 1, 2)]
    forth = {key: make_views(noise, small, *key) for key in keys}
    back = {key: make_views(noise, small, *key) for key in reversed(keys)}
    for key in keys:
        assert np.array_equal(forth[key][1], back[key][1])
        assert all(np.array_equal(one, other) for one, other in zip(forth[key][0], back[key][0], strict=True))
    assert len({forth[key][1].tobytes() for key in keys}) == len(keys)  # another epoch or image: other draws
    assert len({box.tobytes() for box in forth[0, 0][1]}) == 4  # another view: other draws
    assert not np.array_equal(make_views(noise, replace(small, seed=1), 0, 0)[1], forth[0, 0][1])


def test_make_views__a_view_does_not_depend_on_how_many_there_are(noise: Image.Image, small: Train) -> None:
    few, _, _ = make_views(noise, replace(small, local_views=0), 3, 5)
    many, _, _ = make_views(noise, replace(small, local_views=5), 3, 5)
    assert len(few) == 2 and all(map(np.array_equal, few, many))


@pytest.mark.parametrize("size", [(16, 16), (17, 2000), (3000, 16), (16, 17), (224, 1)], ids=str)
def test_make_views__odd_sizes(small: Train, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    for index in range(10):
        pixels, boxes, _ = make_views(image, replace(small, box_frame="edges"), 0, index)
        assert len(pixels) == 4 and np.isfinite(boxes).all() and boxes.min() >= 0 and boxes.max() <= 1
        assert (boxes[:, 3] > boxes[:, 1]).all() and (boxes[:, 2] != boxes[:, 0]).all()
