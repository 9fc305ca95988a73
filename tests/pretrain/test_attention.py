"""NMHSA against torch's multi-head attention and against a loop over the cells."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.attention import NMHSA

CHANNELS, HEADS = 32, 4


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(2, CHANNELS, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def attention(kind: str, temperature: float = 0.2) -> NMHSA:
    """Random weights, biases included, in float64."""
    torch.manual_seed(1)
    module = NMHSA(CHANNELS, HEADS, kind, temperature).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def cells(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


def test_plain__equals_torchs_multihead_attention(maps: Tensor) -> None:
    module = attention("plain")
    reference = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True, dtype=torch.float64)
    reference.load_state_dict(module.state_dict())  # the names are the same: released weights load
    expected = reference(cells(maps), cells(maps), cells(maps))[0]
    torch.testing.assert_close(cells(module(maps)).double(), F.normalize(expected, dim=-1), rtol=0, atol=1e-6)


def test_plain__weights_equal_torchs(maps: Tensor) -> None:
    module = attention("plain")
    reference = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True, dtype=torch.float64)
    reference.load_state_dict(module.state_dict())
    expected = reference(cells(maps), cells(maps), cells(maps), average_attn_weights=False)[1]
    torch.testing.assert_close(module.weights(maps), expected, rtol=1e-9, atol=1e-12)


def loop(module: NMHSA, view: Tensor) -> tuple[Tensor, Tensor]:
    """One view (L, C), cell by cell and head by head: contextualized cells (L, C), weights (heads, L, L)."""
    size = CHANNELS // HEADS
    projected = [view @ part.T + bias for part, bias in
                 zip(module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True)]
    output, weights = torch.zeros_like(view), torch.zeros(HEADS, len(view), len(view), dtype=view.dtype)
    for head in range(HEADS):
        query, key, value = (part[:, head * size:(head + 1) * size] for part in projected)
        for i in range(len(view)):
            if module.kind == "normalized":
                scores = [torch.dot(query[i], k) / (query[i].norm() * k.norm()) / module.temperature for k in key]
            else:
                scores = [torch.dot(query[i], k) / math.sqrt(size) for k in key]
            powers = [math.exp(score) for score in scores]
            for j, power in enumerate(powers):
                weights[head, i, j] = power / sum(powers)
                output[i, head * size:(head + 1) * size] += weights[head, i, j] * value[j]
    output = output @ module.out_proj.weight.T + module.out_proj.bias
    return output / output.norm(dim=1, keepdim=True), weights


@pytest.mark.parametrize("kind", ["plain", "normalized"])
@torch.no_grad()
def test_forward__equals_the_loop(maps: Tensor, kind: str) -> None:
    module = attention(kind, temperature=0.3)
    for view, result, weights in zip(cells(maps), cells(module(maps)), module.weights(maps), strict=True):
        expected, expected_weights = loop(module, view)
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(weights, expected_weights, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_normalized__ignores_the_length_of_queries_and_feels_the_temperature(maps: Tensor) -> None:
    module = attention("normalized")
    nn.init.zeros_(module.in_proj_bias)
    before, contextualized = module.weights(maps), module(maps)
    module.in_proj_weight[:2 * CHANNELS] *= 3.0  # queries and keys, not values
    torch.testing.assert_close(module.weights(maps), before)
    torch.testing.assert_close(module(maps), contextualized)
    module.temperature = 0.4
    assert (module.weights(maps) - before).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["plain", "normalized"])
@torch.no_grad()
def test_weights__rows_sum_to_one_and_reproduce_forward(maps: Tensor, kind: str) -> None:
    module = attention(kind)
    weights = module.weights(maps)
    assert weights.shape == (2, HEADS, 15, 15)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 15, dtype=torch.float64))
    value = F.linear(cells(maps), module.in_proj_weight[2 * CHANNELS:], module.in_proj_bias[2 * CHANNELS:])
    mixed = weights @ value.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    expected = F.normalize(module.out_proj(mixed.transpose(1, 2).flatten(2)), dim=-1)
    torch.testing.assert_close(cells(module(maps)).double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "normalized", "none"])
@torch.no_grad()
def test_forward__permuting_the_cells_permutes_the_output(maps: Tensor, kind: str) -> None:
    module = attention(kind)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(3))
    permuted = module(maps.flatten(2)[:, :, order].unflatten(2, (3, 5))).flatten(2)
    torch.testing.assert_close(permuted, module(maps).flatten(2)[:, :, order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "normalized", "none"])
@torch.no_grad()
def test_forward__unit_length_over_channels_at_least_in_fp32(maps: Tensor, kind: str) -> None:
    wide, narrow = torch.float64, torch.float32
    for given, found in ((wide, wide), (narrow, narrow), (torch.bfloat16, narrow)):
        result = attention(kind).to(given)(maps.to(given))
        assert result.shape == maps.shape and result.dtype == found
        torch.testing.assert_close(result.norm(dim=1), torch.ones(2, 3, 5, dtype=found))


@pytest.mark.parametrize("kind", ["plain", "normalized"])
@torch.no_grad()
def test_forward__views_do_not_see_each_other(maps: Tensor, kind: str) -> None:
    module = attention(kind)
    torch.testing.assert_close(module(maps)[1:], module(maps[1:]), rtol=0, atol=1e-6)
    changed = maps.clone()
    changed[0] += 1.0
    assert torch.equal(module(changed)[1], module(maps)[1])


@pytest.mark.parametrize("kind", ["plain", "normalized"])
def test_gradient__reaches_every_parameter(maps: Tensor, kind: str) -> None:
    module = attention(kind)
    target = torch.randn(maps.shape, generator=torch.Generator().manual_seed(2))
    (module(maps) * target).sum().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0 for parameter in module.parameters())


def test_none__only_normalises_and_has_no_parameters(maps: Tensor) -> None:
    module = NMHSA(CHANNELS, HEADS, "none")
    assert list(module.parameters()) == []
    torch.testing.assert_close(module(maps), F.normalize(maps, dim=1))


def test_initialisation__is_torchs() -> None:
    """Xavier over the joined projection, biases zero, as in torch.nn.MultiheadAttention."""
    module = NMHSA(256, 8)
    bound = math.sqrt(6 / (256 + 768))
    assert bound * 0.99 < module.in_proj_weight.abs().max() <= bound
    assert module.in_proj_bias.abs().max() == 0 and module.out_proj.bias.abs().max() == 0
    assert sum(parameter.numel() for parameter in module.parameters()) == 263_168  # as released
