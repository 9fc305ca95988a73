"""k-NN and linear segmentation against slow loops and hand-made cases."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from transfer.data.pixel_labels import IGNORE
from transfer.probing import segmentation
from transfer.probing.segmentation import Cells


def slow_iou(truth: np.ndarray, predicted: np.ndarray) -> dict[int, float]:
    found = {}
    pairs = [(t, p) for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True) if t != IGNORE]
    for number in {t for t, _ in pairs}:
        both = sum(t == number and p == number for t, p in pairs)
        either = sum(t == number or p == number for t, p in pairs)
        found[number] = both / either
    return found


def test_class_iou__against_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(1)
    images = [(rng.integers(-1, 4, (9, 7)), rng.integers(0, 6, (9, 7))) for _ in range(3)]  # 4 and 5 only predicted
    counts = sum(segmentation.confusion(truth, predicted, 6) for truth, predicted in images)
    expected = slow_iou(*(np.concatenate([image[side] for image in images]) for side in (0, 1)))
    assert segmentation.class_iou(counts) == pytest.approx(expected)
    assert set(expected) == {0, 1, 2, 3}


def test_class_iou__by_hand() -> None:
    truth, predicted = np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]])
    assert segmentation.class_iou(segmentation.confusion(truth, predicted, 3)) == pytest.approx({0: 1 / 2, 1: 2 / 3})


def test_auc__against_all_pairs() -> None:
    rng = np.random.default_rng(2)
    scores, positive = rng.integers(0, 8, 60) / 8, rng.random(60) < 0.3  # with ties
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert segmentation.auc(scores, positive) == pytest.approx(np.mean(pairs))
    assert segmentation.auc(scores, np.ones(60, bool)) is None


def test_knn_scores__against_a_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    bank = F.normalize(torch.randn(50, 5, generator=generator), dim=1)
    queries = F.normalize(torch.randn(7, 5, generator=generator), dim=1)
    shares = torch.rand(50, 3, generator=generator)
    shares /= shares.sum(1, keepdim=True)
    found = segmentation.knn_scores(bank, shares, queries)
    for query, scores in zip(queries, found, strict=True):
        cosines = sorted(((float(query @ vector), place) for place, vector in enumerate(bank)), reverse=True)[:20]
        weights = np.exp(np.array([cosine for cosine, _ in cosines]) / 0.07)
        votes = sum(w * shares[place].numpy() for w, (_, place) in zip(weights, cosines, strict=True))
        np.testing.assert_allclose(scores.numpy(), votes / weights.sum(), rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 40])
def test_upsampled_classes__leaving_out_hopeless_classes_changes_nothing(classes: int) -> None:
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(12, classes, generator=generator) + torch.linspace(0, 3, classes)
    plain = F.interpolate(scores.T.reshape(1, classes, 3, 4), size=(48, 64), mode="bilinear")[0].argmax(0).numpy()
    np.testing.assert_array_equal(segmentation.upsampled_classes(scores, (3, 4), (48, 64)), plain)
    assert len(np.unique(plain)) > 1


def test_logistic__is_at_the_minimum_of_its_objective() -> None:
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(200, 4, generator=generator)
    shares = torch.softmax(3 * torch.randn(200, 3, generator=generator), dim=1)
    weight, bias = segmentation.logistic(features, shares, strength=0.1)
    weight, bias = weight.double().requires_grad_(), bias.double().requires_grad_()
    log_p = (features.double() @ weight.T + bias).log_softmax(1)
    loss = -(shares.double() * log_p).sum(1).mean() + 0.05 * (weight ** 2).sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-4 and bias.grad.abs().max() < 1e-4


def separable(images: int = 10, noise: float = 0.3) -> Cells:
    generator = torch.Generator().manual_seed(6)
    numbers = torch.arange(images * 40) % 3
    features = 5 * F.one_hot(numbers, 3) * torch.tensor([1.0, 100.0, 0.01]) + 7
    features = features + noise * torch.tensor([1.0, 100.0, 0.01]) * torch.randn(features.shape, generator=generator)
    return Cells(features, F.one_hot(numbers, 3).float(), torch.arange(images).repeat_interleave(40))


def test_fit__finds_what_the_features_hold_whatever_their_scale() -> None:
    cells = separable()
    fitted = segmentation.fit(cells, seed=0)
    truth = cells.shares.argmax(1)
    for scores in (fitted.knn(cells.features), fitted.linear(cells.features)):
        assert (scores.argmax(1) == truth).float().mean() > 0.99
    torch.testing.assert_close(fitted.knn(cells.features).sum(1), torch.ones(len(truth)))
    standard = fitted.standardise(cells.features)
    torch.testing.assert_close(standard.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_fit__chooses_on_held_out_images_and_strong_regularisation_for_noise() -> None:
    generator = torch.Generator().manual_seed(7)
    noise = Cells(torch.randn(400, 60, generator=generator), F.one_hot(torch.arange(400) % 2, 2).float(),
                  torch.arange(10).repeat_interleave(40))
    fitted = segmentation.fit(noise, seed=0)
    assert fitted.chosen == min(fitted.losses, key=fitted.losses.get) and fitted.chosen >= 1.0
    assert segmentation.fit(separable(), seed=0).chosen < 0.1


def test_fit__same_seed_same_bits_and_a_dead_channel_is_harmless() -> None:
    cells = separable()
    dead = Cells(torch.cat([cells.features, torch.full((len(cells.features), 1), 4.0)], 1), cells.shares, cells.image)
    first, second = segmentation.fit(dead, seed=1), segmentation.fit(dead, seed=1)
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)
    assert first.weight.isfinite().all() and first.bank.isfinite().all()
