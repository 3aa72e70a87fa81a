"""The network of DLinear.

Shapes: N windows, L look-back bars, S steps, F channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.dlinear.config import DLinearConfig
from quantfleet_models.parts.network import ChannelNetwork

__all__ = ["DLinearCore", "DLinearNetwork", "moving_average"]


def moving_average(x_MFL: Tensor, bars: int) -> Tensor:
    """Centred moving average over an odd number of bars; the first and the last bar are repeated at the ends."""
    half = (bars - 1) // 2
    padded = nn.functional.pad(x_MFL, (half, half), mode="replicate")
    return nn.functional.avg_pool1d(padded, bars, stride=1)


class DLinearCore(nn.Module):
    """DLinear as published: linear(moving average) + linear(rest), over time, the same for every channel.

    Source: Zeng et al. 2023, arXiv:2205.13504, section 4.
    """

    def __init__(self, *, lookback_bars: int, steps: int, average_bars: int = 25) -> None:
        super().__init__()
        self.average_bars = average_bars
        self.trend = nn.Linear(lookback_bars, steps)
        self.rest = nn.Linear(lookback_bars, steps)

    def forward(self, x_NLF: Tensor) -> Tensor:
        """(N, L, F) to the next S values of every channel, (N, S, F)."""
        x_NFL = x_NLF.transpose(1, 2)
        trend_NFL = moving_average(x_NFL, self.average_bars)
        forecast_NFS: Tensor = self.trend(trend_NFL) + self.rest(x_NFL - trend_NFL)
        return forecast_NFS.transpose(1, 2)


class DLinearNetwork(ChannelNetwork):
    """DLinear and heads: linear in the window from end to end."""

    def __init__(self, config: DLinearConfig, spec: DataSpec) -> None:
        core = DLinearCore(lookback_bars=spec.lookback_bars, steps=config.steps, average_bars=config.average_bars)
        super().__init__(spec, config.loss, core=core, last=(core.trend, core.rest), steps=config.steps)
