"""The student's predictor: normalized multi-head self-attention (NMHSA), C = NMHSA(F) of the poster.

Legend: N views, C channels, H W feature grid, L = H*W cells, D = C / heads.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def unit_length(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> the same divided by its length over C, at least in fp32."""
    return F.normalize(maps.float() if maps.dtype in (torch.bfloat16, torch.float16) else maps, dim=1)


class NMHSA(nn.Module):
    """Self-attention over the cells of one view, its output L2-normalised over the channels.

    "plain" is what the authors released: torch's multi-head attention with queries, keys and values
    all from the projected map, no residual, no layer norm, no position code. "normalized" is what
    the name suggests and no released
    flag turns on: queries and keys L2-normalised for each head and the cosine divided by
    `temperature`. "none" (ablation) only normalises. Parameters carry the names of
    `torch.nn.MultiheadAttention`, so that released weights load.
    """

    def __init__(
        self, channels: int, heads: int, kind: Literal["plain", "normalized", "none"] = "plain",
        temperature: float = 0.2,
    ) -> None:
        super().__init__()
        self.heads, self.kind, self.temperature = heads, kind, temperature
        if kind != "none":
            self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
            self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
            self.out_proj = nn.Linear(channels, channels)
            nn.init.xavier_uniform_(self.in_proj_weight)
            nn.init.zeros_(self.out_proj.bias)

    def _query_key_value(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        cells = maps.flatten(2).transpose(1, 2)  # (N, L, C)
        qkv = F.linear(cells, self.in_proj_weight, self.in_proj_bias)
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, L, D) each
        if self.kind == "plain":
            return query, key, value, query.shape[-1] ** -0.5
        return F.normalize(query, dim=-1), F.normalize(key, dim=-1), value, 1 / self.temperature

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) projected maps -> (N, C, H, W) contextualized maps of unit length over C, at
        least in fp32."""
        if self.kind != "none":
            query, key, value, scale = self._query_key_value(maps)
            mixed = F.scaled_dot_product_attention(query, key, value, scale=scale)
            maps = self.out_proj(mixed.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, maps.shape[2:])
        return unit_length(maps)

    def weights(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, heads, L, L): how much each cell (row) attends to each other one;
        rows sum to 1. Not for kind "none"."""
        query, key, _, scale = self._query_key_value(maps)
        return (query @ key.transpose(-1, -2) * scale).softmax(-1)
