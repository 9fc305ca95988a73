"""LARS against a loop over tensors, and the schedules at the points that matter."""

import math

import pytest
import torch
from torch import Tensor, nn

from pretrain.optim import LARS, cosine_schedule, peak_lr


def random_params(seed: int = 0) -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(seed)
    shapes = [(6, 3, 2, 2), (6,), (4, 6), (4,), ()]
    return [nn.Parameter(torch.randn(shape, generator=rng, dtype=torch.float64)) for shape in shapes]


def loop_step(weights: list[Tensor], grads: list[Tensor], velocities: list[Tensor], lr: float, momentum: float,
              weight_decay: float, trust: float) -> None:
    for weight, grad, velocity in zip(weights, grads, velocities, strict=True):
        update = grad.clone()
        if weight.dim() > 1:
            update += weight_decay * weight
            if weight.norm() > 0 and update.norm() > 0:
                update *= trust * weight.norm() / (update.norm() + 1e-8)
        velocity.mul_(momentum).add_(update)
        weight.sub_(lr * velocity)


def test_lars__equals_the_loop() -> None:
    params = random_params()
    weights = [param.detach().clone() for param in params]
    velocities = [torch.zeros_like(weight) for weight in weights]
    optimizer = LARS(params, lr=0.3, momentum=0.8, weight_decay=0.05, trust=0.02)
    for step in range(4):
        grads = [param.detach().clone() for param in random_params(step + 1)]
        for group in optimizer.param_groups:
            group["lr"] = 0.3 / (step + 1)
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        optimizer.step()
        loop_step(weights, grads, velocities, 0.3 / (step + 1), 0.8, 0.05, 0.02)
    for param, weight in zip(params, weights, strict=True):
        torch.testing.assert_close(param.detach(), weight, rtol=1e-12, atol=1e-14)


def test_lars__scale_of_the_gradient_only_matters_to_vectors() -> None:
    moved = []
    for factor in (1.0, 1000.0):
        params = random_params()
        before = [param.detach().clone() for param in params]
        for param, grad in zip(params, random_params(1), strict=True):
            param.grad = factor * grad.detach()
        LARS(params, lr=1.0).step()
        moved.append([(param.detach() - old) for param, old in zip(params, before, strict=True)])
    for small, large in zip(*moved, strict=True):
        torch.testing.assert_close(large, small if small.dim() > 1 else 1000.0 * small, rtol=1e-6, atol=0)


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_lars__a_norm_of_zero_means_plain_sgd(zero: str) -> None:
    param = nn.Parameter(torch.zeros(2, 2) if zero == "weight" else torch.ones(2, 2))
    param.grad = torch.zeros(2, 2) if zero == "gradient" else torch.ones(2, 2)
    LARS([param], lr=0.5).step()
    assert param.detach().tolist() == [[-0.5, -0.5]] * 2 if zero == "weight" else [[1.0, 1.0]] * 2


def test_lars__parameters_without_gradient_stay_and_gradients_are_not_changed() -> None:
    params = random_params()
    before = [param.detach().clone() for param in params]
    params[0].grad = torch.ones_like(params[0])
    LARS(params, lr=0.5, weight_decay=0.1).step()
    assert torch.equal(params[0].grad, torch.ones_like(params[0]))
    assert not torch.equal(params[0], before[0])
    assert all(torch.equal(param, old) for param, old in zip(params[1:], before[1:], strict=True))


def test_lars__state_goes_through_a_state_dict() -> None:
    runs = []
    for restart in (False, True):
        params = random_params()
        optimizer = LARS(params, lr=0.3)
        for step in range(4):
            if restart and step == 2:
                state = optimizer.state_dict()
                params = [nn.Parameter(param.detach().clone()) for param in params]
                optimizer = LARS(params, lr=9.0)
                optimizer.load_state_dict(state)
            for param, grad in zip(params, random_params(step + 1), strict=True):
                param.grad = grad.detach()
            optimizer.step()
        runs.append(params)
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


def test_cosine_schedule__warmup_reaches_the_peak_at_its_last_step() -> None:
    values = [cosine_schedule(step, 20, 8.0, 0.08, 5) for step in range(20)]
    assert values[:5] == pytest.approx([0.08, 2.06, 4.04, 6.02, 8.0])
    assert values[5] == 8.0 and values[5:] == sorted(values[5:], reverse=True)
    assert values[12] == pytest.approx(0.08 + 7.92 * 0.5 * (1 + math.cos(math.pi * 7 / 15)))
    assert 0.08 < values[-1] < 0.3


def test_cosine_schedule__without_warmup() -> None:
    values = [cosine_schedule(step, 4, 0.99, 1.0) for step in range(5)]
    assert values == pytest.approx([0.99, 0.99 + 0.005 * (1 - math.sqrt(0.5)), 0.995,
                                    0.99 + 0.005 * (1 + math.sqrt(0.5)), 1.0])


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 1), (3, 3)])
def test_cosine_schedule__very_short_runs(steps: int, warmup: int) -> None:
    values = [cosine_schedule(step, steps, 2.0, 0.02, warmup) for step in range(steps)]
    assert all(0.02 <= value <= 2.0 for value in values)


@pytest.mark.parametrize(("batch", "expected"), [(256, 1.5), (2048, 12.0), (32, 0.1875)])
def test_peak_lr__linear_in_the_batch(batch: int, expected: float) -> None:
    assert peak_lr(1.5, batch) == expected
