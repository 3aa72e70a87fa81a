"""Attention in which a bar reads itself and the bars before it, as far back as its reach, at once or bar by bar.

Shapes: N windows, L bars, D width, Z heads, E features of a head (D = Z E), R bars of reach.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["AttentionLayer", "AttentionState", "RollingAttention", "dense_feed_forward", "in_parts", "rotate"]

_BASE = 10_000.0

AttentionState = tuple[Tensor, Tensor, Tensor]
"""Keys and values of the last R bars, (N, Z, R, E) each, the newest last, and how many there are, ()."""


def in_parts(x: Tensor, parts: int) -> Tensor:
    """Split the last axis: (..., D) to (..., parts, D / parts)."""
    return x.reshape(*x.shape[:-1], parts, x.shape[-1] // parts)


def rotate(x_NZLE: Tensor, at_L: Tensor) -> Tensor:
    """Turn pairs of features by angles that grow with the place, so that products of two rows depend on their distance only.

    Args:
        at_L: places of the rows.
    Source: Su et al. 2021, arXiv:2104.09864, eq. 34, pairs (i, i + E/2).
    """
    half = x_NZLE.shape[-1] // 2
    rate = _BASE ** (-torch.arange(half, device=x_NZLE.device, dtype=torch.float32) / half)
    angle = at_L.to(torch.float32)[:, None] * rate
    cos, sin = torch.cos(angle).to(x_NZLE.dtype), torch.sin(angle).to(x_NZLE.dtype)
    first, second = x_NZLE[..., :half], x_NZLE[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class RollingAttention(nn.Module):
    """Queries of one path read keys and values of another, or of the same one.

    Over more than R bars at once it is what a stream of them gives: each bar reads R bars, itself included.

    Args:
        rotary: places are told by `rotate`; else only what comes later is hidden.
    Source: Vaswani et al. 2017, arXiv:1706.03762; a reach: Child et al. 2019, arXiv:1904.10509.
    """

    def __init__(self, width: int, heads: int, *, reach_bars: int, rotary: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.reach_bars, self.rotary, self.drop = heads, reach_bars, rotary, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_NLD: Tensor, source_NLD: Tensor, *, last: bool = False) -> Tensor:
        """(N, L, D); row t depends on rows 0..t of both. With `last` only the last row is asked, (N, 1, D), at 1/L of the cost."""
        L = x_NLD.shape[1]
        if last:
            return self._last(x_NLD, source_NLD)
        query, (key, value) = self._split(self.query(x_NLD)), map(self._split, self.key_value(source_NLD).chunk(2, -1))
        if self.rotary:
            at_L = torch.arange(L, device=x_NLD.device)
            query, key = rotate(query, at_L), rotate(key, at_L)
        seen_LL = None
        if self.reach_bars < L:
            every = torch.ones(L, L, dtype=torch.bool, device=x_NLD.device)
            seen_LL = every.tril() & every.triu(1 - self.reach_bars)
        read = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=seen_LL,
            is_causal=seen_LL is None,
            dropout_p=self.drop if self.training else 0.0,
        )
        made: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return made

    def _last(self, x_NLD: Tensor, source_NLD: Tensor) -> Tensor:
        source_NRD = source_NLD[:, -self.reach_bars :]
        query = self._split(self.query(x_NLD[:, -1:]))
        key, value = map(self._split, self.key_value(source_NRD).chunk(2, -1))
        if self.rotary:
            at_R = torch.arange(source_NRD.shape[1], device=x_NLD.device)
            query, key = rotate(query, at_R[-1:]), rotate(key, at_R)
        drop = self.drop if self.training else 0.0
        read = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=drop)
        made: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return made

    def begin(self, like_ND: Tensor) -> AttentionState:
        """State before the first bar of N streams."""
        keys = like_ND.new_zeros(len(like_ND), self.heads, self.reach_bars, like_ND.shape[1] // self.heads)
        return keys, keys, torch.zeros((), dtype=torch.int64, device=like_ND.device)

    def step(self, x_ND: Tensor, source_ND: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """One bar of each stream. Keys are kept unturned and turned by their place in the cache, so a stream may go on for ever."""
        R = self.reach_bars
        query = self._split(self.query(x_ND)[:, None])
        key, value = map(self._split, self.key_value(source_ND)[:, None].chunk(2, -1))
        keys = torch.cat([state[0][:, :, 1:], key], dim=2)
        values = torch.cat([state[1][:, :, 1:], value], dim=2)
        count = (state[2] + 1).clamp_max(R)
        at_R = torch.arange(R, device=x_ND.device)
        turned = keys
        if self.rotary:
            query, turned = rotate(query, at_R[-1:]), rotate(keys, at_R)
        read = nn.functional.scaled_dot_product_attention(query, turned, values, attn_mask=(at_R >= R - count)[None])
        return self.out(read.transpose(1, 2).flatten(1)), (keys, values, count)

    def _split(self, x_NLD: Tensor) -> Tensor:
        return in_parts(x_NLD, self.heads).transpose(1, 2)


def dense_feed_forward(width: int, inner: int, dropout: float) -> nn.Sequential:
    """Two linear layers with a GELU between them."""
    return nn.Sequential(
        nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, width), nn.Dropout(dropout)
    )


class AttentionLayer(nn.Module):
    """A pre-norm Transformer layer on one path.

    Args:
        feed_forward: rows to rows, or to rows and what a router has to say of them (see `ExpertFeedForward`); None: a dense one of
            twice the width.
    Source: Vaswani et al. 2017, arXiv:1706.03762; norms in front: Xiong et al. 2020, arXiv:2002.04745.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        reach_bars: int,
        rotary: bool,
        dropout: float,
        feed_forward: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = RollingAttention(width, heads, reach_bars=reach_bars, rotary=rotary, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_forward = feed_forward or dense_feed_forward(width, 2 * width, dropout)

    def forward(self, x_NLD: Tensor, *, last: bool = False) -> tuple[Tensor, Tensor | None]:
        """Rows (with `last` the last one alone, (N, 1, D)), and what the router says of them; None without one."""
        normed = self.norm(x_NLD)
        read = self.attention(normed, normed, last=last)
        return self._feed((x_NLD[:, -1:] if last else x_NLD) + self.dropout(read))

    def begin(self, like_ND: Tensor) -> AttentionState:
        return self.attention.begin(like_ND)

    def step(self, x_ND: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        normed = self.norm(x_ND)
        read, state = self.attention.step(normed, normed, state)
        return self._feed(x_ND + self.dropout(read))[0], state

    def _feed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        made = self.feed_forward(self.feed_norm(x))
        fed, routed = made if isinstance(made, tuple) else (made, None)
        return x + fed, routed
