"""Means over several stretches of the past, added to each row: one bar sees its minute and its month at once.

Shapes: N windows, L bars, D width, S scales, R bars of the longest scale.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ScaleResiduals", "ScaleState", "causal_mean"]

ScaleState = tuple[Tensor, Tensor]
"""The last R rows (N, R, D), the newest last, and how many there are, ()."""


def causal_mean(x_NLD: Tensor, bars: int) -> Tensor:
    """Mean of the last `bars` rows, of fewer where there are not so many yet."""
    total = nn.functional.pad(x_NLD.cumsum(1), (0, 0, 1, 0))
    last = torch.arange(1, x_NLD.shape[1] + 1, device=x_NLD.device)
    first = (last - bars).clamp_min(0)
    return (total[:, last] - total[:, first]) / (last - first)[:, None]


class ScaleResiduals(nn.Module):
    """Adds a linear map of the means over each scale to the row."""

    def __init__(self, width: int, scales_bars: tuple[int, ...]) -> None:
        super().__init__()
        self.scales_bars = scales_bars
        self.mix = nn.Linear(len(scales_bars) * width, width, bias=False)

    def forward(self, x_NLD: Tensor, rows_NLD: Tensor) -> Tensor:
        """Means of `rows`, added to x."""
        means = torch.cat([causal_mean(rows_NLD, bars) for bars in self.scales_bars], dim=-1)
        out: Tensor = x_NLD + self.mix(means)
        return out

    def last(self, row_ND: Tensor, rows_NLD: Tensor) -> Tensor:
        """The last row of `forward` alone."""
        means = torch.cat([rows_NLD[:, -bars:].mean(1) for bars in self.scales_bars], dim=-1)
        out: Tensor = row_ND + self.mix(means)
        return out

    def begin(self, like_ND: Tensor) -> ScaleState:
        rows = like_ND.new_zeros(len(like_ND), max(self.scales_bars), like_ND.shape[1])
        return rows, torch.zeros((), dtype=torch.int64, device=like_ND.device)

    def step(self, x_ND: Tensor, row_ND: Tensor, state: ScaleState) -> tuple[Tensor, ScaleState]:
        rows = torch.cat([state[0][:, 1:], row_ND[:, None]], dim=1)
        count = (state[1] + 1).clamp_max(rows.shape[1])
        means = [rows[:, -bars:].sum(1) / count.clamp_max(bars) for bars in self.scales_bars]  # empty rows are 0
        out: Tensor = x_ND + self.mix(torch.cat(means, dim=-1))
        return out, (rows, count)
