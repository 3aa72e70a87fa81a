"""Two paths over the same bars made one: each reads the other, then a gate mixes them.

Shapes: N windows, L bars, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantfleet_models.parts.rolling_attention import AttentionState, RollingAttention

__all__ = ["CrossFusion", "GatedFusion"]


class GatedFusion(nn.Module):
    """gate x first + (1 - gate) x second, feature by feature, then a norm; the gate reads both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(torch.cat([first, second], dim=-1)))
        out: Tensor = self.norm(gate * first + (1 - gate) * second)
        return out

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        return (*self.gate.parameters(), *self.norm.parameters())


class CrossFusion(nn.Module):
    """Causal cross-attention in both directions, each added to its own path, then the gated sum.

    Source: attention between two streams as in Lu et al. 2019, arXiv:1908.02265, figure 2; the gated sum is this project's choice.
    """

    def __init__(self, width: int, heads: int, *, reach_bars: int, rotary: bool, dropout: float) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.first_reads, self.second_reads = (
            RollingAttention(width, heads, reach_bars=reach_bars, rotary=rotary, dropout=dropout) for _ in range(2)
        )
        self.dropout = nn.Dropout(dropout)
        self.mix = GatedFusion(width)

    def forward(self, first_NLD: Tensor, second_NLD: Tensor, *, last: bool = False) -> Tensor:
        """(N, L, D); row t depends on rows 0..t of both. With `last` only the last row, (N, 1, D)."""
        first, second = self.first_norm(first_NLD), self.second_norm(second_NLD)
        from_second, from_first = (
            self.first_reads(first, second, last=last),
            self.second_reads(second, first, last=last),
        )
        if last:
            first_NLD, second_NLD = first_NLD[:, -1:], second_NLD[:, -1:]
        first_NLD = first_NLD + self.dropout(from_second)
        second_NLD = second_NLD + self.dropout(from_first)
        out: Tensor = self.mix(first_NLD, second_NLD)
        return out

    def begin(self, like_ND: Tensor) -> tuple[AttentionState, AttentionState]:
        return self.first_reads.begin(like_ND), self.second_reads.begin(like_ND)

    def step(
        self, first_ND: Tensor, second_ND: Tensor, state: tuple[AttentionState, AttentionState]
    ) -> tuple[Tensor, tuple[AttentionState, AttentionState]]:
        first, second = self.first_norm(first_ND), self.second_norm(second_ND)
        read_first, kept_first = self.first_reads.step(first, second, state[0])
        read_second, kept_second = self.second_reads.step(second, first, state[1])
        return self.mix(first_ND + read_first, second_ND + read_second), (kept_first, kept_second)

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        return self.mix.shared_parameters()
