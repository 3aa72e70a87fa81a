"""The hierarchical network.

Shapes: N windows, L look-back bars, F features, P blocks of a level, S levels, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.hierarchical.config import HierarchicalConfig
from quantfleet_models.parts.network import WindowNetwork
from quantfleet_models.parts.rolling_attention import in_parts

__all__ = ["HierarchicalNetwork", "Level", "blocks"]


def blocks(x_NLF: Tensor, bars: int) -> Tensor:
    """Mean and last bar of each block of so many bars, (N, P, 2 F); the last block ends at the last bar."""
    whole = x_NLF.shape[1] // bars * bars
    parts_NPBF = x_NLF[:, -whole:].reshape(len(x_NLF), -1, bars, x_NLF.shape[2])
    return torch.cat([parts_NPBF.mean(2), parts_NPBF[:, :, -1]], dim=-1)


class Level(nn.Module):
    """One timeframe: its blocks through a GRU whose memory begins with what the coarser level saw; the coarsest's is learned."""

    def __init__(self, features: int, width: int, bars: int, *, coarsest: bool) -> None:
        super().__init__()
        self.bars = bars
        self.embed = nn.Linear(2 * features, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.told = None if coarsest else nn.Linear(width, width)
        self.first_D = nn.Parameter(torch.randn(width) * 0.02) if coarsest else None
        self.norm = nn.LayerNorm(width)

    def forward(self, x_NLF: Tensor, coarser_ND: Tensor | None) -> Tensor:
        """What the level sees, (N, D)."""
        if self.told is not None and coarser_ND is not None:
            begin = torch.tanh(self.told(coarser_ND))[None]
        else:
            assert self.first_D is not None
            begin = torch.tanh(self.first_D).expand(1, len(x_NLF), -1).contiguous()
        rows, _ = self.rnn(torch.nn.functional.gelu(self.embed(blocks(x_NLF, self.bars))), begin)
        out: Tensor = self.norm(rows[:, -1])
        return out


class HierarchicalNetwork(WindowNetwork):
    """Levels from coarse to fine, then the finest asks all of them."""

    def __init__(self, config: HierarchicalConfig, spec: DataSpec) -> None:
        super().__init__(spec, config.loss, width=config.width, dropout=config.dropout)
        D, F = config.width, spec.features
        coarse_first = config.timeframes_bars[::-1]
        self.levels = nn.ModuleList(Level(F, D, bars, coarsest=bars == coarse_first[0]) for bars in coarse_first)
        self.query, self.key_value, self.out = nn.Linear(D, D), nn.Linear(D, 2 * D), nn.Linear(D, D)
        self.attention_heads = config.attention_heads
        self.norm = nn.LayerNorm(D)

    def summary(self, x_NLF: Tensor) -> Tensor:
        seen: list[Tensor] = []
        for level in self.levels:
            seen.append(level(x_NLF, seen[-1] if seen else None))
        finest_ND, levels_NSD = seen[-1], torch.stack(seen, dim=1)
        query = in_parts(self.query(finest_ND)[:, None], self.attention_heads).transpose(1, 2)
        key, value = (
            in_parts(part, self.attention_heads).transpose(1, 2) for part in self.key_value(levels_NSD).chunk(2, -1)
        )
        read_N1D = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        out: Tensor = self.norm(finest_ND + self.out(read_N1D[:, 0]))
        return out

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        return (*self.out.parameters(), *self.norm.parameters())
