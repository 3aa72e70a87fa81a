"""The network of N-HiTS.

Shapes: N windows, L look-back bars, S steps, F channels, M = N x F series.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec
from quantfleet_models.nhits.config import NHITSConfig
from quantfleet_models.parts.network import ChannelNetwork

__all__ = ["NHITSBlock", "NHITSCore", "NHITSNetwork"]


class NHITSBlock(nn.Module):
    """Pools its series, and answers with what it explains of it and with its part of the forecast.

    Source: Challu et al. 2023, arXiv:2201.12886, equations 1 to 4: maximum pooling, MLP, linear interpolation between knots.
    """

    def __init__(
        self, *, lookback_bars: int, steps: int, pool_bars: int, downsample: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.steps, self.lookback_bars, self.pool_bars = steps, lookback_bars, pool_bars
        pooled = -(-lookback_bars // pool_bars)
        self.hidden = nn.Sequential(
            nn.Linear(pooled, width), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout),
        )  # fmt: skip
        self.out = nn.Linear(width, lookback_bars + max(steps // downsample, 1))

    def forward(self, series_ML: Tensor) -> tuple[Tensor, Tensor]:
        """Returns: what is explained of the series (M, L), and the forecast (M, S)."""
        pooled = nn.functional.max_pool1d(series_ML[:, None], self.pool_bars, self.pool_bars, ceil_mode=True)[:, 0]
        theta = self.out(self.hidden(pooled))
        knots = theta[:, None, self.lookback_bars :]
        forecast = nn.functional.interpolate(knots, size=self.steps, mode="linear")[:, 0]
        return theta[:, : self.lookback_bars], forecast


class NHITSCore(nn.Module):
    """N-HiTS as published, for every channel alone with the same weights: the last value plus all blocks' forecasts.

    Blocks read the series from its newest bar backwards, and each what the ones before it have not explained.
    """

    def __init__(
        self,
        *,
        lookback_bars: int,
        steps: int,
        pool_bars: Sequence[int] = (2, 2, 1),
        downsample: Sequence[int] = (4, 2, 1),
        width: int = 512,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            NHITSBlock(
                lookback_bars=lookback_bars, steps=steps, pool_bars=pool, downsample=down, width=width, dropout=dropout
            )
            for pool, down in zip(pool_bars, downsample, strict=True)
        )

    def forward(self, x_NLF: Tensor) -> Tensor:
        """(N, L, F) to the next S values of every channel, (N, S, F)."""
        N, L, F = x_NLF.shape
        rest_ML = x_NLF.transpose(1, 2).reshape(N * F, L).flip(1)
        parts = [rest_ML[:, :1]]
        for block in self.blocks:
            explained_ML, forecast_MS = block(rest_ML)
            rest_ML = rest_ML - explained_ML
            parts.append(forecast_MS)
        forecast = parts[0] + torch.stack(parts[1:]).sum(0)
        return forecast.reshape(N, F, -1).transpose(1, 2)


class NHITSNetwork(ChannelNetwork):
    """N-HiTS and heads."""

    def __init__(self, config: NHITSConfig, spec: DataSpec) -> None:
        core = NHITSCore(
            lookback_bars=spec.lookback_bars,
            steps=config.steps,
            pool_bars=config.pool_bars,
            downsample=config.downsample,
            width=config.width,
            dropout=config.dropout,
        )
        last = [block.get_submodule("out") for block in core.blocks]
        super().__init__(spec, config.loss, core=core, last=last, steps=config.steps)
